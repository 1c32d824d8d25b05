"""The supervisor: all roles as child processes, started again when they end.

Each child leads a process group of its own, so that Ctrl-C reaches the supervisor alone, and has the end of a pipe as
its standard input, so that it stops when the supervisor is gone.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cloud_ingest.errors import ConfigError, StoreUnavailable
from cloud_ingest.store.migrate import migrate

logger = logging.getLogger(__name__)

ROLES: Final = ("ingest", "api", "worker")

_GRACE_SECONDS: Final = 20.0
_FIRST_DELAY_SECONDS: Final = 0.5
_MAX_DELAY_SECONDS: Final = 30.0
_STABLE_SECONDS: Final = 60.0
_DATABASE_RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Restarts:
    """When a role that ended is started again: later each time, until it has once run for long enough."""

    delay: float = 0.0

    def after(self, ran_seconds: float) -> "Restarts":
        """The state after a run of that length; its `delay` comes before the next."""
        if self.delay == 0 or ran_seconds >= _STABLE_SECONDS:
            return Restarts(_FIRST_DELAY_SECONDS)
        return Restarts(min(self.delay * 2, _MAX_DELAY_SECONDS))


def run(database_url: str, commands: Mapping[str, Sequence[str]], stop: threading.Event) -> int:
    """Migrates, then keeps each role's command running until `stop` is set and all have ended; the exit code.

    A database that is away is waited for. Raises StoreError where it can't be migrated. A child that ends with the
    exit code of ConfigError ends all, with the same code: starting it again would not help.
    """
    if not _migrated(database_url, stop):
        return 0
    keepers = [_Keeper(role, command, stop) for role, command in commands.items()]
    for keeper in keepers:
        keeper.start()
    stop.wait()
    for keeper in keepers:
        keeper.signal(signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    for keeper in keepers:
        keeper.join(max(0.0, deadline - time.monotonic()))
        if keeper.is_alive():
            logger.warning("%s did not stop within %g s and is killed", keeper.role, _GRACE_SECONDS)
            keeper.signal(signal.SIGKILL)
            keeper.join()
    return max(keeper.exit_code for keeper in keepers)


def role_command(role: str, options: Sequence[str]) -> list[str]:
    """The command line of a role, in this installation."""
    # -P: what lies in the working directory must not shadow a module
    return [sys.executable, "-P", "-m", "cloud_ingest.cli", role, "--until-stdin-closes", *options]


def _migrated(database_url: str, stop: threading.Event) -> bool:
    """Whether the schema is current now; False where `stop` was set before the database could be reached."""
    told = None
    while not stop.is_set():
        try:
            for name in migrate(database_url):
                logger.info("migration %s applied", name)
        except StoreUnavailable as exc:
            if str(exc) != told:
                logger.warning("the database is away: %s; trying again", exc)
                told = str(exc)
            stop.wait(_DATABASE_RETRY_SECONDS)
        else:
            return True
    return False


class _Keeper(threading.Thread):
    """Keeps one role running. Its thread waits for the child; `signal` may be called from any other."""

    def __init__(self, role: str, command: Sequence[str], stop: threading.Event) -> None:
        super().__init__(name=role)
        self.role = role
        self.exit_code = 0
        self._command = command
        self._stop_all = stop
        self._lock = threading.Lock()  # guards _child, and that none is started once `stop` was seen set
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Starts the role again and again, until all stop."""
        restarts = Restarts()
        while (child := self._spawn()) is not None:
            started = time.monotonic()
            code = child.wait()
            if child.stdin is not None:
                child.stdin.close()
            if self._stop_all.is_set():
                return
            if code == ConfigError.exit_code:
                logger.error("%s can't run as it is configured; all stops", self.role)
                self.exit_code = code
                self._stop_all.set()
                return
            restarts = restarts.after(time.monotonic() - started)
            logger.error("%s %s; it is started again in %g s", self.role, _ending(code), restarts.delay)
            self._stop_all.wait(restarts.delay)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the child's process group, if there is one running."""
        with self._lock:
            if self._child is not None and self._child.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._child.pid, number)

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stop_all.is_set():
                return None
            self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, start_new_session=True)
            return self._child


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
