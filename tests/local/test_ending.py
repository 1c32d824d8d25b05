import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from harness.wait import until

from telemetry_bridge.child import Child, Part
from telemetry_bridge.ending import Ending, end, is_gone
from telemetry_bridge.errors import CannotStart
from telemetry_bridge.logs import PartLog

OBEDIENT = "import signal; print('ready', flush=True); signal.pause()"
STUBBORN = (
    "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "inner = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True);"
    "print('ready', inner.pid, flush=True)\n"
    "while True: signal.pause()"
)


@pytest.fixture
def started() -> Iterator[list[Child]]:
    children: list[Child] = []
    yield children
    for child in children:
        child.end(hurry=lambda: True)


def start(children: list[Child], directory: Path, code: str, grace_seconds: float = 10) -> Child:
    part = Part("part", (sys.executable, "-c", code), {}, Ending(signal.SIGTERM, grace_seconds))
    child = Child(part, PartLog(directory / f"part{len(children)}.log"))
    children.append(child)
    return child


def output(child: Child) -> str:
    return child.log.path.read_text()


def test_a_part_that_follows_is_not_killed(started: list[Child], tmp_path: Path) -> None:
    child = start(started, tmp_path, OBEDIENT)
    until(lambda: "ready" in output(child), 10, "the part")
    assert child.exit_code is None
    assert child.end(hurry=lambda: False)
    assert child.exit_code == -signal.SIGTERM


def test_a_part_that_does_not_follow_is_killed_with_its_descendants(started: list[Child], tmp_path: Path) -> None:
    child = start(started, tmp_path, STUBBORN, grace_seconds=0.2)
    until(lambda: "ready" in output(child), 10, "the part")
    inner = psutil.Process(int(output(child).split()[1]))
    assert not child.end(hurry=lambda: False)
    assert child.exit_code == -signal.SIGKILL
    assert is_gone(inner)


def test_hurry_ends_the_waiting(started: list[Child], tmp_path: Path) -> None:
    child = start(started, tmp_path, STUBBORN, grace_seconds=3_600)
    until(lambda: "ready" in output(child), 10, "the part")
    asked = iter([False, False, True])
    assert not child.end(hurry=lambda: next(asked))
    assert child.exit_code == -signal.SIGKILL


def test_ending_what_has_ended_is_harmless() -> None:
    popen = subprocess.Popen([sys.executable, "-c", ""])
    process = psutil.Process(popen.pid)
    popen.wait()
    assert end(process, Ending(signal.SIGTERM, grace_seconds=1))


def test_failure_shows_how_it_ended_and_the_end_of_its_log(started: list[Child], tmp_path: Path) -> None:
    child = start(started, tmp_path, "import sys; sys.exit('the broker refused')")
    until(lambda: child.exit_code is not None, 10, "the part to end")
    assert str(child.failure()).endswith(
        f"ended with exit code 1; the end of its log {child.log.path}:\n    the broker refused"
    )

    killed = start(started, tmp_path, "import signal; signal.pause()")
    killed.process.kill()
    assert str(killed.failure()).endswith(f"was ended by SIGKILL; its log {killed.log.path} is empty")


def test_a_program_that_is_not_there_is_a_message(tmp_path: Path) -> None:
    part = Part("broker", (str(tmp_path / "mosquitto"),), {})
    with pytest.raises(CannotStart, match="mosquitto for the broker: No such file"):
        Child(part, PartLog(tmp_path / "broker.log"))
