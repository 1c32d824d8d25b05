"""Control groups version 2 (https://docs.kernel.org/admin-guide/cgroup-v2.html)."""

import os
import re
from pathlib import Path

from edge_agent.collectors.containers.usage import Disks, Transfers, Usage, entry, entry_pattern, number, read

_CPU_USAGE = entry_pattern("usage_usec")
_CPU_THROTTLED = entry_pattern("throttled_usec")
_INACTIVE_FILE = entry_pattern("inactive_file")
_OOM_KILLS = entry_pattern("oom_kill")
_POPULATED = entry_pattern("populated")
_PRESSURE = re.compile(rb"^(some|full) .*\btotal=(\d+)$", re.MULTILINE)


class Version2:
    """All controllers in one hierarchy; `root` is the root of the host's file system."""

    def __init__(self, root: Path) -> None:
        self.directory = str(root / "sys/fs/cgroup")
        self._disks = Disks(root / "sys/dev/block")

    def is_mounted(self) -> bool:
        """Whether the host has it, and not only beside version 1."""
        return os.path.exists(f"{self.directory}/cgroup.controllers")  # noqa: PTH110 - asked at every tick

    def populated(self, path: str) -> bool:
        """As the group's own summary says."""
        return entry(read(f"{self.directory}{path}/cgroup.events"), _POPULATED) == 1

    def usage(self, path: str) -> Usage | None:
        """All that the controllers which are switched on tell."""
        group = f"{self.directory}{path}/"
        cpu = read(f"{group}cpu.stat")
        memory = number(read(f"{group}memory.current"))
        inactive = entry(read(f"{group}memory.stat"), _INACTIVE_FILE) or 0
        found = Usage(
            cpu_seconds=_seconds(entry(cpu, _CPU_USAGE)),
            cpu_throttled_seconds=_seconds(entry(cpu, _CPU_THROTTLED)),
            memory_working_set_bytes=None if memory is None else max(0, memory - inactive),
            memory_limit_bytes=number(read(f"{group}memory.max")),  # "max" is no number
            oom_kills=entry(read(f"{group}memory.events"), _OOM_KILLS),
            transfers=_transfers(read(f"{group}io.stat"), self._disks),
            pids=number(read(f"{group}pids.current")),
            stalled_seconds={
                (resource, kind.decode()): int(total) / 1e6
                for resource in ("cpu", "memory", "io")
                for kind, total in _PRESSURE.findall(read(f"{group}{resource}.pressure") or b"")
            },
        )
        # What it lacks, it may lack because it went while it was read.
        return found if self.populated(path) else None


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1e6


def _transfers(text: bytes | None, disks: Disks) -> Transfers | None:
    """The lines `MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N ...`, added up.

    Some kernels leave a device without counts on the line of the next one, so the last device before a count owns it.
    """
    if text is None:
        return None
    totals = {"rbytes": 0, "wbytes": 0, "rios": 0, "wios": 0}
    counts = True
    for word in text.decode(errors="replace").split():
        name, is_count, value = word.partition("=")
        if not is_count:
            counts = disks.counts(word)
        elif counts and name in totals and value.isdecimal():
            totals[name] += int(value)
    return Transfers(totals["rbytes"], totals["wbytes"], totals["rios"], totals["wios"])
