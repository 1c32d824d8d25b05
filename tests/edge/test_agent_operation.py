"""The agent as a process, as its operators see it: over HTTP, in its log files, when its configuration changes."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.agent_process import PROGRAM, Agent
from harness.broker import Mosquitto
from harness.committer import Committer
from harness.processes import NewProcess
from harness.wait import until

from edge_agent.config import Config
from edge_agent.orders import Orders
from edge_agent.reload import LIVE, change


@pytest.fixture
def agent(tmp_path: Path, new_process: NewProcess) -> Agent:
    return Agent(tmp_path, new_process)


def test_it_tells_what_it_measures_and_how_it_fares(agent: Agent, broker: Mosquitto) -> None:
    agent.write(broker={"host": broker.host, "port": broker.port})
    with Committer(broker.host, broker.port) as cloud:
        agent.start()
        cloud.wait_for(3)
        until(lambda: agent.metrics().get("agent_confirmed_ticks_total", 0) > 2, 20, "confirmations to be told")
    told = agent.metrics()
    assert told["memory_total_bytes"] > 1e6
    assert told["agent_connected"] == told["agent_healthy"] == 1
    assert told["agent_sent_messages_total"] >= 3
    assert told['agent_collector_failures_total{collector="memory"}'] == 0
    assert agent.get("/healthz") == (200, "ok\n")
    assert agent.status()["delivery"]["outbox"]["next_seq"] > 3
    broker.kill()
    until(lambda: agent.metrics()["agent_connected"] == 0, 20, "the loss of the broker to be told")
    until(lambda: agent.metrics()["agent_outbox_ticks"] > 2, 20, "ticks to wait")
    assert agent.get("/healthz") == (200, "ok\n"), "it works without a broker"


def test_an_outbox_that_is_not_written_is_not_well(agent: Agent) -> None:
    import resource  # noqa: PLC0415 - not on every system

    agent.write()
    process = agent.start()
    until(lambda: agent.status()["delivery"]["outbox"]["depth"] > 5, 20, "ticks in the outbox")
    unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16_384, unlimited[1]))
    until(lambda: agent.get("/healthz")[0] == 503, 20, "the disk to refuse")
    assert "readings wait in memory" in agent.get("/healthz")[1]
    assert agent.metrics()["agent_outbox_write_failing"] == 1
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
    until(lambda: agent.get("/healthz")[0] == 200, 20, "the disk to take them")


def test_a_taken_port_is_told_and_ends_it_with_2(agent: Agent) -> None:
    agent.write()
    with socket.socket() as other:
        other.bind(("127.0.0.1", agent.port))
        other.listen()
        agent.process.start()
        assert agent.process.wait(20) == 2
    assert agent.process.output() == (
        f"edge-agent: status.listen 127.0.0.1:{agent.port}: Address already in use; choose another address\n"
    )


def test_nothing_listens_where_none_is_wanted(agent: Agent) -> None:
    agent.write(status={"listen": None})
    agent.start()
    with pytest.raises(OSError, match="refused"):
        agent.get("/")


def test_its_log_files_have_its_life_and_its_end(agent: Agent) -> None:
    agent.write(logging={"directory": str(agent.log)})
    process = agent.start()
    until(lambda: agent.status()["delivery"]["outbox"]["depth"] > 3, 20, "ticks in the outbox")
    process.terminate()
    assert process.wait(20) == 0
    assert process.output() == ""
    assert " WARNING no broker at " in (agent.log / "error.log").read_text()
    last = agent.said().splitlines()[-1]
    assert " INFO    stopped; the outbox holds " in last
    assert " sent=0 confirmed=0 dropped=0 thinned=0" in last


def reloaded(agent: Agent, *, times: int = 1) -> None:
    agent.process.signal(signal.SIGHUP)
    until(lambda: agent.said().count("the configuration is reloaded") == times, 20, "the reload")


def test_a_changed_configuration_takes_effect_without_a_restart(agent: Agent) -> None:
    agent.write(interval=60)
    process = agent.start()
    until(lambda: "memory_total_bytes" in agent.metrics(), 20, "the first tick")
    before = agent.status()
    uptime = agent.metrics()["agent_uptime_seconds"]
    agent.write(
        interval=0.1,
        collectors={
            "memory": {"enabled": False},
            "exec": [{"name": "boiler", "command": ["echo", '{"boiler_temperature_celsius": 61.5}']}],
        },
        labels={"building": "north"},
        logging={"directory": str(agent.log), "level": "DEBUG"},
    )
    reloaded(agent)
    boiler = 'boiler_temperature_celsius{building="north"}'
    until(lambda: boiler in agent.metrics(), 20, "the new collector, with the new label")
    until(lambda: agent.metrics()['agent_heartbeat_total{building="north"}'] > 5, 20, "ticks at the new interval")
    assert not any(key.startswith("memory_total_bytes") for key in agent.metrics())
    after = agent.status()
    assert set(after["collectors"]) == {"host", "exec.boiler"}
    assert after["config"]["hash"] != before["config"]["hash"]
    assert after["config"]["needs_restart"] == []
    assert after["delivery"]["stream"] == before["delivery"]["stream"]
    assert agent.metrics()['agent_uptime_seconds{building="north"}'] > uptime
    assert "reloaded" in (agent.log / "edge.log").read_text()
    process.terminate()
    assert process.wait(20) == 0


def test_a_bad_configuration_is_told_and_changes_nothing(agent: Agent) -> None:
    agent.write()
    agent.start()
    before = agent.status()["config"]["hash"]
    agent.file.write_text("sampling: {interval_seconds: -1}\nbrokr: x\n")
    agent.process.signal(signal.SIGHUP)
    until(lambda: "brokr is not a known key" in agent.said(), 20, "the problem to be told")
    assert "not reloaded: sampling.interval_seconds must be at least 0.05, got -1" in agent.said()
    beats = agent.metrics()["agent_heartbeat_total"]
    until(lambda: agent.metrics()["agent_heartbeat_total"] > beats + 3, 20, "ticks as before")
    assert agent.status()["config"]["hash"] == before
    assert "Traceback" not in agent.said()


def test_a_log_directory_that_can_not_be_used_changes_nothing(agent: Agent, tmp_path: Path) -> None:
    agent.write()
    agent.start()
    (tmp_path / "file").write_text("")
    agent.write(interval=0.2, logging={"directory": str(tmp_path / "file")})
    agent.process.signal(signal.SIGHUP)
    until(lambda: "not reloaded: logging.directory" in agent.said(), 20, "the problem to be told")
    agent.write(interval=0.2)
    reloaded(agent)


def test_what_needs_a_restart_is_said(agent: Agent) -> None:
    agent.write(broker={"host": "127.0.0.1", "port": 1})
    agent.start()
    agent.write(broker={"host": "127.0.0.1", "port": 2}, device="other", logging={"level": "WARNING"})
    agent.process.signal(signal.SIGHUP)
    until(lambda: "what changed in device, broker needs a restart" in agent.said(), 20, "it to be said")
    assert agent.status()["config"]["needs_restart"] == ["device", "broker"]
    assert agent.status()["device"] == "pump"
    agent.write(broker={"host": "127.0.0.1", "port": 1})
    reloaded(agent)
    assert agent.status()["config"]["needs_restart"] == []


def test_log_files_that_were_moved_away_are_begun_anew(agent: Agent) -> None:
    agent.write(logging={"directory": str(agent.log)})
    agent.start()
    (agent.log / "edge.log").rename(agent.log / "edge.log.moved")
    reloaded(agent)
    assert "reloaded" in (agent.log / "edge.log").read_text()


def test_systemd_hears_of_a_reload(agent: Agent, tmp_path: Path, new_process: NewProcess) -> None:
    agent.write()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        agent.process = new_process([PROGRAM, "run", "--config", agent.file], {"NOTIFY_SOCKET": systemd.getsockname()})
        agent.start()
        heard = [systemd.recv(1_000)]
        reloaded(agent)
        while len(heard) < 3 or not heard[-1].startswith(b"READY=1"):
            heard.append(systemd.recv(1_000))
    states = [message.partition(b"\n")[0] for message in heard]
    assert [state for state in states if state != b"WATCHDOG=1"] == [b"READY=1", b"RELOADING=1", b"READY=1"]
    assert any(b"MONOTONIC_USEC=" in message for message in heard)


CHANGES = [
    ({"sampling": {"interval_seconds": 1}}, True, False, ()),
    ({"collectors": {"cpu": {"enabled": False}}}, True, False, ()),
    ({"labels": {"building": "north"}}, True, False, ()),
    ({"logging": {"level": "DEBUG"}}, False, True, ()),
    ({"status": {"listen": None}}, False, False, ("status",)),
    ({"device": "x", "outbox": {"max_bytes": 70_000}}, False, False, ("device", "outbox")),
    ({}, False, False, ()),
]


@pytest.mark.parametrize(("written", "collection", "logging", "needs_restart"), CHANGES)
def test_what_a_change_means(
    written: dict[str, Any],
    collection: bool,  # noqa: FBT001
    logging: bool,  # noqa: FBT001
    needs_restart: tuple[str, ...],
) -> None:
    old, new = Config(), Config.of(written)
    found = change(old, new)
    assert (found.collection, found.logging, found.needs_restart) == (collection, logging, needs_restart)
    for name in Config.__struct_fields__:
        assert getattr(found.effective, name) == getattr(new if name in LIVE else old, name)


@pytest.fixture
def orders() -> Iterator[Orders]:
    made = Orders()
    with made.by_signals():
        yield made


def test_orders_come_by_signal(orders: Orders) -> None:
    assert not orders.wait(0)
    os.kill(os.getpid(), signal.SIGHUP)
    assert not orders.wait(10)
    assert (orders.take_reload(), orders.take_reload(), orders.stopping) == (True, False, False)
    os.kill(os.getpid(), signal.SIGTERM)
    assert orders.wait(10)
    assert orders.wait(10), "an order to stop stays"


def test_signals_mean_what_they_did_before() -> None:
    told: list[int] = []

    def remember(number: int, _frame: object) -> None:
        told.append(number)

    handlers: dict[signal.Signals, Callable[..., Any] | int | None] = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        handlers[number] = signal.signal(number, remember)
    try:
        with Orders().by_signals():
            pass
        os.kill(os.getpid(), signal.SIGHUP)
        assert told == [signal.SIGHUP]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with Orders().by_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, "as nohup wants it"
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
