"""What an agent makes of desired configurations: the process, with a broker and something that commits."""

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.agent_process import Agent
from harness.broker import Mosquitto
from harness.committer import Committer
from harness.processes import NewProcess
from harness.wait import until

from telemetry_contract.payload import DesiredState

SLOW = 3_600.0


@pytest.fixture
def cloud(broker: Mosquitto) -> Iterator[Committer]:
    with Committer(broker.host, broker.port) as cloud:
        yield cloud


@pytest.fixture
def agent(tmp_path: Path, new_process: NewProcess, broker: Mosquitto) -> Agent:
    agent = Agent(tmp_path, new_process)
    agent.broker = {"host": broker.host, "port": broker.port}
    agent.write(interval=SLOW)
    return agent


def desire(cloud: Committer, version: int, **settings: Any) -> None:
    cloud.desire(json.dumps({"v": 1, "version": version, **settings}).encode())


def faster(cloud: Committer, version: int) -> None:
    desire(cloud, version, sampling={"interval_seconds": 0.1})


def told(agent: Agent) -> Any:
    return agent.status()["desired"]


def wait_for(agent: Agent, **state: Any) -> None:
    seen: list[Any] = []

    def says_so() -> bool:
        seen[:] = [told(agent)]
        return bool(seen[0] == state)

    try:
        until(says_so, 20, f"the agent to say {state}")
    except AssertionError as exc:
        raise AssertionError(f"{exc}; it says {seen}") from None


def restart(agent: Agent) -> None:
    agent.process.kill()
    begun = agent.said().count("measuring as device")
    agent.process.start()
    until(lambda: agent.said().count("measuring as device") > begun, 20, "the agent to start again")


def beats(agent: Agent) -> float:
    """How often it has measured itself."""
    return max((value for key, value in agent.metrics().items() if key.startswith("agent_heartbeat_total")), default=0)


def wait_measuring_fast(agent: Agent) -> None:
    before = beats(agent)
    until(lambda: beats(agent) > before + 3, 20, "ticks at the desired interval")


def test_what_is_desired_takes_effect_and_outlives_agent_and_broker(
    agent: Agent, cloud: Committer, broker: Mosquitto
) -> None:
    agent.start()
    until(lambda: "memory_total_bytes" in agent.metrics(), 20, "the first tick")
    desire(
        cloud,
        7,
        sampling={"interval_seconds": 0.1},
        collectors={"memory": {"enabled": False}},
        labels={"building": "north"},
    )
    wait_for(agent, state="applied", version=7, in_effect=7)
    wait_measuring_fast(agent)
    assert not any(key.startswith("memory") for key in agent.metrics())
    until(lambda: all('building="north"' in key for key in cloud.arrivals[-1].message.values), 20, "labels everywhere")
    expected = DesiredState(state="applied", version=7, in_effect=7)
    until(lambda: cloud.statuses[-1][0].desired == expected, 20, "the status message to say so")
    broker.kill()
    restart(agent)
    assert told(agent) == {"state": "applied", "version": 7, "in_effect": 7}
    wait_measuring_fast(agent)


def test_one_under_which_nothing_is_confirmed_is_taken_back_and_not_tried_again(agent: Agent, cloud: Committer) -> None:
    agent.write(interval=SLOW, desired={"confirm_within_seconds": 1})
    agent.start()
    faster(cloud, 1)
    wait_for(agent, state="applied", version=1, in_effect=1)
    cloud.acknowledging = False
    desire(cloud, 2, sampling={"interval_seconds": 0.2}, labels={"bad": "one"})
    reverted = {"state": "reverted", "version": 2, "reason": "no sample was confirmed within 1 s", "in_effect": 1}
    wait_for(agent, **reverted)
    wait_measuring_fast(agent)
    assert not any("bad" in key for key in agent.metrics())
    cloud.acknowledging = True
    tried = agent.said().count("desired configuration 2: trying")
    desire(cloud, 2, sampling={"interval_seconds": 0.2}, labels={"bad": "one"})
    restart(agent)  # which hears the retained one again
    until(lambda: told(agent) == reverted, 20, "it to be known as bad")
    assert agent.said().count("desired configuration 2: trying") == tried == 1
    desire(cloud, 3, sampling={"interval_seconds": 0.2}, labels={"bad": "no more"})
    wait_for(agent, state="applied", version=3, in_effect=3)


def test_an_empty_message_gives_the_device_back_to_itself(agent: Agent, cloud: Committer) -> None:
    agent.start()
    desire(cloud, 1, labels={"building": "north"})
    wait_for(agent, state="applied", version=1, in_effect=1)
    cloud.desire(b"")
    until(lambda: told(agent) is None, 20, "the device's own configuration")
    until(lambda: "memory_total_bytes" in agent.metrics(), 20, "series without the label")
    restart(agent)
    assert told(agent) is None


