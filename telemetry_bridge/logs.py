"""The log file of a part: kept within bounds, and read back when the part fails."""

import os
import shutil
import unicodedata
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 5_000_000
KEPT_STARTS = 3
_TAIL_BYTES = 8192


class PartLog:
    """`NAME.log`, and up to `KEPT_STARTS` older ones as `NAME.log.1` (the newest of them) and so on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open_fresh(self) -> BinaryIO:
        """Move what earlier starts wrote aside and open an empty file.

        It is opened for appending, so that a writer goes on at the new end after `trim`.
        """
        if self.path.exists() and self.path.stat().st_size > 0:
            for number in range(KEPT_STARTS, 1, -1):
                if self._older(number - 1).exists():
                    self._older(number - 1).replace(self._older(number))
            self.path.replace(self._older(1))
        return self.path.open("ab")

    def trim(self) -> None:
        """Copy the file aside and empty it, once it is larger than `MAX_BYTES`.

        The writer keeps its descriptor; what it writes between the copy and the emptying is lost.
        """
        if self.path.stat().st_size > MAX_BYTES:
            shutil.copyfile(self.path, self._older(1))
            os.truncate(self.path, 0)

    def tail(self, lines: int) -> list[str]:
        """The last lines, without control characters (a log may hold bytes that others sent)."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, self.path.stat().st_size - _TAIL_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return [_printable(line) for line in text.splitlines() if line.strip()][-lines:]

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _printable(line: str) -> str:
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in line)
