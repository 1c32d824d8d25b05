"""When readings were taken: their own time where that can be believed, the true one once it is known."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from edge_agent import machine_clock
from edge_agent.clock import EARLIEST_MS, Boot, Estimate, Moment, Source, Timekeeper, stamps
from edge_agent.reading import Reading

# The true time, and whether it is that, of a reading of a boot.
TimeOf = Callable[[str, Moment], tuple[int, bool]]

_TOLD: Final = {Source.SYSTEM: "the system", Source.CLOUD: "the cloud"}

_NS_PER_SECOND: Final = 1_000_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClockReport:
    """What is known of the time. `source` says by whom, `ahead_of_cloud_ms` how far that is ahead of the cloud's."""

    known: bool
    source: str
    ahead_of_cloud_ms: int | None = None


class Timestamps(Protocol):
    """Gives readings their times. For one thread.

    With `doubting` it has to be told after a restart how late it was.
    """

    doubting: bool

    @property
    def settled(self) -> bool:
        """Whether readings need not wait: the time is known, or is not waited for any more."""
        ...

    def stamped(self, reading: Reading) -> Reading | None:
        """A reading that has just been taken, with its time; None: it must wait until that is known."""
        ...

    def times(self, boots: Sequence[Boot]) -> TimeOf:
        """How the readings of these boots that wait get their time, once it is settled."""
        ...

    def now_ms(self) -> int | None:
        """What time it is; None while that is not known."""
        ...

    def connected(self, now: float) -> None:
        """The link is up, so that the cloud can tell the time; `now` are the seconds of a clock that is never set."""
        ...

    def disconnected(self) -> None:
        """The link is down."""
        ...

    def look(self, now: float) -> None:
        """Look at the clocks; to be called every now and then."""
        ...

    def server_said(self, server_ms: int) -> None:
        """The cloud's time has arrived just now."""
        ...

    def report(self) -> ClockReport:
        """What is known."""
        ...


class Clock(Protocol):
    """The clocks of a machine."""

    def now(self) -> Moment:
        """What they show."""
        ...

    def synchronised(self) -> bool | None:
        """Whether the kernel believes the wall clock; None: it can't say."""
        ...

    def kept_while_off(self) -> bool:
        """Whether a clock goes on while the machine is off, so that the wall clock starts with about the true time."""
        ...


class Trusting:
    """The wall clock is always right."""

    doubting = False
    settled = True

    def stamped(self, reading: Reading) -> Reading | None:
        """The reading as it is."""
        return reading

    def times(self, boots: Sequence[Boot]) -> TimeOf:  # noqa: ARG002 - as the protocol has it
        """What waited before the clock was trusted keeps the time that it came with."""
        return lambda _, moment: (moment.wall_ms, True)

    def now_ms(self) -> int | None:
        """The wall clock."""
        return machine_clock.now().wall_ms

    def connected(self, now: float) -> None:
        """Changes nothing."""

    def disconnected(self) -> None:
        """Changes nothing."""

    def look(self, now: float) -> None:
        """Nothing to see."""

    def server_said(self, server_ms: int) -> None:
        """Nothing to learn."""

    def report(self) -> ClockReport:
        """Nobody doubts it."""
        return ClockReport(known=True, source="trusted")


