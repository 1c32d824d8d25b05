"""The `processes` collector against processes of the test's making, and real ones."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from harness.wait import until

from edge_agent.collectors.processes import Processes
from edge_agent.config import Processes as Config
from edge_agent.config import load
from edge_agent.errors import ConfigError
from telemetry_contract.series import SeriesKey


class Machine:
    """Answers like psutil about processes that the test starts."""

    def __init__(self) -> None:
        self.processes: dict[int, dict[str, Any]] = {}
        self.now = 1000.0

    def run(self, pid: int, name: str, *, cpu: float = 0.0, rss: int = 10, vms: int = 100, since: float = 1.0) -> None:
        self.processes[pid] = {
            "name": name,
            "create_time": since,
            "cpu_times": SimpleNamespace(user=0.75 * cpu, system=0.25 * cpu),
            "memory_info": SimpleNamespace(rss=rss, vms=vms),
        }

    def process_iter(self, attributes: list[str]) -> Iterator[SimpleNamespace]:
        for pid, told in self.processes.items():
            assert sorted(told) == sorted(attributes)
            yield SimpleNamespace(pid=pid, info=told)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def machine() -> Machine:
    return Machine()


def processes_of(machine: Machine, **wanted: Any) -> Processes:
    return Processes(Config(**wanted), system=machine, monotonic=machine.monotonic)


def of(found: dict[str, float | None], name: str) -> dict[str, float | None]:
    """What there is of a name, by metric."""
    keys = {key: SeriesKey.parse(key) for key in found}
    return {it.metric: found[key] for key, it in keys.items() if it.labels == (("process", name),)}


def names(found: dict[str, float | None]) -> list[str]:
    return sorted({dict(SeriesKey.parse(key).labels)["process"] for key in found})


def test_processes_of_one_name_are_added_up(machine: Machine) -> None:
    processes = processes_of(machine)
    machine.run(1, "web", cpu=5, rss=100)
    machine.run(2, "web", cpu=7, rss=200)
    assert of(processes.collect(), "web") == {
        "process_cpu_percent": None,
        "process_resident_memory_bytes": 300,
        "process_count": 2,
    }
    machine.run(1, "web", cpu=10, rss=100)
    machine.run(2, "web", cpu=22, rss=250)
    machine.now += 10
    assert of(processes.collect(), "web") == {
        "process_cpu_percent": pytest.approx(200),
        "process_resident_memory_bytes": 350,
        "process_count": 2,
    }


def test_a_process_that_is_new_has_spent_what_it_used_and_one_that_ended_takes_nothing_back(machine: Machine) -> None:
    processes = processes_of(machine)
    machine.run(1, "web", cpu=500)
    processes.collect()
    del machine.processes[1]
    machine.run(2, "web", cpu=3)
    machine.now += 10
    assert of(processes.collect(), "web")["process_cpu_percent"] == pytest.approx(30)


def test_a_process_id_that_is_used_again_is_another_process(machine: Machine) -> None:
    processes = processes_of(machine)
    machine.run(1, "web", cpu=2, since=100)
    processes.collect()
    machine.run(1, "web", cpu=3, since=200)
    machine.now += 10
    assert of(processes.collect(), "web")["process_cpu_percent"] == pytest.approx(30)


def test_the_names_that_use_the_most_are_shown(machine: Machine) -> None:
    for pid, name in enumerate("abcde"):
        machine.run(pid, name, cpu=pid, rss=100 - pid)
    assert names(processes_of(machine, top=2, by="cpu").collect()) == ["d", "e"]
    assert names(processes_of(machine, top=2, by="memory").collect()) == ["a", "b"]
    assert processes_of(machine, top=0).collect() == {}


def test_what_was_spent_since_the_look_before_decides(machine: Machine) -> None:
    processes = processes_of(machine, top=1)
    machine.run(1, "old", cpu=1000)
    machine.run(2, "busy", cpu=1)
    assert names(processes.collect()) == ["old"]
    machine.run(2, "busy", cpu=5)
    machine.now += 30
    assert names(processes.collect()) == ["busy", "old"]  # one that was among the top stays for a while


def test_a_name_stays_for_ten_minutes_after_it_was_among_the_top(machine: Machine) -> None:
    processes = processes_of(machine, top=1)
    machine.run(1, "brief", cpu=1, rss=50)
    processes.collect()
    machine.processes = {}
    for look in range(20):
        machine.run(2, "steady", cpu=10 * look + 2)
        machine.now += 30
        found = processes.collect()
        assert names(found) == (["brief", "steady"] if look < 19 else ["steady"])
        if look < 19:
            assert of(found, "brief") == {
                "process_cpu_percent": 0,
                "process_resident_memory_bytes": 0,
                "process_count": 0,
            }


def test_however_many_take_turns_there_are_never_more_than_twice_the_top(machine: Machine) -> None:
    processes = processes_of(machine, top=2)
    for turn in range(50):
        machine.processes = {}
        for it in range(2):
            machine.run(it, f"name-{turn}-{it}", cpu=1 + it, since=turn)
        machine.now += 1
        found = names(processes.collect())
        assert len(found) <= 4
        assert {f"name-{turn}-0", f"name-{turn}-1"} <= set(found)


def test_names_that_are_asked_for_are_shown_also_when_nothing_runs(machine: Machine) -> None:
    processes = processes_of(machine, top=0, names=("nginx", "a.b"))
    machine.run(1, "axb", cpu=5)
    machine.run(2, "nginx", cpu=5)
    processes.collect()
    machine.now += 10
    found = processes.collect()
    assert names(found) == ["a.b", "nginx"]
    assert of(found, "nginx")["process_count"] == 1
    assert of(found, "a.b") == {
        "process_cpu_percent": 0,
        "process_resident_memory_bytes": 0,
        "process_count": 0,
    }


def test_a_regular_expression_asks_for_every_name_that_it_matches_as_a_whole(machine: Machine) -> None:
    for pid, name in enumerate(("postgres", "postgresql", "my-postgres", "/")):
        machine.run(pid, name)
    assert names(processes_of(machine, top=0, names=("/post.*/",)).collect()) == ["postgres", "postgresql"]
    assert names(processes_of(machine, top=0, names=("/p.*s/",)).collect()) == ["postgres"]
    assert names(processes_of(machine, top=0, names=("/", "//")).collect()) == ["/", "//"]  # nothing between them


def test_threads_of_the_kernel_and_processes_that_do_not_tell_are_left_out(machine: Machine) -> None:
    machine.run(2, "kworker/0:1", cpu=50, rss=0, vms=0)
    machine.run(3, "secret", cpu=50)
    machine.processes[3]["memory_info"] = None
    machine.run(4, "web", cpu=1)
    assert names(processes_of(machine).collect()) == ["web"]


def test_a_name_may_be_anything(machine: Machine) -> None:
    machine.run(1, 'a"b\\c\nd\udcff{}', cpu=1)
    assert names(processes_of(machine).collect()) == ['a"b\\c?d?{}']


@contextmanager
def running(program: Path, code: str) -> Iterator[psutil.Process]:
    """A Python that is called as no other program here."""
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-S", "-E", "-c", code]) as child:
        try:
            process = psutil.Process(child.pid)
            until(lambda: process.name() == program.name, 10, "the start of the program")
            yield process
        finally:
            child.kill()


def test_real_processes_are_seen_come_and_go(tmp_path: Path) -> None:
    name = f"waiting-{os.getpid()}"
    processes = Processes(Config(top=3, names=(name,)))
    assert of(processes.collect(), name)["process_count"] == 0
    with running(tmp_path / name, "import time; time.sleep(60)") as process:
        found = of(processes.collect(), name)
        assert found["process_count"] == 1
        assert 0 < (found["process_resident_memory_bytes"] or 0) <= process.memory_info().rss
    assert of(processes.collect(), name)["process_count"] == 0


def test_cpu_usage_of_a_real_process_is_what_it_spends(tmp_path: Path) -> None:
    name = f"busy-{os.getpid()}"
    processes = Processes(Config(top=0, names=(name,)))
    with running(tmp_path / name, "while True: pass") as process:
        processes.collect()
        began, before = time.monotonic(), process.cpu_times().user
        until(lambda: process.cpu_times().user > before + 0.5, 60, "half a second of CPU time")
        percent = of(processes.collect(), name)["process_cpu_percent"]
        spent, elapsed = process.cpu_times().user - before, time.monotonic() - began
    assert percent == pytest.approx(100 * spent / elapsed, rel=0.35)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "{names: [web, '/(/']}",
            r"collectors\.processes\.names\[1\] must hold a regular expression .*, got .* \(.*edge.yaml line 1\)",
        ),
        ("{names: ['']}", r"collectors\.processes\.names\[0\] must not be empty"),
        ("{top: -1}", r"collectors\.processes\.top must be at least 0, got -1"),
        ("{by: disk}", r"collectors\.processes\.by must be 'cpu' or 'memory', got 'disk'"),
    ],
)
def test_a_problem_of_the_configuration_names_key_and_place(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "edge.yaml"
    file.write_text(f"collectors: {{processes: {text}}}\n")
    with pytest.raises(ConfigError, match=says):
        load(file, {})
