"""A program of the user's that is kept running and prints line by line.

It runs in a process group of its own, without a shell. It is started anew when it ends, soon at first and less and less
often when it keeps ending. At the stop of the agent its group gets SIGTERM, and SIGKILL a second later. Its standard
input never says anything, and ends when the agent is gone, however that came about.
"""

import enum
import logging
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from edge_agent.budget import Budget
from edge_agent.collectors.program_text import printable, signal_name
from edge_agent.limited_log import LimitedLog
from edge_agent.lines import Lines

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 * 1024
# A program that prints faster waits for us: reading on would take the processor from the other collectors.
MAX_BYTES_PER_SECOND = 256 * 1024

_PIECE_BYTES = 16 * 1024
_MAX_STDERR_LINE_BYTES = 1024
_POLL_SECONDS = 0.01
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Timing:
    """When to start again, and how long to wait at the end.

    The pause before a start doubles from `first_pause_seconds` to `max_pause_seconds`, and is short again once the
    program has run for longer than that. With `max_silence_seconds` a program that prints nothing for so long is ended.
    """

    first_pause_seconds: float = 1.0
    max_pause_seconds: float = 60.0
    grace_seconds: float = 1.0
    max_silence_seconds: float | None = None


class LineProgram:
    """Keeps `command` running in a thread of its own, from which it calls the three functions that it is given.

    `printed` gets each line of its standard output, `lost` how many lines were too long or had no end, and `ended` what
    is to be said of each end and of each start that failed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        printed: Callable[[bytes], None],
        lost: Callable[[int], None],
        ended: Callable[[str], None],
        timing: Timing,
    ) -> None:
        self._name = name
        self._command = command
        self._printed = printed
        self._lost = lost
        self._ended = ended
        self._timing = timing
        self._complaints = LimitedLog(logger, f"collector {name} says")
        self._last_complaint = ""
        self._closing = threading.Event()
        self._bell, self._bell_rope = os.pipe()  # the bell can be read from once the rope is closed
        self._thread = threading.Thread(target=self._serve, name=f"program {name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the program with all that it started, and start it no more; call it once.

        Takes no longer than the grace and a moment, be it that the program can't be killed.
        """
        self._closing.set()
        os.close(self._bell_rope)
        self._thread.join(self._timing.grace_seconds + 1)

    def _serve(self) -> None:
        pause_seconds = self._timing.first_pause_seconds
        while not self._closing.is_set():
            started = time.monotonic()
            try:
                how = self._run()
            except Exception as exc:  # the next start may fare better
                how = f"{type(exc).__name__}: {exc}"
                logger.exception("collector %s can't go on with its program", self._name)
            if self._closing.is_set():
                break
            if time.monotonic() - started > self._timing.max_pause_seconds:
                pause_seconds = self._timing.first_pause_seconds
            self._ended(f"{self._command[0]} {how}; it is started again after {pause_seconds:g} s")
            self._closing.wait(pause_seconds)
            pause_seconds = min(2 * pause_seconds, self._timing.max_pause_seconds)
        os.close(self._bell)

    def _run(self) -> str:
        """Run it once; how that ended."""
        self._last_complaint = ""
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as exc:
            return f"can't be started: {exc.strerror or exc}"
        with process:  # closes the pipes
            over = _Over.ENDING
            try:
                over = self._listen(process)
            finally:
                self._end(process, over)
        if over is _Over.SILENT:
            return f"printed nothing for {self._timing.max_silence_seconds:g} s and was ended"
        code = process.returncode
        how = f"ended with code {code}" if code >= 0 else f"was killed by {signal_name(-code)}"
        return f"{how}: {self._last_complaint}" if self._last_complaint else how

    def _listen(self, process: subprocess.Popen[bytes]) -> "_Over":
        """Hand over its lines until it is over."""
        output, errors = Lines(MAX_LINE_BYTES), Lines(_MAX_STDERR_LINE_BYTES)
        pace = Budget(MAX_BYTES_PER_SECOND, MAX_BYTES_PER_SECOND)
        heard = time.monotonic()
        look_seconds = _LOOK_SECONDS
        over: _Over | None = None
        with selectors.DefaultSelector() as selector:
            for source in (self._bell, process.stdout, process.stderr):
                assert source is not None  # noqa: S101 - for mypy: both pipes are asked for
                selector.register(source, selectors.EVENT_READ)
            while over is None:
                ready = {key.fileobj: key.fd for key, _ in selector.select(look_seconds)}
                if process.stderr in ready:
                    piece = os.read(ready[process.stderr], _PIECE_BYTES)
                    for line in errors.feed(piece)[0]:
                        self._complain(line)
                    if not piece:
                        selector.unregister(process.stderr)
                if process.stdout in ready:
                    piece = os.read(ready[process.stdout], _PIECE_BYTES)
                    self._take(*output.feed(piece))
                    self._closing.wait(pace.overdraw(len(piece)))
                    heard = time.monotonic()
                    over = None if piece else _Over.ENDING
                elif _has_ended(process):
                    # What it started may still hold its output. What it printed itself is read before it is over.
                    over = _Over.ENDING if look_seconds == 0 else None
                    look_seconds = 0
                if self._timing.max_silence_seconds is not None:
                    silent = time.monotonic() - heard > self._timing.max_silence_seconds
                    over = over or (_Over.SILENT if silent else None)
                over = _Over.CLOSING if self._bell in ready else over
        if over is _Over.ENDING and output.unfinished:
            self._lost(1)
        return over

    def _take(self, lines: list[bytes], too_long: int) -> None:
        for line in lines:
            self._printed(line)
        if too_long:
            self._lost(too_long)

    def _complain(self, line: bytes) -> None:
        text = printable(line.decode(errors="replace").strip())
        if text:
            self._last_complaint = text
            self._complaints.warning(text)

    def _end(self, process: subprocess.Popen[bytes], over: "_Over") -> None:
        """End it with all that it started. It is reaped last, so that its number can't be another's before."""
        if over is _Over.ENDING:
            self._wait_for_end(process)
        if not _has_ended(process):
            _signal_group(process, signal.SIGTERM)
            self._wait_for_end(process)
        _signal_group(process, signal.SIGKILL)
        process.wait()

    def _wait_for_end(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._timing.grace_seconds
        while not _has_ended(process) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


class _Over(enum.Enum):
    """Why nothing more is read from a program."""

    ENDING = enum.auto()
    SILENT = enum.auto()
    CLOSING = enum.auto()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended, without reaping it."""
    try:
        return psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # where the agent was started with SIGCHLD ignored
        return True


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, for a group of zombies
        os.killpg(process.pid, number)
