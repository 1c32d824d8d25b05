"""What Linux tells of file systems beside how this process sees them: proc_pid_mountinfo(5).

A service that systemd shuts out from writing (ProtectSystem=strict) sees every mount as read-only. The options of the
file system itself, at the end of each line, are those that an error of the disk changes.
"""

import os
import re
from typing import Final

# Places of fields, counted from 0, before and behind the separator.
_MOUNT_POINT: Final = 4
_OPTIONS: Final = 2
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")
_READ_ONLY: Final = {b"ro", b"emergency_ro"}  # the latter is ext4's, after an error, since Linux 6.15


def read_only(content: bytes) -> dict[str, bool]:
    """Whether the file system at each mount point is read-only; of several at one point the last, which is seen."""
    found = {}
    for line in content.splitlines():
        mount, separator, file_system = line.partition(b" - ")
        fields, told = mount.split(b" "), file_system.split(b" ")
        if separator and len(fields) > _MOUNT_POINT and len(told) > _OPTIONS:
            point = _ESCAPED.sub(lambda escaped: bytes([int(escaped[1], 8) & 0xFF]), fields[_MOUNT_POINT])
            found[os.fsdecode(point)] = not _READ_ONLY.isdisjoint(told[_OPTIONS].split(b","))
    return found
