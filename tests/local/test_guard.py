"""The guard and the record of leftovers, with a parent that is really killed."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from harness.processes import Process
from harness.wait import until

from telemetry_bridge import leftovers
from telemetry_bridge.ending import end, is_gone

# Starts two children under a guard, records them, says so, and waits to be killed.
PARENT = """
import signal, sys
from pathlib import Path
from telemetry_bridge import leftovers
from telemetry_bridge.child import Child, Part
from telemetry_bridge.ending import Ending
from telemetry_bridge.guard import Guard
from telemetry_bridge.logs import PartLog

directory = Path(sys.argv[1])
guard = Guard(PartLog(directory / "guard.log"))
code = '''
import signal, sys, time
def ended(*_):
    with open(sys.argv[1], "a") as file:
        file.write(sys.argv[2] + "\\\\n")
    sys.exit()
signal.signal(signal.SIGTERM, ended)
print("ready", flush=True)
while True:
    signal.pause()
'''
children = []
for name in ("older", "younger"):
    part = Part(name, (sys.executable, "-c", code, str(directory / "ended"), name), {}, Ending(signal.SIGTERM, 20))
    child = Child(part, PartLog(directory / f"{name}.log"))
    children.append(child)
    guard.watch(child.endable)
leftovers.record(directory / "running.json", [*(child.endable for child in children), guard.endable])
while not all("ready" in child.log.path.read_text() for child in children):
    pass
print("GUARD", guard._popen.pid, flush=True)
if len(sys.argv) > 2:
    for child in reversed(children):
        child.end(hurry=lambda: False)
    guard.dismiss()
else:
    signal.pause()
"""


@pytest.fixture(autouse=True)
def _nothing_is_left_by_a_failure(tmp_path: Path) -> Iterator[None]:
    yield
    for it in leftovers.find(tmp_path / "running.json"):
        if it.process.pid != os.getpid():
            it.process.kill()


def recorded(directory: Path) -> list[psutil.Process]:
    return [psutil.Process(entry["pid"]) for entry in json.loads((directory / "running.json").read_text())]


def test_a_later_run_waits_for_a_guard_that_is_at_work(new_process: Callable[..., Process], tmp_path: Path) -> None:
    parent, guard = started(new_process, tmp_path)
    parent.kill()
    for it in leftovers.find(tmp_path / "running.json"):
        assert end(it.process, it.ending)
    assert is_gone(guard)
    assert (tmp_path / "ended").read_text().split() == ["younger", "older"]


def started(new_process: Callable[..., Process], directory: Path) -> tuple[Process, psutil.Process]:
    """The parent and its guard."""
    parent = new_process([sys.executable, "-c", PARENT, directory])
    parent.start()
    until(lambda: "GUARD" in parent.output() or not parent.running, 20, "the parent")
    return parent, psutil.Process(int(parent.output().split()[-1]))


def test_children_of_a_killed_parent_are_ended_in_order(new_process: Callable[..., Process], tmp_path: Path) -> None:
    parent, guard = started(new_process, tmp_path)
    children = recorded(tmp_path)
    parent.kill()
    until(lambda: is_gone(guard), 20, "the guard to be done")
    assert all(map(is_gone, children))
    assert (tmp_path / "ended").read_text().split() == ["younger", "older"]
    assert "telemetry-bridge is gone; ending younger" in (tmp_path / "guard.log").read_text()


def test_a_guard_that_is_dismissed_ends_nothing(new_process: Callable[..., Process], tmp_path: Path) -> None:
    parent = new_process([sys.executable, "-c", PARENT, tmp_path, "clean"])
    parent.start()
    assert parent.wait(20) == 0, parent.output()
    assert not psutil.pid_exists(int(parent.output().split()[-1]))
    assert (tmp_path / "guard.log").read_text() == ""
    assert (tmp_path / "ended").read_text().split() == ["younger", "older"]


def test_leftovers_of_a_killed_parent_and_guard_are_found(new_process: Callable[..., Process], tmp_path: Path) -> None:
    parent, guard = started(new_process, tmp_path)
    guard.kill()
    until(lambda: is_gone(guard), 10, "the guard to be killed")
    parent.kill()
    found = leftovers.find(tmp_path / "running.json")
    try:
        assert [it.name for it in found] == ["younger", "older"]
    finally:
        for it in found:
            assert end(it.process, it.ending)
    assert leftovers.find(tmp_path / "running.json") == []


def test_a_process_that_only_inherited_the_number_is_no_leftover(tmp_path: Path) -> None:
    file = tmp_path / "running.json"
    own = psutil.Process()
    entry = {"name": "agent", "pid": os.getpid(), "signal": int(signal.SIGTERM), "grace_seconds": 1}
    file.write_text(json.dumps([{**entry, "started": own.create_time() - 60}]))
    assert leftovers.find(file) == []
    file.write_text(json.dumps([{**entry, "started": own.create_time()}]))
    assert [it.process.pid for it in leftovers.find(file)] == [os.getpid()]


def test_a_record_that_is_missing_or_torn_names_nothing(tmp_path: Path) -> None:
    assert leftovers.find(tmp_path / "running.json") == []
    (tmp_path / "running.json").write_text('[{"name": "age')
    assert leftovers.find(tmp_path / "running.json") == []
