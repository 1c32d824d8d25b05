"""Single programs out of Debian's packages, unpacked into the cache without installing anything."""

import subprocess
import tempfile
from pathlib import Path

from harness.absence import Absent
from harness.debian import CACHE

_SECONDS = 300


def unpacked(package: str, program: str) -> Path:
    """`/usr/bin/PROGRAM` of the package, fetched if it is not in the cache. Raises Absent where it can't be."""
    cached = CACHE / program
    if cached.exists():
        return cached
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{program}.partial-", dir=CACHE) as directory:
        try:
            _run("apt-get", "-qq", "download", package, directory=directory)
            (file,) = Path(directory).glob(f"{package}_*.deb")
            _run("dpkg-deb", "--extract", file.name, "unpacked", directory=directory)
            (Path(directory) / "unpacked" / "usr" / "bin" / program).replace(cached)
        except (OSError, ValueError, subprocess.SubprocessError) as exc:
            raise Absent(f"{program} could not be unpacked from Debian's package: {exc}") from exc
    return cached


def _run(*command: str, directory: str) -> None:
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=_SECONDS)
