"""An edge agent under test: its configuration, its process, and what its outbox has committed."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw
import yaml

from harness.broker import Mosquitto
from harness.processes import Process
from harness.wait import until

# Counts up by one each time it runs; the file is replaced at once, so that a kill leaves the old or the new number.
_COUNT_UP = """
import os, pathlib, sys
file = pathlib.Path(sys.argv[1])
number = int(file.read_text()) + 1 if file.exists() else 1
aside = file.with_suffix(".new")
aside.write_text(str(number))
os.replace(aside, file)
print('{"count_up_total": %d}' % number)
"""

_BEGUN = "measuring as device"

QUIET = {name: {"enabled": False} for name in ("cpu", "memory", "disk", "network", "temperature", "host", "containers")}


class Agent:
    """An agent that measures nothing but an `exec` collector counting up, every `interval` seconds."""

    def __init__(
        self,
        directory: Path,
        broker: Mosquitto,
        *,
        interval: float,
        delivery: Mapping[str, Any] | None = None,
        device: str = "pump",
    ) -> None:
        directory.mkdir(parents=True)
        self.device = device
        self.outbox = directory / "outbox.db"
        self._directory = directory
        self._broker = broker
        self._delivery = dict(delivery or {})
        self._config = directory / "edge.yaml"
        self.set_interval(interval)
        self.process = Process(
            [Path(sys.executable).with_name("edge-agent"), "run", "--config", self._config],
            log=directory / "agent.log",
        )

    def set_interval(self, seconds: float) -> None:
        """Takes effect at the next start."""
        script = self._directory / "count_up.py"
        script.write_text(_COUNT_UP)
        command = [sys.executable, "-S", "-E", str(script), str(self._directory / "count")]
        self._config.write_text(
            yaml.safe_dump(
                {
                    "device": self.device,
                    "site": "plant",
                    "broker": {"host": self._broker.host, "port": self._broker.port},
                    "collectors": {
                        **QUIET,
                        "exec": [{"name": "count_up", "command": command, "interval_seconds": seconds}],
                    },
                    "outbox": {"path": str(self.outbox)},
                    "delivery": self._delivery,
                    "status": {"listen": None},
                }
            )
        )

    def drain(self, timeout: float) -> None:
        """Runs it, stopped until now, without measuring more than once, until its outbox is empty; stops it cleanly."""
        self.set_interval(3_600)
        begun = self.process.output().count(_BEGUN)
        self.process.start()
        # From then on it hears SIGTERM.
        until(lambda: self.process.output().count(_BEGUN) > begun, 30, "the agent to begin")
        until(lambda: self.depth() == 0, timeout, "an empty outbox")
        self.stop()

    def stop(self) -> None:
        """SIGTERM; it must end well."""
        self.process.terminate()
        assert self.process.wait(60) == 0, self.process.tail()

    def last_seq(self) -> int:
        """The highest sequence number that was ever committed to the outbox, kept there or delivered since."""
        return self._ask("select max(seq) from sqlite_sequence where name = 'tick'")

    def depth(self) -> int:
        """How many ticks the outbox holds."""
        return self._ask("select count(*) from tick")

    def _ask(self, query: str) -> int:
        connection = apsw.Connection(str(self.outbox), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            row = connection.execute(query).fetchone()
        finally:
            connection.close()
        return int(row[0]) if row and row[0] is not None else 0
