"""The machine as a whole, and the agent itself: heartbeat, what it uses, and how its collectors fare."""

import time
from collections.abc import Callable
from typing import Any

import psutil

from edge_agent.collectors.base import series
from edge_agent.statistics import Statistics

# The collectors whose values come from programs, files, packages and devices of the user's, and of them those to which
# values come whenever they like.
_OF_USERS = ("exec.", "execd.", "plugin.", "textfile", "http_input", "mqtt_input.")
_COMING = ("execd.", "http_input", "mqtt_input.")
_FIRST_PID = 1
_HAS_FIRST_PID = not psutil.WINDOWS


def uptime_seconds() -> float:
    """Since the machine started, time asleep included."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - psutil.boot_time()


class Host:
    """`process` is the agent's psutil.Process, or what answers like it, as `system` does like psutil."""

    def __init__(
        self,
        statistics: Statistics,
        *,
        process: Any = None,
        uptime: Callable[[], float] = uptime_seconds,
        system: Any = psutil,
    ) -> None:
        self._statistics = statistics
        self._system = system
        self._process = psutil.Process() if process is None else process
        self._uptime = uptime
        self._began = statistics.began(uptime())

    def collect(self) -> dict[str, float | None]:
        """All of it; the counts of collectors are those up to the tick before."""
        uptime = self._uptime()
        cpu = self._process.cpu_times()
        found: dict[str, float | None] = {
            "host_uptime_seconds": uptime,
            "host_boot_time_seconds": self._system.boot_time(),
            "host_processes": self._processes(),
            "host_users": len(self._system.users()),
            "agent_heartbeat_total": self._statistics.beat(),
            "agent_uptime_seconds": uptime - self._began,
            "agent_cpu_seconds_total": cpu.user + cpu.system,
            "agent_resident_memory_bytes": self._process.memory_info().rss,
        }
        for name, counts in self._statistics.snapshot().items():
            found[series("agent_collector_failures_total", collector=name)] = counts.failures + counts.overruns
            if name.startswith(_OF_USERS):  # what our own collectors give is always usable
                found[series("agent_collector_rejected_values_total", collector=name)] = counts.rejected_values
            if name.startswith(_COMING):
                found[series("agent_collector_superseded_values_total", collector=name)] = counts.superseded_values
        return found

    def _processes(self) -> int | None:
        """How many there are; None where the system hides those of others, which the first process tells."""
        pids = self._system.pids()
        return len(pids) if _FIRST_PID in pids or not _HAS_FIRST_PID else None
