"""The unit of the edge agent: valid, hardened, and in agreement with the agent."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parent.parent / "deploy" / "systemd" / "edge-agent.service"
MAX_EXPOSURE = 2.5


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    return program


def directives() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=", comment_prefixes="#")
    parser.optionxform = str  # type: ignore[assignment,method-assign] # the case of a directive matters
    parser.read(UNIT, encoding="utf-8")
    return parser


def test_systemd_has_nothing_to_say_about_it(analyze: str, tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    program = directives()["Service"]["ExecStart"].split()[0]
    here.write_text(UNIT.read_text().replace(program, str(Path(sys.executable).with_name("edge-agent"))))
    checked = subprocess.run([analyze, "verify", here], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_little_of_the_system_is_exposed_to_it(analyze: str) -> None:
    checked = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", UNIT], capture_output=True, text=True, check=True
    )
    found = re.search(r"Overall exposure level for edge-agent\.service: ([0-9.]+)", checked.stdout)
    assert found is not None, checked.stdout
    assert float(found[1]) <= MAX_EXPOSURE


def test_it_agrees_with_the_agent() -> None:
    service = directives()["Service"]
    _, *command = service["ExecStart"].split()
    assert command == ["run"]
    helped = subprocess.run(
        [Path(sys.executable).with_name("edge-agent"), *command, "--help"], capture_output=True, check=True
    )
    assert b"--config" in helped.stdout
    assert service["Type"] == "notify", "the agent says READY"
    assert float(service["WatchdogSec"]) >= 30, "a slow memory card must not look like a hang"
    assert service["RestartPreventExitStatus"] == "2", "the exit code for a bad configuration"
    assert service["StateDirectory"] == "edge-agent", "where the outbox is by default"
    assert "network-online.target" not in UNIT.read_text(), "it runs without a broker"
