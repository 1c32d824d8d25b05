"""A log file that is replaced before it grows too large, and that never brings down who writes to it."""

import contextlib
import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path


class LogFile(RotatingFileHandler):
    """Writes lines; `file` becomes `file.1`, that `file.2` and so on, so that at most `files` of `max_bytes` remain.

    What can't be written (a full disk) is lost, and told once on standard error. Raises OSError where the file can't
    be opened.
    """

    def __init__(self, file: Path, *, max_bytes: int, files: int) -> None:
        super().__init__(file, maxBytes=max_bytes, backupCount=files - 1, encoding="utf-8", errors="backslashreplace")
        self._failing = False
        self._failed_now = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, or lose it."""
        self._failed_now = False
        super().emit(record)
        if self._failing and not self._failed_now:
            self._failing = False
            _tell(f"{self.baseFilename} can be written again")

    def close(self) -> None:
        """Close the file; what can't be written any more is lost."""
        with contextlib.suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - as the base class has it
        """Tell it the first time."""
        self._failed_now = True
        if not self._failing:
            self._failing = True
            _tell(f"{self.baseFilename} can't be written: {sys.exc_info()[1]}")

    def doRollover(self) -> None:  # noqa: N802
        """Replace the file; where it can't be renamed, go on with it."""
        try:
            super().doRollover()
        except OSError:
            self.stream = self._open()


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, AttributeError, ValueError):  # nobody reads it, or there is none
        print(f"edge-agent: {text}", file=sys.stderr, flush=True)  # noqa: T201 - the log itself is what fails
