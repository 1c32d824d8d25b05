"""When collectors run, and how their values become ticks.

Each group has a thread that wakes on a fixed grid of the monotonic clock: the grid does not drift with the time that
measuring takes, and ticks that were missed (a suspended machine, a slow sink) are skipped, never made up for in a
bunch. Collectors are called in other threads, so that one that hangs costs its own values and nothing else.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from edge_agent import machine_clock
from edge_agent.collectors.base import Closeable, Collector, Group
from edge_agent.errors import CollectorError
from edge_agent.hands import Hands
from edge_agent.reading import Reading
from edge_agent.statistics import CollectorCounts, Statistics
from edge_agent.worker import Outcome

logger = logging.getLogger(__name__)

Values = dict[str, float | None]

_NS = 1_000_000_000
# So long a collector may hold up the next one of its group, unless the group has less time.
_PATIENCE_SECONDS = 0.05


class Clock(Protocol):
    """The time, and waiting for it; a test brings its own."""

    def time_ns(self) -> int:
        """Nanoseconds since the epoch, UTC, as far as this machine knows."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds of a clock that is never set."""
        ...

    def boot_ns(self) -> int:
        """The same of one that counts time asleep too, where there is one."""
        ...

    def wait_until(self, due_ns: int, stopping: threading.Event) -> bool:
        """Wait until the monotonic clock has reached `due_ns`; False as soon as `stopping` is set."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def time_ns(self) -> int:
        """The wall clock."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """The monotonic clock."""
        return time.monotonic_ns()

    def boot_ns(self) -> int:
        """The boot clock."""
        return machine_clock.boot_ns()

    def wait_until(self, due_ns: int, stopping: threading.Event) -> bool:
        """Wait, in pieces where the system wakes the thread early."""
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            # A wait longer than a day could exceed what the platform's lock takes as a timeout.
            if stopping.wait(min(left_ns / _NS, 86_400)):
                return False
        return not stopping.is_set()


def next_due(due_ns: int, interval_ns: int, now_ns: int) -> int:
    """The first point of the grid after `due_ns` that is not past."""
    steps = -((due_ns - now_ns) // interval_ns)
    return due_ns + interval_ns * max(1, steps)


class Scheduler:
    """Runs groups of collectors and hands each tick to `sink`.

    `sink` is called from one thread a group, so from several at a time; a group's next tick waits for it. What it
    raises is logged, and that tick is gone.
    """

    def __init__(
        self,
        groups: Iterable[Group],
        sink: Callable[[Reading], None],
        statistics: Statistics,
        clock: Clock | None = None,
    ) -> None:
        self._clock: Clock = SystemClock() if clock is None else clock
        self._sink = sink
        self._statistics = statistics
        self._stopping = threading.Event()
        self._crews = [_Crew(group, statistics, self._clock) for group in groups]
        self._loops = [_Loop(crew, self._hand_over, self._clock, self._stopping) for crew in self._crews]
        self._sink_health = _Health("the outbox")

    def start(self) -> None:
        """Begin; every group makes its first tick at once. Call it once."""
        base_ns = self._clock.monotonic_ns()
        for loop in self._loops:
            loop.start(base_ns)

    def stop(self, timeout_seconds: float = 5.0) -> bool:
        """End: nothing is collected any more and programs that collectors run are killed.

        True where everything has ended within the timeout, and then `sink` is not called any more; False where a sink
        still hangs. A collector that hangs is left behind in its daemon thread.
        """
        self._stopping.set()
        for crew in self._crews:
            crew.close()
        deadline = time.monotonic() + timeout_seconds
        ended = [loop.join(max(0.0, deadline - time.monotonic())) for loop in self._loops]
        return all(ended)

    def collect_once(self) -> list[Reading]:
        """One tick of every group, all begun together, without `sink`; in place of `start`, not beside it."""
        begun = [(crew, crew.begin(at_once=True)) for crew in self._crews]
        readings = [crew.finish(start) for crew, start in begun]
        return [reading for reading in readings if reading is not None]

    def statistics(self) -> Mapping[str, CollectorCounts]:
        """How each collector has fared since the start."""
        return self._statistics.snapshot()

    def stalled(self, grace_seconds: float = 10.0) -> str | None:
        """What keeps a group from its ticks, for a watchdog and for people; None while all is well.

        A group is stalled when a tick is not done `grace_seconds` after its deadline. A collector that hangs does not
        stall its group; a sink that hangs does.
        """
        now_ns = self._clock.monotonic_ns()
        return next((what for loop in self._loops if (what := loop.stalled(now_ns, grace_seconds)) is not None), None)

    def _hand_over(self, reading: Reading) -> None:
        try:
            self._sink(reading)
        except Exception as exc:  # noqa: BLE001 - the next tick may fare better
            self._sink_health.bad(f"a tick is lost: {_described(exc)}", exc)
        else:
            self._sink_health.good()


class _Loop:
    """The thread of one group."""

    def __init__(
        self, crew: "_Crew", hand_over: Callable[[Reading], None], clock: Clock, stopping: threading.Event
    ) -> None:
        self._crew = crew
        self._hand_over = hand_over
        self._clock = clock
        self._stopping = stopping
        self._due_ns = 0  # written by the thread alone; reading an int is atomic
        self._thread = threading.Thread(target=self._run, name=f"group {crew.name}", daemon=True)

    def start(self, base_ns: int) -> None:
        self._due_ns = base_ns
        self._thread.start()

    def join(self, timeout_seconds: float) -> bool:
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def stalled(self, now_ns: int, grace_seconds: float) -> str | None:
        if self._thread.ident is None or self._stopping.is_set():
            return None
        if not self._thread.is_alive():
            return f"the thread of {self._crew.name} has ended"
        late_seconds = (now_ns - self._due_ns) / _NS
        if late_seconds > self._crew.group.deadline_seconds + grace_seconds:
            return f"the tick of {self._crew.name} is not done after {late_seconds:.0f} s"
        return None

    def _run(self) -> None:
        interval_ns = round(self._crew.group.interval_seconds * _NS)
        while self._clock.wait_until(self._due_ns, self._stopping):
            reading = self._crew.finish(self._crew.begin())
            if reading is not None:
                self._hand_over(reading)
            self._due_ns = next_due(self._due_ns, interval_ns, self._clock.monotonic_ns())


@dataclass(frozen=True)
class _Found:
    """What a collector answered: what can be sent of it, and how many entries can't."""

    values: Values
    rejected: int


