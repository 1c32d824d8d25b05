"""Desired configuration from the API to the agent and back: real broker, database, worker, ingester and agent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness.agent_process import Agent
from harness.api import ok, serving
from harness.broker import Mosquitto
from harness.cloud import role
from harness.processes import NewProcess, Process
from harness.wait import until

from cloud_ingest.store.migrate import migrate

ADDRESS = "/api/v1/devices/pump/config"


class System:
    """A device that measures once an hour of its own accord, and the cloud that may want otherwise."""

    def __init__(self, client: httpx2.Client, agent: Agent, ingest: Process) -> None:
        self.client = client
        self.agent = agent
        self.ingest = ingest

    def want(self, **settings: Any) -> int:
        response = self.client.put(ADDRESS, json=settings)
        assert response.status_code == 200, response.text
        return int(response.json()["version"])

    def wait_reported(self, state: str, version: int, in_effect: int | None) -> Any:
        """What the API says that the device says."""

        def told() -> Any:
            reported = ok(self.client, ADDRESS)["reported"]
            fits = reported and (reported["state"], reported["version"], reported["in_effect"])
            return reported if fits == (state, version, in_effect) else None

        return until(told, 40, f"the device to report that {version} is {state}")

    def beats(self, **labels: str) -> float:
        """How often the device has measured itself, as far as the cloud knows."""
        items = ok(self.client, "/api/v1/metrics/current", device="pump", metric="agent_heartbeat_total")["items"]
        return max((item["value"] for item in items if item["labels"] == labels), default=0.0)

    def wait_fast(self, **labels: str) -> None:
        before = self.beats(**labels)
        until(lambda: self.beats(**labels) > before + 3, 30, "samples at the interval that is wanted")


@pytest.fixture
def system(database_url: str, broker: Mosquitto, tmp_path: Path, new_process: NewProcess) -> Iterator[System]:
    migrate(database_url)
    agent = Agent(tmp_path, new_process)
    agent.broker = {"host": broker.host, "port": broker.port}
    agent.write(interval=3_600, desired={"confirm_within_seconds": 10})
    ingest = role("ingest", tmp_path / "ingest", broker, database_url)
    worker = role("worker", tmp_path / "worker", broker, database_url)
    with ingest, worker, serving(database_url) as client:
        system = System(client, agent, ingest)
        agent.start()
        until(lambda: client.get(ADDRESS).status_code == 200, 40, "the cloud to hear of the device")
        until(lambda: system.beats() == 1, 40, "the one sample of its own accord")
        yield system


@pytest.mark.slow
def test_the_cloud_changes_an_agent_that_is_killed_and_takes_nothing_for_good_that_breaks_it(system: System) -> None:
    first = system.want(sampling={"interval_seconds": 0.2})
    until(lambda: f"desired configuration {first}: " in system.agent.said(), 30, "the agent to hear of it")
    system.agent.process.kill()  # right after it was applied
    system.agent.process.start()
    system.wait_reported("applied", first, first)
    system.wait_fast()

    system.ingest.kill()  # from now on nothing is confirmed
    bad = system.want(sampling={"interval_seconds": 0.3}, labels={"building": "north"})
    assert system.wait_reported("reverted", bad, first)["reason"] == "no sample was confirmed within 10 s"
    system.ingest.start()
    system.wait_fast()

    system.agent.process.kill()  # it hears the retained message again, and knows it
    system.agent.process.start()
    until(lambda: system.agent.said().count("measuring as device pump") == 3, 30, "the agent to begin again")
    system.wait_fast()
    system.wait_reported("reverted", bad, first)
    assert system.agent.said().count(f"desired configuration {bad}: trying") == 1

    again = system.want(sampling={"interval_seconds": 0.3}, labels={"building": "north"})
    system.wait_reported("applied", again, again)
    system.wait_fast(building="north")

    unknown = system.want(collectors={"exec.boiler": {"interval_seconds": 5.0}})
    refused = system.wait_reported("refused", unknown, again)
    assert refused["reason"] == "collectors.exec.boiler is not there: this device has none in exec"

    system.client.delete(ADDRESS)
    until(lambda: ok(system.client, ADDRESS)["reported"] is None, 40, "the device's own configuration")
