"""promtool, which checks what Prometheus is to read: the machine's own, or unpacked from Debian's package.

`python -m harness.promtool` unpacks it ahead of the tests (19 MB to fetch), without installing anything.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.absence import Absent
from harness.debian import CACHE

_SECONDS = 300


def promtool() -> Path:
    """The program. Raises Absent where neither this machine nor the cache has it."""
    found = shutil.which("promtool")
    if found is not None:
        return Path(found)
    cached = _cached()
    if not cached.exists():
        raise Absent("promtool is not here (as `make servers` unpacks it, or Debian: apt-get install prometheus)")
    return cached


def provide() -> Path:
    """The program, unpacked if need be. Raises Absent where it can't be."""
    try:
        return promtool()
    except Absent:
        return _unpacked()


def _cached() -> Path:
    return CACHE / "promtool"


def _unpacked() -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="promtool.partial-", dir=CACHE) as directory:
        try:
            _run("apt-get", "-qq", "download", "prometheus", directory=directory)
            (package,) = Path(directory).glob("prometheus_*.deb")
            _run("dpkg-deb", "--extract", package.name, "unpacked", directory=directory)
            (Path(directory) / "unpacked" / "usr" / "bin" / "promtool").replace(_cached())
        except (OSError, ValueError, subprocess.SubprocessError) as exc:
            raise Absent(f"promtool could not be unpacked from Debian's package: {exc}") from exc
    return _cached()


def _run(*command: str, directory: str) -> None:
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=_SECONDS)


if __name__ == "__main__":
    try:
        print(f"promtool for the tests: {os.path.relpath(provide())}")  # noqa: T201 - a command
    except Absent as absent:
        sys.exit(str(absent))
