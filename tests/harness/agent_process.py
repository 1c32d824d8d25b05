"""An edge agent under test as operators see it: its configuration file, its process, what it tells over HTTP."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from harness.ports import free_port
from harness.processes import NewProcess, Process
from harness.wait import until

PROGRAM = Path(sys.executable).with_name("edge-agent")
QUIET = {name: {"enabled": False} for name in ("cpu", "disk", "network", "temperature", "sensors", "containers")}


class Agent:
    """Measures memory and itself, and tells of itself at `port`."""

    def __init__(self, directory: Path, new_process: NewProcess) -> None:
        self.port = free_port()
        self.broker = {"host": "127.0.0.1", "port": free_port()}
        self.file = directory / "edge.yaml"
        self.log = directory / "log"
        self.outbox = directory / "outbox.db"
        self.process = new_process([PROGRAM, "run", "--config", self.file])

    def write(self, *, interval: float = 0.1, **more: Any) -> None:
        collectors = {**QUIET, **more.pop("collectors", {})}
        content = {
            "device": "pump",
            "site": "plant",
            "broker": self.broker,
            "sampling": {"interval_seconds": interval},
            "collectors": collectors,
            "outbox": {"path": str(self.outbox)},
            "status": {"listen": f"127.0.0.1:{self.port}"},
            **more,
        }
        self.file.write_text(yaml.safe_dump(content))

    def start(self) -> Process:
        self.process.start()
        until(lambda: "measuring as device" in self.said(), 20, "the agent to start")
        return self.process

    def said(self) -> str:
        file = self.log / "edge.log"
        return self.process.output() + (file.read_text() if file.exists() else "")

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    def metrics(self) -> dict[str, float]:
        lines = [line for line in self.get("/metrics")[1].splitlines() if not line.startswith("#")]
        return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines)}

    def status(self) -> Any:
        return json.loads(self.get("/status")[1])
