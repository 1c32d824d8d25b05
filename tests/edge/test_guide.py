"""docs/edge.md: every command in it does what it says, and every command and section of the configuration is in it."""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from harness.broker import Mosquitto
from harness.processes import NewProcess, Process
from harness.wait import until

from edge_agent.cli import parser
from edge_agent.config import Config

GUIDE = (Path(__file__).parents[2] / "docs" / "edge.md").read_text()
PROGRAM = Path(sys.executable).with_name("edge-agent")

# What needs a machine with systemd of its own, or is done in tests/test_distribution.py (the installation).
ELSEWHERE = {
    "sudo python3 -m venv /opt/edge-agent",
    "sudo /opt/edge-agent/bin/pip install .",
    "sudo ln -sf /opt/edge-agent/bin/edge-agent /usr/local/bin/edge-agent",
    "sudo systemctl daemon-reload",
    "systemctl status edge-agent",
    "journalctl --unit edge-agent --lines 20",
}


def commands() -> list[str]:
    return [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]


class Machine:
    """A tree in place of /, and a process in place of the service."""

    def __init__(self, root: Path, broker: Mosquitto, port: int, new_process: NewProcess) -> None:
        self.root = root
        self.broker = broker
        self.address = f"127.0.0.1:{port}"
        self.config = root / "etc/edge-agent/edge-agent.yaml"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EDGE_AGENT_")},
            "EDGE_AGENT_CONFIG": str(self.config),
        }
        self.service: Process = new_process([PROGRAM, "run"], env=self.environment)

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(line.replace("/etc/edge-agent/", f"{self.config.parent}/"))
        words = [word.replace("127.0.0.1:9273", self.address) for word in words]
        if words[0] == "sudo":
            words = words[3:] if words[1] == "-u" else words[1:]
        if words[:2] == ["edge-agent", "install-service"]:
            words += ["--root", str(self.root)]
        if words[0] == "mosquitto_sub":
            words += ["-p", str(self.broker.port)]
        words[0] = str(PROGRAM) if words[0] == "edge-agent" else words[0]
        environment = self.environment if self.config.exists() else os.environ
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def configure(self) -> None:
        """What the newcomer edits."""
        written = yaml.safe_load(self.config.read_text())
        written["broker"]["port"] = self.broker.port
        written["outbox"]["path"] = str(self.root / "var/lib/edge-agent/outbox.db")
        written["status"]["listen"] = self.address
        written["delivery"]["confirm"] = "broker"
        self.config.write_text(yaml.safe_dump(written))

    def systemctl(self, line: str) -> None:
        if "--signal=SIGKILL" in line:
            self.service.kill()
            self.start()
        elif " stop " in line:
            self.service.terminate()
            assert self.service.wait(60) == 0, self.service.tail()
        else:
            self.start()

    def start(self) -> None:
        begun = self.service.output().count("measuring as device")
        self.service.start()
        until(lambda: self.service.output().count("measuring as device") > begun, 30, "the agent to begin")


@pytest.fixture
def machine(tmp_path: Path, broker: Mosquitto, free_port: Callable[[], int], new_process: NewProcess) -> Machine:
    if os.geteuid() != 0 or shutil.which("systemd-sysusers") is None:
        pytest.skip("only root can make users, with systemd-sysusers (Debian: apt-get install systemd)")
    return Machine(tmp_path / "root", broker, free_port(), new_process)


@pytest.mark.slow
def test_every_command_does_what_it_says(machine: Machine) -> None:
    machine.root.mkdir()
    for line in commands():
        if line in ELSEWHERE or line.startswith("edge-agent run --config"):
            continue
        if "systemctl" in line:
            machine.systemctl(line)
            continue
        done = machine.run(line)
        assert done.returncode == 0, f"{line}:\n{done.stdout}{done.stderr}"
        if line == "sudo edge-agent install-service":
            machine.configure()
        if line.endswith("/healthz"):
            assert done.stdout == "ok\n"
        if line.endswith("/metrics"):
            assert "\nmemory_total_bytes " in done.stdout
        if line.startswith("mosquitto_sub"):
            assert '"online":true' in done.stdout
        if line == "sudo edge-agent outbox fsck":
            assert done.stdout.endswith("outbox.db is sound\n")
        if line.endswith("outbox stats --json"):
            assert json.loads(done.stdout)["next_seq"] > 1


def test_it_tells_of_nothing_that_is_not_tested() -> None:
    programs = {"edge-agent", "curl", "mosquitto_sub"}
    left = [
        line
        for line in commands()
        if line not in ELSEWHERE
        and line.removeprefix("sudo ").removeprefix("-u edge-agent ").split()[0] not in programs
        and not re.fullmatch(r"sudo systemctl (stop|start|enable --now|kill --signal=SIGKILL) edge-agent", line)
    ]
    assert left == []


def test_every_command_and_option_is_in_it() -> None:
    missing = [
        words
        for command, options in described(parser())
        for words in (command, *(f"{command} {option}" for option in options))
        if not set(words.split()) <= set(re.findall(r"[\w-]+", GUIDE)) or (words == command and command not in GUIDE)
    ]
    assert missing == []


def described(program: argparse.ArgumentParser) -> Iterator[tuple[str, list[str]]]:
    """Each command with its long options."""
    for action in program._actions:  # noqa: SLF001 - argparse tells it in no other way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for sub in action.choices.values():
                yield from described(sub)
            return
    options = [option for option in program._option_string_actions if option.startswith("--")]  # noqa: SLF001
    yield program.prog, [option for option in options if option != "--help"]


def test_every_section_of_the_configuration_is_in_it() -> None:
    rows = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"(?m)^\| (`.*?) \|", GUIDE))))
    assert set(Config.__struct_fields__) <= rows


def test_its_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([\w./-]+)\)", GUIDE) + re.findall(r"`(tests/[\w/.]+)`", GUIDE)
    here = Path(__file__).parents[2]
    assert targets
    assert [it for it in targets if not (here / it).exists() and not (here / "docs" / it).exists()] == []
