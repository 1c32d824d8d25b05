"""File systems (space, inodes, read-only) and disks (transfers, time)."""

import logging
import os
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from edge_agent.collectors import mountinfo
from edge_agent.collectors.base import series
from edge_agent.config import Disk as DiskConfig
from edge_agent.worker import Worker

logger = logging.getLogger(__name__)

# A local file system answers in microseconds; a server that has not answered by now is not well.
_PATIENCE_SECONDS = 0.25


class Disk:
    """A mount that hangs (a server that is gone) is asked again only when it has answered, and holds up no other.

    `system` is psutil, or what answers like it; `blocks` is a folder with one entry for each whole disk; `mounts`
    tells what became of file systems, whatever this process alone is denied (proc_pid_mountinfo(5), Linux).
    """

    def __init__(
        self,
        config: DiskConfig,
        *,
        system: Any = psutil,
        statvfs: Callable[[str], os.statvfs_result] = os.statvfs,
        blocks: Path = Path("/sys/block"),
        mounts: Path = Path("/proc/self/mountinfo"),
    ) -> None:
        self._config = config
        self._system = system
        self._statvfs = statvfs
        self._blocks = blocks
        self._mountinfo = mounts
        self._hanging: dict[str, Worker[os.statvfs_result]] = {}

    def collect(self) -> dict[str, float | None]:
        """What every mount that answers and every disk says."""
        found: dict[str, float | None] = {}
        mounts = list(self._mounts())
        read_only = self._read_only()
        for partition in mounts:
            of_mount = "ro" in partition.opts.split(",")
            self._file_system(partition.mountpoint, read_only.get(partition.mountpoint, of_mount), found)
        self._forget_hanging({partition.mountpoint for partition in mounts})
        # Without `nowrap` psutil would keep adding up a counter that has begun again, and grow with every disk it saw.
        for device, counts in (self._system.disk_io_counters(perdisk=True, nowrap=False) or {}).items():
            if self._is_disk(device) and not _matches(device, self._config.exclude_devices):
                _transfers(device, counts, found)
        return found

    def _mounts(self) -> Iterable[Any]:
        """One mount of each file system that is wanted: the one with the shortest path, as bind mounts repeat it."""
        by_path = {partition.mountpoint: partition for partition in self._system.disk_partitions(all=True)}
        seen: set[str] = set()
        for path in sorted(by_path, key=lambda path: (len(path), path)):
            partition = by_path[path]
            excluded = partition.fstype in self._config.exclude_file_systems and path != "/"
            if excluded or _matches(path, self._config.exclude_mounts) or partition.device in seen:
                continue
            if partition.device.startswith("/"):
                seen.add(partition.device)
            yield partition

    def _read_only(self) -> dict[str, bool]:
        """Whether the file system at a mount point is read-only; empty where the system does not tell it apart."""
        try:
            return mountinfo.read_only(self._mountinfo.read_bytes())
        except OSError:
            return {}

    def _file_system(self, path: str, read_only: bool, found: dict[str, float | None]) -> None:  # noqa: FBT001 - a value
        answered = self._ask(path)
        if answered is None:
            return
        size = answered.f_blocks * answered.f_frsize
        used = size - answered.f_bfree * answered.f_frsize
        available = answered.f_bavail * answered.f_frsize
        if not size:
            return  # a kernel interface of a kind that is not on the list
        found[series("disk_total_bytes", mount=path)] = size
        found[series("disk_used_bytes", mount=path)] = used
        found[series("disk_available_bytes", mount=path)] = available
        # As df: what is reserved for root counts neither as used nor as there.
        found[series("disk_usage_percent", mount=path)] = 100 * used / (used + available) if used + available else None
        found[series("disk_read_only", mount=path)] = float(read_only)
        if answered.f_files:  # btrfs, vfat and others have no fixed number of inodes
            inodes_used = answered.f_files - answered.f_ffree
            found[series("disk_inodes", mount=path)] = answered.f_files
            found[series("disk_inodes_used", mount=path)] = inodes_used
            found[series("disk_inodes_usage_percent", mount=path)] = 100 * inodes_used / answered.f_files

    def _ask(self, path: str) -> os.statvfs_result | None:
        """What the file system says; None where it is gone, is not ours to see, or does not answer."""
        worker = self._hanging.get(path) or Worker(partial(self._statvfs, path), name=f"statvfs {path}")
        if path not in self._hanging:
            worker.begin()
        outcome = worker.outcome(0 if path in self._hanging else _PATIENCE_SECONDS)
        if outcome is None:
            if path not in self._hanging:
                logger.warning("collector disk: %s does not answer and is left out until it does", path)
            self._hanging[path] = worker
            return None
        worker.close()
        if self._hanging.pop(path, None) is not None:
            logger.info("collector disk: %s answers again", path)
        if outcome.error is not None and not isinstance(outcome.error, OSError):
            raise outcome.error
        return outcome.value

    def _forget_hanging(self, mounted: set[str]) -> None:
        for path in self._hanging.keys() - mounted:
            self._hanging.pop(path).close()

    def _is_disk(self, device: str) -> bool:
        """Whether it is a whole disk; its partitions would count the same transfers again."""
        return not self._blocks.is_dir() or (self._blocks / device.replace("/", "!")).exists()


def _transfers(device: str, counts: Any, found: dict[str, float | None]) -> None:
    found[series("disk_read_bytes_total", device=device)] = counts.read_bytes
    found[series("disk_written_bytes_total", device=device)] = counts.write_bytes
    found[series("disk_reads_total", device=device)] = counts.read_count
    found[series("disk_writes_total", device=device)] = counts.write_count
    found[series("disk_read_seconds_total", device=device)] = counts.read_time / 1000
    found[series("disk_write_seconds_total", device=device)] = counts.write_time / 1000
    if hasattr(counts, "busy_time"):  # Linux tells it
        found[series("disk_busy_seconds_total", device=device)] = counts.busy_time / 1000


def _matches(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(text, pattern) for pattern in patterns)
