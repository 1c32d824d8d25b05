"""Programs under test as child processes with their output in a file."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import psutil

_OWN_PREFIXES = ("EDGE_AGENT_", "CLOUD_INGEST_", "TELEMETRY_BRIDGE_")
_TAIL = 4_000


class Process:
    """One program, which may be started again after it ended; its output is appended to `log`.

    `env` is added to this process's environment, from which the settings of our own programs are left out. The
    program leads a process group of its own, so that Ctrl-C reaches the tests alone.
    """

    def __init__(self, args: Sequence[str | Path], env: Mapping[str, str] | None = None, *, log: Path) -> None:
        self._args = [str(arg) for arg in args]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_PREFIXES)}
        self._env = {**inherited, **(env or {})}
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; raises AssertionError while it runs."""
        assert not self.running, f"{self._args[0]} runs already"
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                self._args,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id of the latest start."""
        return self._started().pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program itself; nothing where it has ended."""
        self._started().send_signal(number)

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the program itself, and wait until it is gone. Its children live on, as in a real crash."""
        self._started().kill()
        self._started().wait()

    def wait(self, timeout: float) -> int:
        """The exit code (negative: the signal); raises AssertionError with the output's end after `timeout` s."""
        try:
            return self._started().wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self._args} did not end within {timeout:g} s:\n{self.tail()}") from None

    def output(self) -> str:
        """Standard output and error of all starts so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def tail(self) -> str:
        """The end of the output, for messages."""
        return self.output()[-_TAIL:]

    def close(self) -> None:
        """Kill it with everything in its process group. Harmless where it was never started or has ended."""
        if self._child is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, for a group of zombies
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._child is not None, f"{self._args[0]} was never started"
        return self._child


class NewProcess(Protocol):
    """Makes a process, not started yet; without `log` its output goes to a file in the test's directory."""

    def __call__(
        self, args: Sequence[str | Path], env: Mapping[str, str] | None = None, *, log: Path | None = None
    ) -> Process: ...


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended, be it that its parent has yet to notice."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
