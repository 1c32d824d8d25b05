"""Control groups version 1 (https://docs.kernel.org/admin-guide/cgroup-v1/index.html).

Each controller has a hierarchy of its own (or shares one, as in `cpu,cpuacct`), with the same paths in each. Version 1
knows no pressure, and charges writes that go through the file cache to nobody.
"""

import os
import re
from collections import Counter
from pathlib import Path

from edge_agent.collectors.containers.usage import Disks, Transfers, Usage, entry, entry_pattern, number, read

_THROTTLED = entry_pattern("throttled_time")
_INACTIVE_FILE = entry_pattern("total_inactive_file")
_OOM_KILLS = entry_pattern("oom_kill")
_TRANSFER = re.compile(rb"^(\d+:\d+) (Read|Write) (\d+)$", re.MULTILINE)
# "No limit" is the largest number that a count of pages can hold, which depends on the size of a page.
_NO_LIMIT_BYTES = 2**62
# The first of these that is not all zeros counts. The kernel fills the throttle's (later ones, such as 6.1, only for a
# group that is throttled) and BFQ's for disks that have this scheduler. Where neither does, nobody knows the transfers.
_TRANSFER_FILES = ("blkio.throttle.io_{}_recursive", "blkio.throttle.io_{}", "blkio.bfq.io_{}_recursive")
# The first of these that is mounted is looked for containers in; any of them would do.
_TO_SEARCH = ("cpuacct", "memory", "pids", "blkio")


class Version1:
    """A hierarchy a controller; `root` is the root of the host's file system."""

    def __init__(self, root: Path) -> None:
        self._groups = root / "sys/fs/cgroup"
        self._disks = Disks(root / "sys/dev/block")
        self._mounts: dict[str, str] = {}

    @property
    def directory(self) -> str:
        """The hierarchy that a controller has which every engine uses."""
        return next(mount for controller in _TO_SEARCH if (mount := self._mounts.get(controller)) is not None)

    def is_mounted(self) -> bool:
        """Whether the host has it; looks again at which controllers there are."""
        try:
            mounted = sorted(self._groups.iterdir())
        except OSError:
            mounted = []
        self._mounts = {controller: str(mount) for mount in mounted for controller in mount.name.split(",")}
        return any(controller in self._mounts for controller in _TO_SEARCH)

    def populated(self, path: str) -> bool:
        """Version 1 has no summary: a group without processes that has groups in it may have some there."""
        group = f"{self.directory}{path}"
        if read(f"{group}/cgroup.procs"):
            return True
        try:
            with os.scandir(group) as entries:
                return any(it.is_dir(follow_symlinks=False) for it in entries)
        except OSError:
            return False

    def usage(self, path: str) -> Usage | None:
        """All that the controllers which are mounted tell."""
        memory = number(self._read("memory", path, "memory.usage_in_bytes"))
        inactive = entry(self._read("memory", path, "memory.stat"), _INACTIVE_FILE) or 0
        limit = number(self._read("memory", path, "memory.limit_in_bytes"))
        found = Usage(
            cpu_seconds=_seconds(number(self._read("cpuacct", path, "cpuacct.usage"))),
            cpu_throttled_seconds=_seconds(entry(self._read("cpu", path, "cpu.stat"), _THROTTLED)),
            memory_working_set_bytes=None if memory is None else max(0, memory - inactive),
            memory_limit_bytes=None if limit is None or limit >= _NO_LIMIT_BYTES else limit,
            oom_kills=entry(self._read("memory", path, "memory.oom_control"), _OOM_KILLS),
            transfers=self._transfers(path),
            pids=number(self._read("pids", path, "pids.current")),
        )
        # What it lacks, it may lack because it went while it was read.
        return found if self.populated(path) else None

    def _transfers(self, path: str) -> Transfers | None:
        for file in _TRANSFER_FILES:
            moved = self._by_direction(path, file.format("service_bytes"))
            requests = self._by_direction(path, file.format("serviced"))
            if any(moved.values()):
                return Transfers(moved["Read"], moved["Write"], requests["Read"], requests["Write"])
        return None

    def _by_direction(self, path: str, file: str) -> Counter[str]:
        """What `file` says of each direction, added up."""
        totals: Counter[str] = Counter()
        for device, direction, count in _TRANSFER.findall(self._read("blkio", path, file) or b""):
            totals[direction.decode()] += int(count) if self._disks.counts(device.decode()) else 0
        return totals

    def _read(self, controller: str, path: str, file: str) -> bytes | None:
        mount = self._mounts.get(controller)
        return None if mount is None else read(f"{mount}{path}/{file}")


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9