class Doubting:
    """Readings wait until the kernel or the cloud says what time it is, see `clock`.

    Where nobody does for `max_wait_seconds` after the link came up, they get an estimate. No reading of this boot was
    taken before `newest_ms`.

    A kernel that says "not synchronised" is the rule where nothing tells it: in virtual machines and containers, and
    with some time services. So it counts only while something else speaks against the wall clock, too: it shows less
    than `newest_ms`, or the machine has no clock that goes on while it is off and was started less than
    `max_wait_seconds` ago.
    """

    doubting = True

    def __init__(self, boot: str, *, max_wait_seconds: float, newest_ms: int, clock: Clock = machine_clock) -> None:
        self._boot = boot
        self._max_wait_seconds = max_wait_seconds
        self._newest_ms = max(newest_ms, EARLIEST_MS)
        self._clock = clock
        self._kept_while_off = clock.kept_while_off()
        self._keeper = Timekeeper()
        self._connected_at: float | None = None
        self._gave_up = max_wait_seconds == 0
        self._guess: Estimate | None = None
        self._told = Source.NOBODY
        self._told_of_waiting = False
        self._observe()

    @property
    def settled(self) -> bool:
        """Whether the time is known, or not waited for any more."""
        return self._keeper.known or self._gave_up

    def stamped(self, reading: Reading) -> Reading | None:
        """With the true time; without `synchronised` where that is not waited for any more."""
        self._observe()
        moment = Moment(reading.t_ms, reading.monotonic_ns)
        true_ms = self._keeper.corrected(moment)
        if true_ms is not None:
            return reading if true_ms == reading.t_ms else replace(reading, t_ms=true_ms)
        if self._gave_up:
            return replace(reading, t_ms=self._guessed(moment), synchronised=False)
        if not self._told_of_waiting:
            self._told_of_waiting = True
            log.warning("the clock is not synchronised: readings wait until the time is known")
        return None

    def times(self, boots: Sequence[Boot]) -> TimeOf:
        """The true time for readings of this boot once it is known, and else an estimate between their neighbours."""
        found = stamps(boots, present=self._boot, keeper=self._keeper, newest_ms=self._newest_ms)
        present = next((boot for boot in boots if boot.name == self._boot), None)
        if self._guess is None and present is not None:
            self._guess = Estimate.between(present.first, present.last, low_ms=self._newest_ms, high_ms=None)

        def time_of(boot: str, moment: Moment) -> tuple[int, bool]:
            stamp = found[boot]
            return stamp.time_ms(moment), stamp.known

        return time_of

    def now_ms(self) -> int | None:
        """By whoever knows it."""
        return self._keeper.time_ms(self._clock.now().boot_ns)

    def connected(self, now: float) -> None:
        """From now on the cloud can tell the time."""
        self._connected_at = now

    def disconnected(self) -> None:
        """Without the link nothing is lost by waiting."""
        self._connected_at = None
        self._gave_up = self._max_wait_seconds == 0

    def look(self, now: float) -> None:
        """Look at the clocks, and whether to wait on."""
        self._observe()
        if self.settled or self._connected_at is None or now - self._connected_at < self._max_wait_seconds:
            return
        self._gave_up = True
        log.warning("nobody says what time it is: readings are sent with the time of this machine, and say so")

    def server_said(self, server_ms: int) -> None:
        """Believed where the kernel does not say that it is synchronised."""
        self._keeper.server_said(server_ms, self._clock.now())
        self._tell()

    def report(self) -> ClockReport:
        """Also how far it is from the cloud's time."""
        return ClockReport(self._keeper.known, self._keeper.source.value, self._keeper.ahead_of_cloud_ms)

    def _observe(self) -> None:
        now = self._clock.now()
        said = self._clock.synchronised()
        if said is False and not self._is_doubtful(now):
            said = None
        self._keeper.observe(now, synchronised=said)
        self._tell()

    def _is_doubtful(self, now: Moment) -> bool:
        """Whether more speaks against the wall clock than the kernel."""
        started_lately = now.boot_ns < self._max_wait_seconds * _NS_PER_SECOND
        return now.wall_ms < self._newest_ms or (started_lately and not self._kept_while_off)

    def _guessed(self, moment: Moment) -> int:
        if self._guess is None:
            self._guess = Estimate.between(moment, moment, low_ms=self._newest_ms, high_ms=None)
        return moment.wall_ms if moment.wall_ms >= self._guess.low_ms else self._guess.time_ms(moment.boot_ns)

    def _tell(self) -> None:
        source = self._keeper.source
        if source is not self._told:
            if self._told_of_waiting or self._told is not Source.NOBODY:
                log.info("the time is known from %s", _TOLD[source])
            self._told, self._told_of_waiting = source, False