def test_a_kill_while_it_is_tried_loses_neither_the_good_one_nor_the_trial(agent: Agent, cloud: Committer) -> None:
    agent.start()
    faster(cloud, 1)
    wait_for(agent, state="applied", version=1, in_effect=1)
    cloud.acknowledging = False
    desire(cloud, 2, sampling={"interval_seconds": 0.2})
    wait_for(agent, state="trying", version=2, in_effect=2)
    restart(agent)
    wait_for(agent, state="trying", version=2, in_effect=2)
    cloud.acknowledging = True
    wait_for(agent, state="applied", version=2, in_effect=2)


def test_one_that_ends_the_agent_again_and_again_is_given_up(agent: Agent, cloud: Committer) -> None:
    cloud.acknowledging = False
    faster(cloud, 1)
    agent.start()
    for _ in range(3):
        wait_for(agent, state="trying", version=1, in_effect=1)
        restart(agent)
    reason = "the agent ended 3 times before a sample was confirmed"
    wait_for(agent, state="reverted", version=1, reason=reason)


def test_one_that_does_not_fit_is_refused_with_the_reason(agent: Agent, cloud: Committer) -> None:
    agent.start()
    desire(cloud, 1, collectors={"exec.boiler": {"interval_seconds": 5}})
    reason = "collectors.exec.boiler is not there: this device has none in exec"
    wait_for(agent, state="refused", version=1, reason=reason)
    desire(cloud, 2, broker={"host": "elsewhere"})
    wait_for(agent, state="refused", version=2, reason="broker is not a key that may be set")
    assert agent.status()["ignored_configs"] == 0


def test_the_file_of_the_device_and_what_is_desired_hold_together(agent: Agent, cloud: Committer) -> None:
    agent.start()
    desire(cloud, 1, sampling={"interval_seconds": 0.1})
    wait_for(agent, state="applied", version=1, in_effect=1)
    agent.write(interval=SLOW, labels={"building": "north"})
    agent.process.signal(signal.SIGHUP)
    until(lambda: "the configuration is reloaded" in agent.said(), 20, "the reload")
    until(lambda: any('building="north"' in key for key in agent.metrics()), 20, "the label of the file")
    wait_measuring_fast(agent)


def test_where_the_cloud_may_change_nothing_it_changes_nothing(agent: Agent, cloud: Committer) -> None:
    agent.write(interval=0.1, desired={"enabled": False})
    faster(cloud, 1)
    agent.start()
    cloud.wait_for(5)  # the retained message comes with the subscription, before the first of these is confirmed
    assert told(agent) is None
    assert cloud.statuses[-1][0].desired is None
    assert "desired configuration" not in agent.said()


def hostile(seed: int) -> Iterator[bytes]:
    """Bytes of many kinds, some near to what is expected."""
    chance = random.Random(seed)  # noqa: S311 - the same ones each time
    good = b'{"v":1,"version":1,"sampling":{"interval_seconds":0.1},"stream":"0190a5c2-7f3b-7c1e-9d52-3b6c1f2a4e10"}'
    yield from (b"\x00", b"null", b"[]", b'"x"', b"1e999", b"\xff\xfe", b"[" * 50_000, b'{"v":' * 20_000)
    yield from (b"\x28\xb5\x2f\xfd" + bytes(20), b"\x78\x9c" + bytes(20), b"x" * 200_000)
    for _ in range(150):
        yield chance.randbytes(chance.randrange(1, 60))
        torn = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            torn[chance.randrange(len(torn))] = chance.randrange(256)
        yield bytes(torn[: chance.randrange(1, len(torn))])


def test_hostile_bytes_are_ignored_and_counted(agent: Agent, cloud: Committer) -> None:
    agent.write(interval=0.1)
    agent.start()
    for number, payload in enumerate(hostile(5)):
        cloud.publish(payload)
        cloud.desire(payload)
        if number % 10 == 0:  # of many at once only the newest is looked at
            ignored = agent.metrics()["agent_ignored_configs_total"]
            cloud.desire(b"{%d" % number)
            until(lambda: agent.metrics()["agent_ignored_configs_total"] > ignored, 20, "it to be counted")  # noqa: B023
    until(lambda: agent.metrics()["agent_ignored_acks_total"] >= 300, 20, "every one on the ack topic to be counted")
    assert agent.status()["ignored_configs"] >= 30
    assert agent.said().count("WARNING ignored a message on") == 2
    assert agent.get("/healthz") == (200, "ok\n")
    faster(cloud, 9)
    wait_for(agent, state="applied", version=9, in_effect=9)
