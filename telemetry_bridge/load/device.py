"""One simulated device: which message it sends next, and what it still waits for. No socket, no clock."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from telemetry_contract.codec import encode
from telemetry_contract.payload import VERSION, Backlog, Tick
from telemetry_contract.topics import Kind, Topic

# Devices send larger messages compressed (edge_agent.messages); live ones of usual size are not.
_COMPRESS_ABOVE_BYTES = 8_192
_SERIES_KINDS = 3


@dataclass(frozen=True)
class Profile:
    """What each device sends.

    `series` values a tick, a tick each `interval_seconds`; before that `backlog_ticks` that an outage left, in messages
    of `ticks_per_message`, of which up to `window` are on their way. What is not confirmed after
    `confirm_timeout_seconds` is sent again.
    """

    series: int
    interval_seconds: float
    backlog_ticks: int = 0
    ticks_per_message: int = 1_000
    window: int = 8
    confirm_timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be published. `ticks` says how many it holds, `first` and `last` which."""

    topic: str
    payload: bytes
    content_type: str
    ticks: int
    first: int
    last: int


@dataclass(slots=True)
class _Unconfirmed:
    message: Outgoing
    due: float  # when it was due: for a live tick the time it was taken
    sent: float
    live: bool


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What a commit ack said for the first time: how many ticks, and since when each live one of them was due."""

    ticks: int
    live_due: list[float]


class LoadDevice:
    """Sends live ticks on time and drains its backlog behind them.

    Times are seconds of a monotonic clock. `phase` (0 to 1) spreads the devices over their interval. Nothing is due
    before `begin`.
    """

    def __init__(self, site: str, name: str, stream: UUID, profile: Profile, *, phase: float) -> None:
        self.name = name
        self.stream = stream
        self.ack_topic = str(Topic(site, name, Kind.ACK))
        self._live_topic = str(Topic(site, name, Kind.SAMPLES))
        self._backlog_topic = str(Topic(site, name, Kind.BACKLOG))
        self._profile = profile
        self._epoch_ms = 0
        self._began = 0.0
        self._phase = phase
        self._keys = series_keys(profile.series)
        self._next_backlog = 1
        self._next_live = profile.backlog_ticks + 1
        self._live_due = float("inf")
        self._unconfirmed: dict[int, _Unconfirmed] = {}  # by the first of its ticks
        self.connected = False

    def begin(self, now: float, epoch_ms: int) -> None:
        """From now on it measures; `now` is `epoch_ms` milliseconds since 1970. Its backlog lies directly before."""
        self._began, self._epoch_ms = now, epoch_ms
        self._live_due = now + self._phase * self._profile.interval_seconds

    @property
    def live_due(self) -> float:
        """When the next live tick is due."""
        return self._live_due

    @property
    def unconfirmed_ticks(self) -> int:
        """How many ticks were sent and are not confirmed."""
        return sum(each.message.ticks for each in self._unconfirmed.values())

    @property
    def backlog_left(self) -> int:
        """How many ticks of the backlog were not sent yet."""
        return self._profile.backlog_ticks - self._next_backlog + 1

    def overdue(self, now: float) -> list[Outgoing]:
        """What is to be sent again, as nobody confirmed it."""
        again = []
        for each in self._unconfirmed.values():
            if now - each.sent >= self._profile.confirm_timeout_seconds:
                each.sent = now
                again.append(each.message)
        return again

    @property
    def may_send_backlog(self) -> bool:
        """Whether there is more, and room for it in the window."""
        behind = sum(not each.live for each in self._unconfirmed.values())
        return self.backlog_left > 0 and behind < self._profile.window

    def committed(self, ranges: Iterable[tuple[int, int]]) -> Confirmed:
        """Takes in the ranges of a commit ack for its stream."""
        covered = list(ranges)
        done = [
            first
            for first, each in self._unconfirmed.items()
            if any(low <= first and each.message.last <= high for low, high in covered)
        ]
        confirmed = [self._unconfirmed.pop(first) for first in done]
        return Confirmed(
            ticks=sum(each.message.ticks for each in confirmed),
            live_due=[each.due for each in confirmed if each.live],
        )

    def live(self, now: float) -> Outgoing:
        """The next live tick, which is due."""
        seq, due = self._next_live, self._live_due
        self._next_live += 1
        self._live_due += self._profile.interval_seconds
        t_ms = self._epoch_ms + round((due - self._began) * 1000)
        values: dict[str, float | None] = {key: _value(i, seq) for i, key in enumerate(self._keys)}
        encoded = encode(
            Tick(v=VERSION, stream=self.stream, seq=seq, low=self._low(seq), t=t_ms, values=values),
            compress_above=_COMPRESS_ABOVE_BYTES,
        )
        message = Outgoing(self._live_topic, encoded.payload, encoded.content_type, 1, seq, seq)
        self._unconfirmed[seq] = _Unconfirmed(message, due, now, live=True)
        return message

    def backlog(self, now: float) -> Outgoing:
        """The next message of the backlog, of which there is some left."""
        first = self._next_backlog
        last = min(first + self._profile.ticks_per_message - 1, self._profile.backlog_ticks)
        self._next_backlog = last + 1
        seqs = list(range(first, last + 1))
        interval_ms = round(self._profile.interval_seconds * 1000)
        newest = self._profile.backlog_ticks
        values: dict[str, list[float | None]] = {
            key: [_value(i, seq) for seq in seqs] for i, key in enumerate(self._keys)
        }
        encoded = encode(
            Backlog(
                v=VERSION,
                stream=self.stream,
                low=self._low(first),
                seq=seqs,
                t=[self._epoch_ms - (newest + 1 - seq) * interval_ms for seq in seqs],
                values=values,
            ),
            compress_above=_COMPRESS_ABOVE_BYTES,
        )
        message = Outgoing(self._backlog_topic, encoded.payload, encoded.content_type, len(seqs), first, last)
        self._unconfirmed[first] = _Unconfirmed(message, now, now, live=False)
        return message

    def _low(self, seq: int) -> int:
        """The lowest number that it still holds, if `seq` is the next that it sends."""
        candidates = [seq, *self._unconfirmed]
        if self.backlog_left:
            candidates.append(self._next_backlog)
        return min(candidates)


def series_keys(count: int) -> tuple[str, ...]:
    """So many keys of the kind that a host has: usage, rising counters and sizes, sorted as an agent sends them."""
    kinds = (
        lambda n: f'cpu_core_usage_percent{{core="{n}"}}',
        lambda n: f'disk_used_bytes{{mount="/data/{n}"}}',
        lambda n: f'network_receive_bytes_total{{device="eth{n}"}}',
    )
    return tuple(sorted(kinds[n % _SERIES_KINDS](n // _SERIES_KINDS) for n in range(count)))


def _value(series: int, seq: int) -> float:
    """Something that changes as such a value does, and differently for each series."""
    kind = series % _SERIES_KINDS
    if kind == 0:
        return (seq * 37 + series * 101) % 1_000 / 10
    return float(91_234_567_890 + seq * 4_096 if kind == 1 else seq * (1_000 + series))
