"""Files in the Prometheus text format, as batch jobs and other programs leave them for a node exporter.

A writer should write to another name and rename, so that no half of a file is ever read. A file that has not been
written for longer than `max_age_seconds` is left out: what has not been said for so long is not known any more.
"""

import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from edge_agent.collectors.base import series
from edge_agent.config import Textfile as TextfileConfig
from edge_agent.errors import CollectorError
from edge_agent.prometheus_text import parse

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 1024 * 1024

Values = dict[str, float | None]


@dataclass(frozen=True)
class _Version:
    """A file as it was written at one time, and what it holds or why that can't be used."""

    identity: tuple[int, ...]
    seen_at: float  # monotonic
    values: Values
    unusable: tuple[str, ...] = ()
    problem: str | None = None


class Textfile:
    """Reads a file again only when it was written. `rejected` is told how many entries were left out of each tick."""

    def __init__(
        self,
        config: TextfileConfig,
        rejected: Callable[[int], None],
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._rejected = rejected
        self._now = now
        self._monotonic = monotonic
        self._versions: dict[Path, _Version] = {}
        self._told: dict[Path, str] = {}  # what was logged last of a file that something is wrong with

    def collect(self) -> Values:
        """What the files hold, and of each file its age and whether it was used.

        Where two files give the same series, the first by name counts.
        """
        found: Values = {}
        about: Values = {}
        rejected = 0
        files = sorted({Path(name) for pattern in self._config.files for name in glob(pattern)})  # noqa: PTH207 - patterns may be absolute
        for file in files:
            try:
                status = file.stat()
            except OSError:
                continue  # gone since it was listed
            version = self._version(file, status)
            age_seconds = self._age_seconds(status.st_mtime, version)
            problem = version.problem
            if age_seconds > self._config.max_age_seconds:
                problem = f"not written for longer than {self._config.max_age_seconds:g} s"
            about[series("textfile_age_seconds", file=str(file))] = age_seconds
            about[series("textfile_used", file=str(file))] = float(problem is None)
            if problem is None:
                twice = [f"{key} is given by another file" for key in version.values if key in found]
                found = version.values | found
                left_out = [*version.unusable, *twice]
                rejected += len(left_out)
                self._tell(file, f"{len(left_out)} entries of it are left out: {left_out[0]}" if left_out else None)
            else:
                self._tell(file, f"it is left out: {problem}")
        self._forget(files)
        if rejected:
            self._rejected(rejected)
        return found | about

    def _version(self, file: Path, status: os.stat_result) -> _Version:
        identity = status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size
        known = self._versions.get(file)
        if known is None or known.identity != identity:
            known = _read(file, status, identity, self._monotonic())
            self._versions[file] = known
        return known

    def _age_seconds(self, written: float, version: _Version) -> float:
        age_seconds = self._now() - written
        # Written in the future: the clock was set back, or does not know the time yet. Then it is as old as we know it.
        return age_seconds if age_seconds >= 0 else self._monotonic() - version.seen_at

    def _tell(self, file: Path, what: str | None) -> None:
        """Log what is wrong with a file when that changes."""
        before = self._told.pop(file, None)
        if what is not None:
            self._told[file] = what
            if what != before:
                logger.warning("collector textfile: %s: %s", file, what)
        elif before is not None:
            logger.info("collector textfile: %s: it is used again, all of it", file)

    def _forget(self, present: list[Path]) -> None:
        for remembered in (self._versions, self._told):
            for file in remembered.keys() - set(present):
                del remembered[file]


def _read(file: Path, status: os.stat_result, identity: tuple[int, ...], seen_at: float) -> _Version:
    if not stat.S_ISREG(status.st_mode):
        return _Version(identity, seen_at, {}, problem="not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        return _Version(identity, seen_at, {}, problem=f"larger than {MAX_FILE_BYTES} bytes")
    try:
        values, unusable = parse(file.read_text(encoding="utf-8"))
    except OSError as exc:
        return _Version(identity, seen_at, {}, problem=f"can't be read: {exc.strerror or exc}")
    except UnicodeDecodeError as exc:
        return _Version(identity, seen_at, {}, problem=f"not UTF-8 text: byte {exc.start} is {exc.reason}")
    except CollectorError as exc:
        return _Version(identity, seen_at, {}, problem=str(exc))
    return _Version(identity, seen_at, values, tuple(unusable))
