"""Processes, added up by name: those that use the most, and those that are asked for.

A name is a better series than a process id: it outlives a restart, and there are fewer of them. One look costs about
0.1 ms a process, so the collector is off by default and has an interval of its own.
"""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from edge_agent.collectors.base import series
from edge_agent.config import Processes as ProcessesConfig

# So long a name stays that was among the top, so that the set of series does not change with every look.
_STAYS_SECONDS = 600.0
# With those that stay there may be so many times the number that is asked for.
_MAX_STAYING = 2

_Identity = tuple[int, float]  # process id, which is used again, and the time it started


@dataclass
class Total:
    """What the processes of one name use together; `cpu_spent_seconds` is since the look before."""

    count: int = 0
    resident_bytes: int = 0
    cpu_seconds: float = 0.0
    cpu_spent_seconds: float = 0.0


class Processes:
    """CPU usage is measured between calls: what began and ended in between is not seen.

    `system` is psutil, or what answers like it.
    """

    def __init__(
        self, config: ProcessesConfig, *, system: Any = psutil, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._system = system
        self._monotonic = monotonic
        self._exact = [name for name in config.names if not _is_pattern(name)]
        self._patterns = [re.compile(name[1:-1]) for name in config.names if _is_pattern(name)]
        self._cpu: dict[_Identity, float] | None = None  # seconds used, by the look before
        self._looked_at = 0.0
        self._staying: dict[str, float] = {}  # when a name was last among the top

    def collect(self) -> dict[str, float | None]:
        """Usage of each name; 0 for one that is asked for, or was among the top, and has no process now."""
        now, before = self._monotonic(), self._looked_at
        is_first = self._cpu is None
        totals = self._totals()
        self._looked_at = now
        self._choose(totals, now)
        found: dict[str, float | None] = {}
        for name in sorted({*self._asked_for(totals), *self._staying}):
            total = totals.get(name, Total())
            spent = None if is_first or now <= before else 100 * total.cpu_spent_seconds / (now - before)
            found[series("process_cpu_percent", process=name)] = spent
            found[series("process_resident_memory_bytes", process=name)] = total.resident_bytes
            found[series("process_count", process=name)] = total.count
        return found

    def _totals(self) -> Mapping[str, Total]:
        totals: defaultdict[str, Total] = defaultdict(Total)
        cpu: dict[_Identity, float] = {}
        for process, name, seconds, resident_bytes in self._running():
            cpu[process] = seconds
            total = totals[name]
            total.count += 1
            total.resident_bytes += resident_bytes
            total.cpu_seconds += seconds
            if self._cpu is not None:
                # One that was not there has spent all that it used since.
                total.cpu_spent_seconds += max(0.0, seconds - self._cpu.get(process, 0.0))
        self._cpu = cpu
        return totals

    def _running(self) -> Iterator[tuple[_Identity, str, float, int]]:
        """Identity, name, CPU seconds and resident bytes of each process that may be seen."""
        for process in self._system.process_iter(["name", "create_time", "cpu_times", "memory_info"]):
            told = process.info
            # Other users' processes don't tell everything everywhere; threads of the kernel and zombies have no memory.
            if None not in told.values() and told["memory_info"].vms:
                used = told["cpu_times"].user + told["cpu_times"].system
                yield (process.pid, told["create_time"]), told["name"], used, told["memory_info"].rss

    def _choose(self, totals: Mapping[str, Total], now: float) -> None:
        """Note which names are among the top, and let go of those that have not been for long."""
        for name in _top(totals, self._config.top, self._config.by):
            self._staying[name] = now
        latest_first = sorted(self._staying, key=lambda name: (-self._staying[name], name))
        self._staying = {
            name: self._staying[name]
            for name in latest_first[: _MAX_STAYING * self._config.top]
            if now - self._staying[name] < _STAYS_SECONDS
        }

    def _asked_for(self, names: Iterable[str]) -> Iterator[str]:
        yield from self._exact
        yield from (name for name in names if any(pattern.fullmatch(name) for pattern in self._patterns))


def _top(totals: Mapping[str, Total], number: int, by: str) -> list[str]:
    """The names that use the most, without those that use nothing; before there is a span, by all they ever used."""

    def use(name: str) -> tuple[float, float]:
        total = totals[name]
        return (total.resident_bytes, 0) if by == "memory" else (total.cpu_spent_seconds, total.cpu_seconds)

    return sorted((name for name in totals if any(use(name))), key=lambda name: (*(-it for it in use(name)), name))[
        :number
    ]


def _is_pattern(name: str) -> bool:
    return len(name) > len("//") and name.startswith("/") and name.endswith("/")
