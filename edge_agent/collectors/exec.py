"""A program of the user's that prints what it measured: how a metric is added without code.

It prints one JSON object of series key -> number (or null), or points in InfluxDB line protocol, on standard output and
ends with code 0. No shell is involved. It runs in a process group of its own, which is killed at the timeout, so that
what it started ends with it (unless that has left the group).
"""

import math
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from edge_agent.collectors.formats import READERS
from edge_agent.collectors.program_text import printable, signal_name
from edge_agent.config import Exec as ExecConfig
from edge_agent.errors import CollectorError

MAX_OUTPUT_BYTES = 64 * 1024

_MAX_STDERR_BYTES = 4096
_POLL_SECONDS = 0.005


class Exec:
    """Runs the program at each `collect`. `rejected` is told how many entries of an output were left out."""

    def __init__(self, config: ExecConfig, rejected: Callable[[int], None]) -> None:
        self._config = config
        self._values = READERS[config.format]
        self._rejected = rejected
        # Guards the two below. The process is reaped under this lock alone, so that a kill never hits the number of
        # a process that is gone.
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def collect(self) -> dict[str, float | None]:
        """What the program printed; entries that are not a series key with a number are left out and counted.

        Raises CollectorError where it can't be started, fails, takes too long, prints too much, something in another
        format, or nothing that can be used.
        """
        found, unusable = self._values(self._run())
        if unusable:
            self._rejected(len(unusable))
            if not found:
                raise CollectorError(f"printed nothing that can be used: {unusable[0]}")
        return found

    def close(self) -> None:
        """Kill the program if it runs, and start it no more."""
        with self._lock:
            self._closed = True
            self._kill()

    def _run(self) -> bytes:
        deadline = time.monotonic() + self._config.timeout_seconds
        process = self._start()
        try:
            output, errors = self._read(process, deadline)
            code = self._wait(process, deadline)
        finally:
            with self._lock:
                self._kill()
            self._wait(process, math.inf)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        if code:
            ended = f"ended with code {code}" if code > 0 else f"was killed by {signal_name(-code)}"
            raise CollectorError(f"{self._config.command[0]} {ended}{_first_line(errors)}")
        return output

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise CollectorError("the agent is stopping")
            try:
                self._process = subprocess.Popen(
                    self._config.command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as exc:
                raise CollectorError(f"{self._config.command[0]} can't be started: {exc.strerror or exc}") from exc
            return self._process

    def _read(self, process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
        """Standard output and the beginning of standard error, until all who hold them have closed them."""
        output, errors = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            for pipe, kept in ((process.stdout, output), (process.stderr, errors)):
                if pipe is not None:
                    selector.register(pipe, selectors.EVENT_READ, kept)
            while selector.get_map():
                left_seconds = deadline - time.monotonic()
                if left_seconds <= 0:
                    raise self._timed_out()
                for ready, _ in selector.select(left_seconds):
                    chunk = os.read(ready.fd, MAX_OUTPUT_BYTES)
                    if not chunk:
                        selector.unregister(ready.fileobj)
                    ready.data.extend(chunk)
                del errors[_MAX_STDERR_BYTES:]
                if len(output) > MAX_OUTPUT_BYTES:
                    raise CollectorError(f"{self._config.command[0]} printed more than {MAX_OUTPUT_BYTES} bytes")
        return bytes(output), bytes(errors)

    def _wait(self, process: subprocess.Popen[bytes], deadline: float) -> int:
        while True:
            with self._lock:
                code = process.poll()
                if code is not None:
                    self._process = None
                    return code
            if time.monotonic() >= deadline:
                raise self._timed_out()
            time.sleep(_POLL_SECONDS)

    def _kill(self) -> None:
        """Kill the process group, if the process has not been reaped. Call it under the lock."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _timed_out(self) -> CollectorError:
        seconds = self._config.timeout_seconds
        return CollectorError(f"{self._config.command[0]} took longer than {seconds:g} s and was killed")


def _first_line(errors: bytes) -> str:
    line = printable(errors.decode(errors="replace").strip().partition("\n")[0])
    return f": {line}" if line else ""
