"""The data directory: where everything lies, and the lock that lets one run use it at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from telemetry_bridge.errors import CannotStart


@dataclass(frozen=True)
class DataDirectory:
    """Paths below `root`, which is absolute."""

    root: Path

    @property
    def postgres(self) -> Path:
        """The database cluster."""
        return self.root / "postgres"

    @property
    def socket(self) -> Path:
        """Where the database listens, unless the path is too long for a socket."""
        return self.root / "socket"

    @property
    def broker_config(self) -> Path:
        """What mosquitto is started with; written anew by each run."""
        return self.root / "mosquitto.conf"

    @property
    def agent_config(self) -> Path:
        """The agent's settings; made by the first run, from then on the user's."""
        return self.root / "edge-agent.yaml"

    @property
    def outbox(self) -> Path:
        """The agent's outbox."""
        return self.root / "outbox.db"

    @property
    def logs(self) -> Path:
        """One file a part."""
        return self.root / "logs"

    @property
    def running(self) -> Path:
        """Which processes the present run has started; what is alive of an earlier run's is a leftover."""
        return self.root / "running.json"

    @property
    def _lock(self) -> Path:
        return self.root / "lock"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the directory where it is missing and hold its lock.

        The lock ends with this process however that ends; the processes it starts don't inherit it. Raises CannotStart
        where another run holds it or the directory can't be used.
        """
        try:
            self._make()
            lock = self._lock.open("a+", encoding="utf-8")
        except OSError as exc:
            raise CannotStart(
                f"data directory {self.root} can't be used: {exc.strerror or exc}; "
                "choose another: telemetry-bridge up --data-dir PATH"
            ) from exc
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                raise CannotStart(
                    f"data directory {self.root} is in use by {holder}; "
                    "stop that one, or use another directory: telemetry-bridge up --data-dir PATH"
                ) from exc
            lock.truncate(0)
            lock.write(f"telemetry-bridge up (process {os.getpid()})\n")
            lock.flush()
            yield

    def _make(self) -> None:
        new = not self.root.exists()
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(mode=0o700, exist_ok=True)
        if new:
            # Where the working directory is a git repository, nothing of this belongs into it.
            (self.root / ".gitignore").write_text("*\n", encoding="utf-8")
