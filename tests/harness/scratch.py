"""Data directories of servers, which outlive neither the test session nor its sudden death.

A session that is killed leaves its servers running and their data behind. Each directory therefore has a lock that
the kernel frees with its owner, and whoever makes a new one first clears away what no longer has an owner.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "data-"
_LOCK_SUFFIX = ".lock"


@contextmanager
def owned_directory(parent: Path, end_leftovers: Callable[[Path], None]) -> Iterator[Path]:
    """A new directory in `parent`, removed at the end.

    `end_leftovers` is called with each abandoned directory before that is removed; it ends what still uses it.
    """
    with (parent / ".lock").open("w") as makers:
        fcntl.flock(makers, fcntl.LOCK_EX)  # nobody clears away what is just being made
        _remove_abandoned(parent, end_leftovers)
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = _lock_of(directory)
        owner = lock.open("w")
        fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        lock.unlink(missing_ok=True)
        owner.close()


def _remove_abandoned(parent: Path, end_leftovers: Callable[[Path], None]) -> None:
    for lock in parent.glob(f"{_PREFIX}*{_LOCK_SUFFIX}"):
        try:
            owner = lock.open("r")
        except FileNotFoundError:
            continue  # its owner ended just now
        with owner:
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its owner lives
            directory = lock.with_suffix("")
            end_leftovers(directory)
            shutil.rmtree(directory, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _lock_of(directory: Path) -> Path:
    return directory.with_name(directory.name + _LOCK_SUFFIX)
