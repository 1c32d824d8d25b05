"""The window: which ticks to send now, and which of the unconfirmed ones to send again.

A pure state machine. It does no I/O and has no clock; `now` is any clock's seconds that don't go back.

Two lanes share the window. The live lane sends the newest tick of each layout, newest first. The backlog lane sends
everything else from the oldest on, ticks of one layout together. Each has a part of the window that the other can't
take, so neither starves.

Confirmations move the window. A lane in which nothing is confirmed for the timeout stalls: what it had in flight is
unsent again, and it sends one message at a time, with growing pauses, until something is confirmed. So a cloud
without its database stops the flow here, where there is disk. A message that is passed over - later ones were
confirmed - is suspected: its ticks wait for a growing time and travel in smaller messages, so that what can't be
delivered never holds up what can.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MAX_LIVE_LAYOUTS: Final = 64
MAX_STALL_PAUSE_SECONDS: Final = 60.0
MAX_SUSPECT_PAUSE_SECONDS: Final = 3_600.0
MIN_ANSWER_SECONDS: Final = 60.0
_LOOKAHEAD_MESSAGES: Final = 8
_LIVE_SHARE: Final = 4  # one in so many
_NEVER: Final = float("-inf")

Range = tuple[int, int]


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
    seqs: list[int]
    size: int
    sent_at: float


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


@dataclass(frozen=True, slots=True)
class _Suspicion:
    """Shared by the ticks of a message that was passed over."""

    times: int
    until: float


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
        self._lanes = {
            Lane.LIVE: _LaneState(live, live_bytes),
            Lane.BACKLOG: _LaneState(limits.messages - live, limits.bytes - live_bytes),
        }
        self._connected = False
        self._receive_maximum = 0
        self._next_id = 1
        self._unacknowledged: dict[int, float] = {}
        self._acknowledged_at = _NEVER
        self._in_flight: set[int] = set()
        self._newest: dict[int, int] = {}  # layout -> sequence number, the latest last
        self._suspects: dict[int, _Suspicion] = {}
        self._releases: list[tuple[float, int]] = []  # when suspects are due, and the first of them
        self._cursor = 0  # below it nothing is unsent except suspects that wait

    @property
    def in_flight(self) -> int:
        """How many messages are unconfirmed."""
        return sum(len(lane.messages) for lane in self._lanes.values())

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
        self._connected = False
        self._unacknowledged.clear()
        self._acknowledged_at = _NEVER
        self._in_flight.clear()
        self._cursor = 0
        for lane in self._lanes.values():
            lane.messages.clear()
            lane.bytes = 0
            lane.stalls = 0
            lane.not_before = _NEVER

    def reset(self) -> None:
        """Forgets every sequence number: another stream begins. The connection stays."""
        connected, receive_maximum = self._connected, self._receive_maximum
        self.disconnect()
        self._connected, self._receive_maximum = connected, receive_maximum
        self._newest.clear()
        self._suspects.clear()
        self._releases.clear()

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
        if not self._open(Lane.LIVE, now):
            return None
        return next((seq for seq in reversed(self._newest.values()) if not self._taken(seq, now)), None)

    def backlog(
        self, now: float, index: Callable[[int], Iterable[tuple[int, int]]], fitting: Callable[[int], int]
    ) -> list[int]:
        """The ticks to send in one message of the backlog lane now, ascending, of one layout; empty: none.

        `index(first)` gives number and layout of each tick in the outbox from `first` on, ascending; no more of it is
        consumed than is needed. `fitting(layout)` is how many ticks of a layout fit into a message, at least 1.
        """
        if not self._open(Lane.BACKLOG, now):
            return []
        self._release_suspects(now)
        for_live = self._kept_for_live()
        limit = self._limits.ticks_per_message
        chosen: list[int] = []
        layout = suspicion = None
        scanned = 0
        for seq, its_layout in index(self._cursor):
            taken = self._taken(seq, now)
            if scanned == 0:
                self._cursor = seq + 1 if taken else seq
            if taken and scanned == 0:
                continue
            scanned += 1
            if taken or seq in for_live:
                pass
            elif not chosen:
                chosen, layout, suspicion = [seq], its_layout, self._suspects.get(seq)
                limit = min(limit, fitting(layout))
                if suspicion is not None:
                    limit = max(1, limit >> suspicion.times)
            elif its_layout == layout and self._suspects.get(seq) is suspicion:
                chosen.append(seq)
            if len(chosen) >= limit or scanned >= self._limits.ticks_per_message * _LOOKAHEAD_MESSAGES:
                break
        return chosen

    def sent(self, now: float, lane: Lane, seqs: Sequence[int], size: int) -> int:
        """A message with these ticks is on its way; its id, for what becomes of it."""
        state = self._lanes[lane]
        message_id = self.status_sent(now)
        state.messages[message_id] = _Message(lane, list(seqs), size, now)
        state.bytes += size
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
        return next(
            (state.messages[message_id].seqs for state in self._lanes.values() if message_id in state.messages), []
        )

    def refused(self, now: float, message_id: int, *, for_its_content: bool) -> None:
        """The broker did not take the message; its lane stalls. With `for_its_content` another may be taken."""
        self.acknowledged(now, message_id)
        for state in self._lanes.values():
            message = state.messages.get(message_id)
            if message is not None:
                self._unsend(message_id, message)
                if for_its_content:
                    self._suspect(now, message)
                self._stall(now, state)

    def confirmed(self, now: float, ranges: Sequence[Range], *, deleted: int) -> None:
        """What is stored for good: ascending, disjoint, inclusive ranges, of which the outbox deleted so many ticks."""
        starts = [first for first, _ in ranges]

        def covers(seq: int) -> bool:
            position = bisect_right(starts, seq)
            return position > 0 and seq <= ranges[position - 1][1]

        progress = False
        for state in self._lanes.values():
            for message_id, message in list(state.messages.items()):
                remaining = [seq for seq in message.seqs if not covers(seq)]
                if len(remaining) == len(message.seqs):
                    continue
                progress = True
                state.progress_at = now
                state.confirmed_sent_at = max(state.confirmed_sent_at, message.sent_at)
                state.stalls, state.not_before = 0, _NEVER
                self._in_flight.difference_update(message.seqs)
                self._in_flight.update(remaining)
                message.seqs = remaining
                if not remaining:
                    del state.messages[message_id]
                    state.bytes -= message.size
        if deleted and not progress:  # late news of messages that had been given up
            for state in self._lanes.values():
                state.stalls, state.not_before = 0, _NEVER
        self._newest = {layout: seq for layout, seq in self._newest.items() if not covers(seq)}
        self._suspects = {seq: it for seq, it in self._suspects.items() if not covers(seq)}

    def forget_below(self, low: int) -> None:
        """The outbox holds nothing below `low` any more."""
        self._newest = {layout: seq for layout, seq in self._newest.items() if seq >= low}
        self._suspects = {seq: it for seq, it in self._suspects.items() if seq >= low}

    def expire(self, now: float) -> None:
        """Gives up messages for which no confirmation came in time: their ticks are unsent again."""
        timeout = self._limits.confirm_timeout_seconds
        known_alive = max(state.confirmed_sent_at for state in self._lanes.values())
        for state in self._lanes.values():
            overdue = [(it, message) for it, message in state.messages.items() if now - message.sent_at >= timeout]
            for message_id, message in overdue:
                if message.sent_at < state.confirmed_sent_at:
                    self._unsend(message_id, message)
                    self._suspect(now, message)
            if not state.messages:
                continue
            waits_since = max(state.progress_at, min(message.sent_at for message in state.messages.values()))
            if now - waits_since >= timeout:
                for message_id, message in list(state.messages.items()):
                    self._unsend(message_id, message)
                    if message.sent_at < known_alive:
                        self._suspect(now, message)
                self._stall(now, state)

    def is_unanswered(self, now: float) -> bool:
        """Whether the broker has stopped to acknowledge: the connection is of no use."""
        if not self._unacknowledged:
            return False
        patience = max(MIN_ANSWER_SECONDS, self._limits.confirm_timeout_seconds)
        return now - max(self._acknowledged_at, min(self._unacknowledged.values())) >= patience

    def _open(self, lane: Lane, now: float) -> bool:
        state = self._lanes[lane]
        kept_free = min(1 if lane is Lane.LIVE else 2, self._receive_maximum - 1)  # for status and the live lane
        if not self._connected or now < state.not_before:
            return False
        if len(self._unacknowledged) + kept_free >= self._receive_maximum:
            return False
        if len(state.messages) >= (1 if state.stalls else state.max_messages):
            return False
        return not state.messages or state.bytes + self._limits.message_bytes <= state.max_bytes

    def _taken(self, seq: int, now: float) -> bool:
        """Whether a tick is on its way, or waits because it is suspected."""
        if seq in self._in_flight:
            return True
        suspicion = self._suspects.get(seq)
        return suspicion is not None and suspicion.until > now

    def _kept_for_live(self) -> set[int]:
        """The ticks that the live lane is about to send; a stalled one keeps the newest alone."""
        newest = list(self._newest.values())
        return set(newest[-1:] if self._lanes[Lane.LIVE].stalls else newest)

    def _unsend(self, message_id: int, message: _Message) -> None:
        state = self._lanes[message.lane]
        del state.messages[message_id]
        state.bytes -= message.size
        self._in_flight.difference_update(message.seqs)
        self._cursor = min(self._cursor, message.seqs[0])

    def _suspect(self, now: float, message: _Message) -> None:
        times = 1 + max((self._suspects[seq].times for seq in message.seqs if seq in self._suspects), default=0)
        longest = min(MAX_SUSPECT_PAUSE_SECONDS, self._limits.confirm_timeout_seconds * 2 ** min(times, 20))
        suspicion = _Suspicion(times, now + self._pause(longest))
        self._suspects.update((seq, suspicion) for seq in message.seqs)
        self._releases.append((suspicion.until, message.seqs[0]))

    def _release_suspects(self, now: float) -> None:
        due = [seq for until, seq in self._releases if until <= now]
        if due:
            self._cursor = min(self._cursor, *due)
            self._releases = [(until, seq) for until, seq in self._releases if until > now]

    def _stall(self, now: float, state: _LaneState) -> None:
        state.not_before = now + self._pause(min(MAX_STALL_PAUSE_SECONDS, 2.0 ** min(state.stalls, 20)))
        state.stalls += 1
