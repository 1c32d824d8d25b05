"""The supervisor with its real children, on a real broker and database."""

import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from harness.broker import Mosquitto
from harness.device import Device
from harness.ports import free_port
from harness.postgres import Server, new_database
from harness.processes import NewProcess, Process, is_gone
from harness.wait import until

from cloud_ingest.run import ROLES, Restarts

PROGRAM = Path(sys.executable).with_name("cloud-ingest")


def test_a_role_is_started_again_later_each_time_until_it_has_run_long_enough() -> None:
    restarts = Restarts()
    delays = []
    for ran in (0.1, 0.1, 59, 0, 0, 0, 0, 0, 60, 0.1):
        restarts = restarts.after(ran)
        delays.append(restarts.delay)
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 0.5, 1]


class Supervisor:
    """`cloud-ingest run` and what it started."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port

    def start(self) -> None:
        self.process.start()

    def children(self) -> dict[str, psutil.Process]:
        """The running child of each role."""
        found: dict[str, psutil.Process] = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                role = next((role for role in ROLES if role in child.cmdline()), None)
            except psutil.Error:
                continue
            if role is not None and not is_gone(child):
                found[role] = child
        return found

    def all_children(self) -> dict[str, psutil.Process]:
        return until(lambda: found if len(found := self.children()) == len(ROLES) else None, 20, "all roles") or {}

    def get(self, address: str) -> Any:
        """The content of a successful answer, None without one."""
        try:
            response = httpx2.get(f"http://127.0.0.1:{self.port}{address}", timeout=10)
        except httpx2.TransportError:
            return None
        return response.json() if response.status_code == 200 else None

    def until_ready(self) -> None:
        until(lambda: self.get("/readiness"), 30, f"the API to be ready:\n{self.process.tail()}")


@pytest.fixture
def supervisor(new_process: NewProcess, broker: Mosquitto, database_url: str) -> Supervisor:
    return supervised(new_process, broker, database_url)


def supervised(new_process: NewProcess, broker: Mosquitto, url: str, *args: str, **environ: str) -> Supervisor:
    port = free_port()
    settings = {
        "DATABASE_URL": url,
        "BROKER__HOST": broker.host,
        "BROKER__PORT": str(broker.port),
        "API__LISTEN": f"127.0.0.1:{port}",
        **environ,
    }
    process = new_process([PROGRAM, "run", *args], {f"CLOUD_INGEST_{name}": it for name, it in settings.items()})
    return Supervisor(process, port)


def all_gone(doomed: list[psutil.Process], timeout: float) -> None:
    until(lambda: all(map(is_gone, doomed)), timeout, f"{doomed} to be gone")


def test_one_command_takes_a_reading_from_the_broker_to_the_api(supervisor: Supervisor, broker: Mosquitto) -> None:
    supervisor.start()
    supervisor.until_ready()
    with Device(broker, "pump", "plant") as device:
        device.send_status()
        device.send_tick(1, time.time_ns() // 1_000_000, {"cpu_usage_percent": 12.5})
        device.wait_committed((1, 1), timeout=30)
        (item,) = supervisor.get("/api/v1/metrics/current")["items"]
        assert (item["device"], item["metric"], item["value"]) == ("pump", "cpu_usage_percent", 12.5)
        until(lambda: supervisor.get("/api/v1/devices")["items"][0]["online"], 15, "the device to be shown as online")
    supervisor.process.terminate()
    assert supervisor.process.wait(20) == 0


def test_a_role_that_dies_is_started_again_and_the_others_go_on(supervisor: Supervisor) -> None:
    supervisor.start()
    before = supervisor.all_children()
    supervisor.until_ready()
    before["api"].kill()
    after = until(
        lambda: found if (found := supervisor.children()).get("api", before["api"]) != before["api"] else None,
        15,
        "another API process",
    )
    assert after is not None
    assert {role: after[role].pid for role in ("ingest", "worker")} == {
        role: before[role].pid for role in ("ingest", "worker")
    }
    supervisor.until_ready()
    assert "api was ended by SIGKILL; it is started again in 0.5 s" in supervisor.process.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_and_ends_with_code_0(supervisor: Supervisor, number: signal.Signals) -> None:
    supervisor.start()
    children = list(supervisor.all_children().values())
    supervisor.until_ready()
    supervisor.process.signal(number)
    assert supervisor.process.wait(20) == 0
    assert all(map(is_gone, children))
    output = supervisor.process.output()
    assert "Traceback" not in output
    assert "is killed" not in output


def test_a_signal_right_at_the_start_leaves_nothing_behind(supervisor: Supervisor) -> None:
    supervisor.start()
    children: list[psutil.Process] = list(
        (until(lambda: supervisor.children() or None, 20, "a first role") or {}).values()
    )
    supervisor.process.terminate()
    assert supervisor.process.wait(25) == 0
    all_gone(children, 1)


def test_children_of_a_supervisor_that_was_killed_stop_by_themselves(supervisor: Supervisor) -> None:
    supervisor.start()
    children = list(supervisor.all_children().values())
    supervisor.until_ready()
    supervisor.process.kill()
    all_gone(children, 15)
    assert supervisor.process.output().count("the supervisor is gone") == len(ROLES)


def test_a_supervisor_can_itself_be_bound_to_standard_input(
    new_process: NewProcess, broker: Mosquitto, database_url: str
) -> None:
    supervisor = supervised(new_process, broker, database_url, "--until-stdin-closes")
    supervisor.start()  # with /dev/null for standard input, which is at its end
    assert supervisor.process.wait(25) == 0


def test_a_database_that_is_away_at_the_start_is_waited_for(
    new_process: NewProcess, broker: Mosquitto, own_database_server: Server
) -> None:
    with new_database(own_database_server) as url:
        own_database_server.stop()
        supervisor = supervised(new_process, broker, url)
        supervisor.start()
        until(lambda: "the database is away" in supervisor.process.output(), 15, "the supervisor to tell it")
        assert supervisor.children() == {}
        own_database_server.start()
        supervisor.until_ready()
        supervisor.process.terminate()
        assert supervisor.process.wait(20) == 0
    assert supervisor.process.output().count("the database is away") <= 2


def test_a_child_that_can_not_be_configured_ends_all_with_code_2(
    new_process: NewProcess, broker: Mosquitto, database_url: str, tmp_path: Path
) -> None:
    environ = {"BROKER__USERNAME": "u", "BROKER__PASSWORD_FILE": str(tmp_path / "none")}
    supervisor = supervised(new_process, broker, database_url, **environ)
    supervisor.start()
    assert supervisor.process.wait(30) == 2
    assert "can't run as it is configured; all stops" in supervisor.process.output()
    assert str(tmp_path / "none") in supervisor.process.output()
