"""A real mosquitto on loopback."""

import os
import shutil
import socket
from pathlib import Path

from harness.absence import Absent
from harness.ports import free_port
from harness.processes import Process
from harness.wait import until

_START_SECONDS = 10.0


class Mosquitto:
    """An anonymous broker without persistence; `extra_config` is added to the end of its configuration.

    Raises Absent where there is no mosquitto. `directory` is made if missing and holds configuration and log.
    """

    host = "127.0.0.1"

    def __init__(self, directory: Path, port: int | None = None, extra_config: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port() if port is None else port
        self._config = directory / "mosquitto.conf"
        self._config.write_text(self._configuration(extra_config))
        self._process = Process([_program(), "-c", self._config], log=directory / "mosquitto.log")

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        """Start it, also again after `stop` or `kill`; returns when it accepts connections."""
        self._process.start()
        until(self._accepts, _START_SECONDS, f"mosquitto to listen on port {self.port}")

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended."""
        self._process.terminate()
        self._process.wait(_START_SECONDS)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone: what it held in memory is lost."""
        self._process.kill()

    def close(self) -> None:
        """End it in whatever state it is."""
        self._process.close()

    def output(self) -> str:
        """Its log."""
        return self._process.output()

    def _accepts(self) -> bool:
        assert self._process.running, f"mosquitto ended:\n{self._process.tail()}"
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def _configuration(self, extra: str) -> str:
        lines = [
            f"listener {self.port} {self.host}",
            "allow_anonymous true",
            "persistence false",
            "log_dest stderr",  # which is not buffered
            "log_type error",
            "log_type warning",
            "log_type notice",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # else it becomes `mosquitto`, who may not enter a test's directory
        return "\n".join([*lines, extra, ""])


def _program() -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    program = shutil.which("mosquitto", path=path)
    if program is None:
        raise Absent("mosquitto is not installed (Debian: apt-get install mosquitto)")
    return program
