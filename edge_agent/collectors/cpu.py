"""Processor: usage, time by mode, load, frequency."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from edge_agent.collectors.base import series

# Usage over a shorter span is noise: the kernel counts in ticks of up to 10 ms.
_MIN_SPAN_SECONDS = 0.04
# The kernel counts the time of guests in `user` and `nice` as well (proc(5), /proc/stat).
_COUNTED_TWICE = frozenset({"guest", "guest_nice"})
_IDLE = frozenset({"idle", "iowait"})


class Cpu:
    """Usage is measured between calls, so a first call that follows too soon has none yet.

    `system` is psutil, or what answers like it.
    """

    def __init__(
        self, *, per_core: bool, system: Any = psutil, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_core = per_core
        self._system = system
        self._monotonic = monotonic
        self._times: list[Mapping[str, float]] = self._core_times()
        self._measured_at = monotonic()

    def collect(self) -> dict[str, float | None]:
        """All of it."""
        found: dict[str, float | None] = {}
        self._usage(found)
        for mode in self._times[0]:
            found[series("cpu_seconds_total", mode=mode)] = sum(core[mode] for core in self._times)
        found["cpu_cores"] = len(self._times)
        load = self._system.getloadavg()
        for minutes, value in zip((1, 5, 15), load, strict=True):
            found[series("cpu_load_average", minutes=str(minutes))] = value
        counts = self._system.cpu_stats()
        found["cpu_context_switches_total"] = counts.ctx_switches
        found["cpu_interrupts_total"] = counts.interrupts
        if (frequency := self._frequency_hertz()) is not None:
            found["cpu_frequency_hertz"] = frequency
        return found

    def _usage(self, found: dict[str, float | None]) -> None:
        now, before = self._core_times(), self._times
        measured_at = self._monotonic()
        # Cores that come and go can't be told apart by their place in the list.
        usable = measured_at - self._measured_at >= _MIN_SPAN_SECONDS and len(now) == len(before)
        spent = [_spent(a, b) for a, b in zip(before, now, strict=True)] if usable else [(0.0, 0.0)] * len(now)
        found["cpu_usage_percent"] = _percent(sum(busy for busy, _ in spent), sum(total for _, total in spent))
        if self._per_core:
            for core, (busy, total) in enumerate(spent):
                found[series("cpu_core_usage_percent", core=str(core))] = _percent(busy, total)
        if usable or len(now) != len(before):
            self._times, self._measured_at = now, measured_at

    def _core_times(self) -> list[Mapping[str, float]]:
        cores = self._system.cpu_times(percpu=True)
        return [
            {mode: seconds for mode, seconds in core._asdict().items() if mode not in _COUNTED_TWICE} for core in cores
        ]

    def _frequency_hertz(self) -> float | None:
        try:
            frequency = self._system.cpu_freq()
        except (AttributeError, NotImplementedError, OSError):  # many virtual and some small machines don't tell
            return None
        return frequency.current * 1e6 if frequency else None


def _spent(before: Mapping[str, float], now: Mapping[str, float]) -> tuple[float, float]:
    """Busy and whole seconds between two readings of a core. The kernel's idle counters can step back a little."""
    spent = {mode: max(0.0, now[mode] - before[mode]) for mode in now}
    total = sum(spent.values())
    return total - sum(spent.get(mode, 0.0) for mode in _IDLE), total


def _percent(busy: float, total: float) -> float | None:
    return 100 * busy / total if total > 0 else None
