"""A PostgreSQL with TimescaleDB on any Debian, without touching the machine's own packages.

The next release of Debian packages TimescaleDB; its packages are unpacked into a folder of their own, in which the
server then runs by chroot. `python -m harness.debian` does so ahead of the tests and says what it does.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.absence import Absent

CACHE = Path(__file__).resolve().parents[2] / ".cache"
POSTGRESQL_BIN = Path("/usr/lib/postgresql/17/bin")
SERVER_UID = 65_432  # exists only inside; nobody's on a usual machine

_RELEASE = "trixie"
_PACKAGES = ("dash", "coreutils", "postgresql-17", "postgresql-17-timescaledb")  # initdb needs a shell
_BUILD_SECONDS = 600


def timescaledb_root(cache: Path = CACHE) -> Path:
    """The folder to chroot into, made on first use (about 20 s and 440 MB); data directories go into its `srv/pg`.

    Safe to call from several processes at once. Raises Absent where this machine can't make one.
    """
    root = cache / f"timescaledb-{_RELEASE}"
    if os.geteuid() != 0:
        raise Absent("TimescaleDB is run in a chroot, which needs root; or name a server in TEST_DATABASE_URL")
    if root.exists():
        return root
    program, mirror = _mmdebstrap(), _mirror()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "timescaledb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _build(program, mirror, root)
    return root


def _build(program: str, mirror: str, root: Path) -> None:
    partial = Path(tempfile.mkdtemp(prefix=f"{root.name}.partial-", dir=root.parent))
    try:
        _unpack(program, mirror, partial / "root")
        _complete(partial / "root")
        (partial / "root").rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpack(program: str, mirror: str, target: Path) -> None:
    command = [
        program,
        "--variant=extract",
        "--mode=root",
        f"--include={','.join(_PACKAGES)}",
        _RELEASE,
        str(target),
        f"deb {mirror} {_RELEASE} main",
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_BUILD_SECONDS)
    except subprocess.CalledProcessError as exc:
        raise Absent(f"TimescaleDB could not be unpacked from Debian's packages:\n{exc.stderr[-2_000:]}") from exc
    except subprocess.TimeoutExpired as exc:
        raise Absent(f"TimescaleDB could not be unpacked within {_BUILD_SECONDS} s") from exc


def _complete(root: Path) -> None:
    """What the packages' scripts, which were not run, would have made as far as a PostgreSQL server needs it."""
    for name in ("bin", "sbin", "lib", "lib64"):
        if (root / "usr" / name).exists() and not (root / name).exists():
            (root / name).symlink_to(Path("usr") / name)
    (root / "etc/passwd").write_text(f"postgres:x:{SERVER_UID}:{SERVER_UID}::/srv/pg:/bin/sh\n")
    (root / "etc/group").write_text(f"postgres:x:{SERVER_UID}:\n")
    (root / "srv/pg").mkdir(parents=True)
    (root / "tmp").mkdir(exist_ok=True)


def _mmdebstrap() -> str:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise Absent("TimescaleDB needs mmdebstrap (Debian: apt-get install mmdebstrap), or TEST_DATABASE_URL")
    return program


def _mirror() -> str:
    """The Debian mirror that this machine's own apt uses; `DEBIAN_MIRROR` names another."""
    if mirror := os.environ.get("DEBIAN_MIRROR"):
        return mirror
    try:
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(SITE)", "Identifier: Packages", "Origin: Debian"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError) as exc:
        raise Absent(f"TimescaleDB comes from a Debian mirror, and apt names none: {exc}") from exc
    mirrors = [site for site in listed if "security" not in site]
    if not mirrors:
        raise Absent("TimescaleDB comes from a Debian mirror, and apt names none; set DEBIAN_MIRROR")
    return mirrors[0]


if __name__ == "__main__":
    try:
        print(f"TimescaleDB for the tests: {os.path.relpath(timescaledb_root())}")  # noqa: T201 - a command
    except Absent as absent:
        sys.exit(str(absent))
