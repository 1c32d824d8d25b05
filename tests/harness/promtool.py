"""promtool, which checks what Prometheus is to read: the machine's own, or unpacked from Debian's package.

`python -m harness.promtool` unpacks it ahead of the tests (19 MB to fetch), without installing anything.
"""

import os
import shutil
import sys
from pathlib import Path

from harness.absence import Absent
from harness.debian import CACHE
from harness.debian_program import unpacked


def promtool() -> Path:
    """The program. Raises Absent where neither this machine nor the cache has it."""
    found = shutil.which("promtool")
    if found is not None:
        return Path(found)
    cached = CACHE / "promtool"
    if not cached.exists():
        raise Absent("promtool is not here (as `make servers` unpacks it, or Debian: apt-get install prometheus)")
    return cached


def provide() -> Path:
    """The program, unpacked if need be. Raises Absent where it can't be."""
    try:
        return promtool()
    except Absent:
        return unpacked("prometheus", "promtool")


if __name__ == "__main__":
    try:
        print(f"promtool for the tests: {os.path.relpath(provide())}")  # noqa: T201 - a command
    except Absent as absent:
        sys.exit(str(absent))
