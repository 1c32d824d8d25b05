"""A program of the user's that is kept running and prints what it measures, a line at a time.

A line is a JSON object of series key -> number, as the `exec` collector takes it, or a point in InfluxDB line protocol.
Each tick holds the newest value of every series since the tick before; it carries the time of the tick, as timestamps
in lines are of clocks that the agent knows nothing about. When nothing was printed there is no tick.
"""

import logging
import threading
from collections.abc import Callable
from functools import partial

from edge_agent.collectors.formats import READERS, Found
from edge_agent.collectors.inbox import Inbox
from edge_agent.collectors.line_program import LineProgram, Timing
from edge_agent.config import Execd as ExecdConfig
from edge_agent.errors import CollectorError
from edge_agent.limited_log import LimitedLog

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 5.0


class Execd:
    """Starts the program with the first `collect`, which waits for its first line, but not for long.

    `rejected` is told how many entries of lines (or whole lines) were not usable, and `superseded` how many values were
    replaced by newer ones before a tick took them.
    """

    def __init__(
        self,
        config: ExecdConfig,
        rejected: Callable[[int], None],
        superseded: Callable[[int], None],
        *,
        timing: Timing | None = None,
    ) -> None:
        self._config = config
        self._rejected = rejected
        self._superseded = superseded
        self._timing = timing or Timing(max_silence_seconds=config.max_silence_seconds)
        self._read = partial(_line, READERS[config.format])
        self._log = LimitedLog(logger, f"collector execd.{config.name} leaves out")
        self._changed = threading.Condition()  # guards all below
        self._program: LineProgram | None = None
        self._closed = False
        self._inbox = Inbox()
        self._useful = False  # whether the program has printed something useful since it was started
        self._trouble: str | None = None  # why there is nothing, until there is something again

    def collect(self) -> dict[str, float | None]:
        """The newest values since the last call; series that are expected and have none are None.

        Raises CollectorError where there are none because the program has ended or prints nothing that can be used.
        """
        with self._changed:
            if self._closed:
                raise CollectorError("the agent is stopping")
            if self._program is None:
                self._program = self._start()
                self._changed.wait_for(lambda: self._inbox or self._trouble or self._closed, FIRST_WAIT_SECONDS)
            taken = self._inbox.take()
            if not taken and self._trouble is not None:
                raise CollectorError(self._trouble)
            return taken

    def close(self) -> None:
        """End the program, and start it no more. It is asked to end, and killed a second later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            program, self._program = self._program, None
        if program is not None:
            program.close()  # not under the lock, which the program's thread takes

    def _start(self) -> LineProgram:
        return LineProgram(
            f"execd.{self._config.name}",
            self._config.command,
            printed=self._printed,
            lost=self._lost,
            ended=self._ended,
            timing=self._timing,
        )

    def _printed(self, line: bytes) -> None:
        found, unusable = self._read(line)
        with self._changed:
            superseded = self._inbox.put((found, unusable))
            if found:
                self._useful, self._trouble = True, None
            elif unusable and not self._useful:
                self._trouble = f"{self._config.command[0]} printed nothing that can be used: {unusable[0]}"
            self._changed.notify_all()
        if superseded:
            self._superseded(superseded)
        if unusable:
            self._rejected(len(unusable))
            self._log.warning(unusable[0])

    def _lost(self, lines: int) -> None:
        self._rejected(lines)
        self._log.warning(f"{lines} lines that are too long or have no end")

    def _ended(self, how: str) -> None:
        with self._changed:
            self._useful, self._trouble = False, how
            self._changed.notify_all()


def _line(read: Callable[[bytes], Found], line: bytes) -> Found:
    """What a line says; nothing, where it is blank, and a line that is not of the format is an entry left out."""
    if not line.strip():
        return {}, []
    try:
        return read(line)
    except CollectorError as exc:
        return {}, [str(exc)]
