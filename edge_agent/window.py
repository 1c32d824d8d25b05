"""The window: which ticks to send now, and which of the unconfirmed ones to send again.

A pure state machine. It does no I/O and has no clock; `now` is any clock's seconds that don't go back.

Two lanes share the window. The live lane sends the newest tick of each layout, newest first. The backlog lane sends
everything else from the oldest on, ticks of one layout together. Each has a part of the window that the other can't
take, so neither starves.

Confirmations move the window. A lane in which nothing is confirmed for the timeout stalls: what it had in flight is
unsent again, and it asks with one message at a time, each time another, with growing pauses, until something is
confirmed. So a cloud without its database stops the flow here, where there is disk. A message that is passed over -
one that was sent later is confirmed - becomes a suspect (`suspects`), so that what can't be delivered never holds up
what can.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from edge_agent.suspects import Suspects

MAX_LIVE_LAYOUTS: Final = 64
MAX_STALL_PAUSE_SECONDS: Final = 60.0
MIN_ANSWER_SECONDS: Final = 60.0
_LOOKAHEAD_MESSAGES: Final = 8
# One of so many messages is kept for the live lane, and one of so many of the backlog lane's may be on trial.
_LIVE_SHARE: Final = 4
_SUSPECT_SHARE: Final = 4
_NEVER: Final = float("-inf")

Range = tuple[int, int]
Index = Callable[[int], Iterable[tuple[int, int]]]


class Lane(StrEnum):
    """Which of the two a message travels on."""

    LIVE = "live"
    BACKLOG = "backlog"


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of the window.

    `messages` (at least 2) and `bytes` bound what is unconfirmed; a message larger than its lane's share of `bytes`
    goes alone. No message is larger than `message_bytes`, unless a single tick is.
    """

    messages: int
    bytes: int
    ticks_per_message: int
    message_bytes: int
    confirm_timeout_seconds: float


@dataclass(slots=True)
class _Message:
    lane: Lane
    seqs: list[int]  # those that are unconfirmed, ascending
    size: int
    sent_at: float
    suspected: int  # how often these ticks were, before


@dataclass(slots=True)
class _LaneState:
    max_messages: int
    max_bytes: int
    messages: dict[int, _Message] = field(default_factory=dict)
    bytes: int = 0
    progress_at: float = _NEVER
    confirmed_sent_at: float = _NEVER  # when the latest of its confirmed messages had been sent
    stalls: int = 0  # since the last confirmation
    not_before: float = _NEVER


def full_jitter(high: float) -> float:
    """A random pause of at most `high` seconds, so that many devices never retry together."""
    return random.uniform(0.0, high)  # noqa: S311 - spreads load, guards nothing


