"""What a container uses: the seam between the two versions of control groups and the collector."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

_LOOP_MAJOR = "7:"
_CHUNK_BYTES = 65_536


@dataclass(frozen=True)
class Transfers:
    """What a container moved to and from disks since it started."""

    read_bytes: int = 0
    written_bytes: int = 0
    reads: int = 0
    writes: int = 0


@dataclass(frozen=True)
class Usage:
    """What the kernel counts for a container; None where it doesn't, as with a controller that is switched off.

    `memory_working_set_bytes` is what can't be had back without swapping: without file cache that was not used
    recently. `memory_limit_bytes` is None also where there is no limit. `stalled_seconds` is by resource ("cpu",
    "memory", "io") and kind ("some", "full"): https://docs.kernel.org/accounting/psi.html
    """

    cpu_seconds: float | None = None
    cpu_throttled_seconds: float | None = None
    memory_working_set_bytes: int | None = None
    memory_limit_bytes: int | None = None
    oom_kills: int | None = None
    transfers: Transfers | None = None
    pids: int | None = None
    stalled_seconds: Mapping[tuple[str, str], float] = field(default_factory=dict)


class Hierarchy(Protocol):
    """The control groups of a host, as one version of the kernel's interface shows them.

    A path begins with a slash and is relative to `directory`, where all of them can be found.
    """

    @property
    def directory(self) -> str:
        """The mount point to look for control groups in."""
        ...

    def populated(self, path: str) -> bool:
        """Whether any process is in the group or below it; False also where it has gone."""
        ...

    def usage(self, path: str) -> Usage | None:
        """What the group uses; None where it has gone meanwhile."""
        ...


class Disks:
    """Tells which block devices to count: a request to some of them is a request to another one too.

    The device mapper (LVM, LUKS) and loop devices hand each request on, in the name of who made it, to what they are
    made of; with both counted, every byte would count twice.
    """

    def __init__(self, devices: Path) -> None:
        """`devices` is /sys/dev/block, or a folder like it."""
        self._devices = devices
        self._counted: dict[str, bool] = {}

    def counts(self, number: str) -> bool:
        """Whether to count a device, given as MAJOR:MINOR."""
        known = self._counted.get(number)
        if known is None:
            hands_on = number.startswith(_LOOP_MAJOR) or (self._devices / number / "dm").is_dir()
            known = self._counted[number] = not hands_on
        return known


def read(path: str) -> bytes | None:
    """A file of the kernel's; None where it can't be read."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        text = b""
        while chunk := os.read(file, _CHUNK_BYTES):
            text += chunk
    except OSError:
        return None
    else:
        return text
    finally:
        os.close(file)


def number(text: bytes | None) -> int | None:
    """The whole number that is all of a file."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def entry(text: bytes | None, pattern: re.Pattern[bytes]) -> int | None:
    """The number that `pattern` captures somewhere in a file."""
    found = None if text is None else pattern.search(text)
    return None if found is None else int(found[1])


def entry_pattern(name: str) -> re.Pattern[bytes]:
    """What finds the number in the line `NAME NUMBER` of a file."""
    return re.compile(rb"^%b (\d+)$" % name.encode(), re.MULTILINE)