@dataclass(frozen=True)
class _Start:
    """When a tick began, and what takes part in it."""

    time_ns: int
    boot_ns: int
    deadline: float  # of time.monotonic()
    asked: frozenset[str]


class _Crew:
    """The collectors of one group."""

    def __init__(self, group: Group, statistics: Statistics, clock: Clock) -> None:
        self.group = group
        self.name = ", ".join(member.name for member in group.members)
        self._statistics = statistics
        self._clock = clock
        self._closed = threading.Event()
        self._health = {member.name: _Health(f"collector {member.name}") for member in group.members}
        for name in self._health:
            statistics.register(name)
        self._hands: Hands[_Found] = Hands(
            {member.name: partial(_collect, member.collector) for member in group.members},
            name=f"collects {self.name}",
            patience_seconds=min(_PATIENCE_SECONDS, group.deadline_seconds / (2 * len(group.members))),
        )

    def begin(self, *, at_once: bool = False) -> _Start:
        """Have every collector that is free begin, one after another or all at once."""
        time_ns, boot_ns = self._clock.time_ns(), self._clock.boot_ns()
        asked = self._hands.begin(at_once=at_once)
        return _Start(time_ns, boot_ns, time.monotonic() + self.group.deadline_seconds, asked)

    def finish(self, start: _Start) -> Reading | None:
        """The values of those that are back by the deadline; None where there are none."""
        values: Values = {}
        for name, health in self._health.items():
            outcome = self._hands.outcome(name, start.deadline - time.monotonic()) if name in start.asked else None
            if self._closed.is_set():
                return None  # what `close` cut short has not failed
            self._take(outcome, name, health, values)
        if not values:
            return None
        in_order = dict(sorted(values.items()))
        return Reading(start.time_ns // 1_000_000, start.boot_ns, in_order, self.group.interval_seconds)

    def close(self) -> None:
        self._closed.set()
        self._hands.close()
        for member in self.group.members:
            if isinstance(member.collector, Closeable):
                member.collector.close()

    def _take(self, outcome: Outcome[_Found] | None, name: str, health: "_Health", values: Values) -> None:
        """Add what one collector found to the values of the tick, or note why it found nothing."""
        if outcome is None:
            self._statistics.overran(name)
            health.bad(f"is not back after {self.group.deadline_seconds:g} s and left out until it is")
            return
        found = outcome.value
        if found is None:
            self._statistics.failed(name)
            error = outcome.error
            health.bad(_described(error), None if isinstance(error, CollectorError) else error)
            return
        twice = values.keys() & found.values.keys()
        values |= {key: value for key, value in found.values.items() if key not in twice}
        if rejected := found.rejected + len(twice):
            self._statistics.rejected(name, rejected)
            health.bad(f"gave {rejected} entries that are not a key of its own with a number")
        else:
            health.good()


class _Health:
    """Logs one line when something begins to fail and one when it works again."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()  # guards _failures
        self._failures = 0

    def bad(self, why: str, unexpected: BaseException | None = None) -> None:
        """It failed; an unexpected exception is logged with where it came from."""
        with self._lock:
            self._failures += 1
            first = self._failures == 1
        if first:
            logger.warning("%s: %s", self._what, why, exc_info=unexpected)

    def good(self) -> None:
        with self._lock:
            failures, self._failures = self._failures, 0
        if failures:
            logger.info("%s: works again after %d failures", self._what, failures)


def _collect(collector: Collector) -> _Found:
    """Measure and sort out, in the collector's own thread, so that a wrong answer harms as little as an exception."""
    values: Values = {}
    rejected = 0
    answer: Mapping[Any, Any] = collector.collect()
    for key, value in answer.items():
        if not isinstance(key, str) or not isinstance(value, int | float | None):
            rejected += 1
        else:
            values[key] = None if value is None or not math.isfinite(value) else float(value)
    return _Found(values, rejected)


def _described(error: BaseException | None) -> str:
    return str(error) if isinstance(error, CollectorError) else f"{type(error).__name__}: {error}"