class Window:
    """What is in flight, and what comes next."""

    def __init__(self, limits: Limits, pause: Callable[[float], float] = full_jitter) -> None:
        live = max(1, limits.messages // _LIVE_SHARE)
        live_bytes = limits.bytes // _LIVE_SHARE
        self._limits = limits
        self._pause = pause
        self._live = _LaneState(live, live_bytes)
        self._backlog = _LaneState(limits.messages - live, limits.bytes - live_bytes)
        self._lanes = {Lane.LIVE: self._live, Lane.BACKLOG: self._backlog}
        self._connected = False
        self._receive_maximum = 0
        self._next_id = 1
        self._unacknowledged: dict[int, float] = {}
        self._acknowledged_at = _NEVER
        self._progress_at = _NEVER
        self._in_flight: set[int] = set()
        self._newest: dict[int, int] = {}  # layout -> sequence number, the latest last
        self._suspects = Suspects(limits.confirm_timeout_seconds, pause)
        self._given_up: list[_Message] = []  # unconfirmed in vain; suspects once a later message is confirmed
        # Below it nothing is unsent but suspects and, while the backlog lane is stalled, what it has tried.
        self._cursor = 0

    @property
    def in_flight(self) -> int:
        """How many messages are unconfirmed."""
        return sum(len(lane.messages) for lane in self._lanes.values())

    @property
    def at_rest(self) -> bool:
        """Whether nothing is on its way, status messages included."""
        return not self._unacknowledged and not self.in_flight

    @property
    def unconfirmed(self) -> Container[int]:
        """The ticks that are on their way, as they change."""
        return self._in_flight

    @property
    def stalled(self) -> bool:
        """Whether a lane waits for a sign of life."""
        return any(lane.stalls for lane in self._lanes.values())

    def connect(self, receive_maximum: int) -> None:
        """The link is up; everything unconfirmed is unsent again. The broker takes so many unacknowledged messages."""
        self.disconnect()
        self._connected = True
        self._receive_maximum = receive_maximum

    def disconnect(self) -> None:
        """The link is down."""
        for lane in self._lanes.values():
            for message_id in list(lane.messages):
                self._unsend(lane, message_id)
            lane.stalls, lane.not_before = 0, _NEVER
        self._connected = False
        self._unacknowledged.clear()
        self._acknowledged_at = _NEVER
        self._given_up.clear()
        self._cursor = 0

    def reset(self) -> None:
        """Forgets every sequence number: another stream begins. The connection stays."""
        connected, unacknowledged = self._connected, dict(self._unacknowledged)
        self.disconnect()
        self._connected, self._unacknowledged = connected, unacknowledged
        self._newest.clear()
        self._suspects.clear()

    def appended(self, seq: int, layout: int) -> None:
        """A tick with a number higher than all before is in the outbox."""
        superseded = self._newest.pop(layout, None)
        self._newest[layout] = seq
        if len(self._newest) > MAX_LIVE_LAYOUTS:
            superseded = self._newest.pop(next(iter(self._newest)))
        if superseded is not None:
            self._cursor = min(self._cursor, superseded)

    def live(self, now: float) -> int | None:
        """The tick to send on the live lane now."""
        if not self._is_open(Lane.LIVE, now):
            return None
        return next((seq for seq in reversed(self._newest.values()) if not self._is_taken(seq)), None)

    def backlog(self, now: float, index: Index, fitting: Callable[[int], int]) -> list[int]:
        """The ticks to send in one message of the backlog lane now, ascending, of one layout; empty: none.

        `index(first)` gives number and layout of each tick in the outbox from `first` on, ascending; no more of it is
        consumed than is needed. `fitting(layout)` is how many ticks of a layout fit into a message, at least 1.
        """
        if not self._is_open(Lane.BACKLOG, now):
            return []
        lane = self._backlog
        suspects = self._suspects.due(now, self._limits.ticks_per_message)
        on_trial = sum(message.suspected > 0 for message in lane.messages.values())
        if suspects and not lane.stalls and on_trial < max(1, lane.max_messages // _SUSPECT_SHARE):
            return suspects
        chosen = self._choose(index, fitting)
        if lane.stalls and not chosen:
            self._cursor = 0
            return suspects
        return chosen

    def sent(self, now: float, lane: Lane, seqs: Sequence[int], size: int) -> int:
        """A message with these ticks is on its way; its id, for what becomes of it."""
        message_id = self.status_sent(now)
        message = _Message(lane, list(seqs), size, now, self._suspects.take(seqs))
        self._lanes[lane].messages[message_id] = message
        self._lanes[lane].bytes += size
        self._in_flight.update(seqs)
        return message_id

    def room_for_status(self) -> bool:
        """Whether the broker takes one more unacknowledged message; the lanes leave room for this one."""
        return self._connected and len(self._unacknowledged) < self._receive_maximum

    def status_sent(self, now: float) -> int:
        """A message that holds no ticks is on its way; its id."""
        message_id = self._next_id
        self._next_id += 1
        self._unacknowledged[message_id] = now
        return message_id

    def acknowledged(self, now: float, message_id: int) -> list[int]:
        """The broker has the message; its ticks that are unconfirmed. Confirms nothing."""
        if self._unacknowledged.pop(message_id, None) is not None:
            self._acknowledged_at = now
        for lane in self._lanes.values():
            if message_id in lane.messages:
                return lane.messages[message_id].seqs
        return []

    def refused(self, now: float, message_id: int, *, for_its_content: bool) -> None:
        """The broker did not take the message; its lane stalls. With `for_its_content` another may be taken."""
        self.acknowledged(now, message_id)
        for lane in self._lanes.values():
            if message_id in lane.messages:
                self._unsend(lane, message_id, suspect_at=now if for_its_content else None)
                self._stall(now, lane)

    def confirmed(self, now: float, ranges: Sequence[Range], *, deleted: int) -> None:
        """What is stored for good: ascending, disjoint, inclusive ranges, of which the outbox deleted so many ticks."""
        starts = [first for first, _ in ranges]

        def covers(seq: int) -> bool:
            position = bisect_right(starts, seq)
            return position > 0 and seq <= ranges[position - 1][1]

        latest = _NEVER
        for lane in self._lanes.values():
            sent_at = self._confirm_in_lane(lane, covers)
            latest = max(latest, sent_at)
            if sent_at > _NEVER:
                lane.progress_at = self._progress_at = now
                lane.confirmed_sent_at = max(lane.confirmed_sent_at, sent_at)
                self._resume(lane)
        if deleted and latest == _NEVER:  # late news of messages that had been given up
            for lane in self._lanes.values():
                self._resume(lane)
        self.forget(seq for seq in (*self._newest.values(), *self._suspects) if covers(seq))
        for message in self._given_up:
            message.seqs = [seq for seq in message.seqs if not covers(seq) and not self._is_taken(seq)]
            if message.sent_at < latest and message.seqs:
                self._suspects.add(now, message.seqs, 1)
                message.seqs = []
        self._given_up = [message for message in self._given_up if message.seqs]

    def forget(self, seqs: Iterable[int]) -> None:
        """The outbox does not hold these ticks any more."""
        gone = set(seqs)
        self._newest = {layout: seq for layout, seq in self._newest.items() if seq not in gone}
        self._suspects.remove(gone)

    def forget_below(self, low: int) -> None:
        """The outbox holds nothing below `low` any more."""
        self.forget(seq for seq in (*self._newest.values(), *self._suspects) if seq < low)

    def expire(self, now: float) -> None:
        """Gives up messages for which no confirmation came in time: their ticks are unsent again."""
        timeout = self._limits.confirm_timeout_seconds
        for lane in self._lanes.values():
            for message_id, message in list(lane.messages.items()):
                if now - message.sent_at >= timeout and message.sent_at < lane.confirmed_sent_at:
                    self._unsend(lane, message_id, suspect_at=now)
            if not lane.messages:
                continue
            waits = now - max(lane.progress_at, min(message.sent_at for message in lane.messages.values()))
            # While the other lane moves, this one may only be slow: it is given the double.
            if waits >= 2 * timeout or (waits >= timeout and now - self._progress_at >= timeout):
                self._give_up(now, lane)

    def is_unanswered(self, now: float) -> bool:
        """Whether the broker has stopped to acknowledge: the connection is of no use."""
        if not self._unacknowledged:
            return False
        patience = max(MIN_ANSWER_SECONDS, self._limits.confirm_timeout_seconds)
        return now - max(self._acknowledged_at, min(self._unacknowledged.values())) >= patience

    def _is_open(self, which: Lane, now: float) -> bool:
        lane = self._lanes[which]
        kept_free = min(1 if which is Lane.LIVE else 2, self._receive_maximum - 1)  # for status and the live lane
        if not self._connected or now < lane.not_before:
            return False
        if len(self._unacknowledged) + kept_free >= self._receive_maximum:
            return False
        return self._has_room(lane)

    def _is_taken(self, seq: int) -> bool:
        """Whether a tick is on its way, or a suspect."""
        return seq in self._in_flight or seq in self._suspects

    def _choose(self, index: Index, fitting: Callable[[int], int]) -> list[int]:
        """The next ticks of one layout from the cursor on, which moves up to the first that is not taken."""
        for_live = self._kept_for_live()
        limit = self._limits.ticks_per_message
        lookahead = limit * _LOOKAHEAD_MESSAGES
        chosen: list[int] = []
        layout = None
        scanned = 0
        for seq, its_layout in index(self._cursor):
            taken = self._is_taken(seq)
            if scanned == 0:
                self._cursor = seq + 1 if taken else seq
            if not taken or scanned:
                scanned += 1
            if taken or seq in for_live:
                continue
            if not chosen:
                chosen, layout = [seq], its_layout
                limit = max(1, min(limit, fitting(layout)))
            elif its_layout == layout:
                chosen.append(seq)
            if len(chosen) == limit or scanned >= lookahead:
                break
        return chosen

    def _kept_for_live(self) -> set[int]:
        """The ticks that the live lane is about to send: none while it is full, the newest while it is stalled."""
        newest = list(self._newest.values())
        if self._live.stalls:
            return set(newest[-1:])
        return set(newest) if self._has_room(self._live) else set()

    def _has_room(self, lane: _LaneState) -> bool:
        if len(lane.messages) >= (1 if lane.stalls else lane.max_messages):
            return False
        return not lane.messages or lane.bytes + self._limits.message_bytes <= lane.max_bytes

    def _confirm_in_lane(self, lane: _LaneState, covers: Callable[[int], bool]) -> float:
        """When the latest message that is confirmed, be it in part, had been sent."""
        latest = _NEVER
        for message_id, message in list(lane.messages.items()):
            confirmed = [seq for seq in message.seqs if covers(seq)]
            if confirmed:
                latest = max(latest, message.sent_at)
                self._in_flight.difference_update(confirmed)
                message.seqs = [seq for seq in message.seqs if seq in self._in_flight]
            if not message.seqs:
                del lane.messages[message_id]
                lane.bytes -= message.size
        return latest

    def _unsend(self, lane: _LaneState, message_id: int, *, suspect_at: float | None = None) -> _Message:
        """The ticks of a message in flight are unsent again; with `suspect_at` (now) they are suspects."""
        message = lane.messages.pop(message_id)
        lane.bytes -= message.size
        self._in_flight.difference_update(message.seqs)
        if suspect_at is not None:
            self._suspects.add(suspect_at, message.seqs, message.suspected + 1)
        elif message.suspected:
            self._suspects.put_back(message.seqs, message.suspected)
        else:
            self._cursor = min(self._cursor, message.seqs[0])
        return message

    def _give_up(self, now: float, lane: _LaneState) -> None:
        """Nothing of a lane was confirmed for too long."""
        last = max(message.seqs[-1] for message in lane.messages.values())
        known_alive = max(it.confirmed_sent_at for it in self._lanes.values())
        for message_id, message in list(lane.messages.items()):
            passed_over = message.sent_at < known_alive
            self._unsend(lane, message_id, suspect_at=now if passed_over else None)
            if not passed_over and not message.suspected:
                self._given_up.append(message)
        del self._given_up[: -2 * self._limits.messages]
        if lane is self._backlog:
            # Ask with another one next, further and further away: the cause may be the ticks, not the cloud.
            self._cursor = last + 1 + self._limits.ticks_per_message * (2 ** min(lane.stalls, 20) - 1)
        self._stall(now, lane)

    def _stall(self, now: float, lane: _LaneState) -> None:
        lane.not_before = now + self._pause(min(MAX_STALL_PAUSE_SECONDS, 2.0 ** min(lane.stalls, 20)))
        lane.stalls += 1

    def _resume(self, lane: _LaneState) -> None:
        if lane.stalls:
            lane.stalls, lane.not_before = 0, _NEVER
            self._cursor = 0
