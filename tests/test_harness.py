"""The harness keeps its promises: without them, tests built on it would prove nothing."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as mqtt
import psutil
import psycopg
import pytest
from harness.broker import Mosquitto
from harness.postgres import NamedServer, PlainServer, Server, new_database
from harness.processes import NewProcess, is_gone
from harness.scratch import owned_directory
from harness.wait import until
from paho.mqtt.enums import CallbackAPIVersion

pytest_plugins = ["pytester"]


def test_until_returns_the_first_truthy_value() -> None:
    values = iter([0, None, "", "here", "too late"])
    assert until(lambda: next(values), timeout=5, what="a value") == "here"


def test_until_says_what_it_waited_for_and_what_it_saw_last() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.05 s for the moon; the last value was \[\]"):
        until(list, timeout=0.05, what="the moon")


def test_free_ports_are_never_given_to_outgoing_connections(free_port: Callable[[], int]) -> None:
    lowest, highest = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert all(not lowest <= free_port() <= highest for _ in range(50))


def test_process_output_survives_its_end_and_its_restart(new_process: NewProcess) -> None:
    process = new_process([sys.executable, "-c", "import os; print(os.environ['GREETING'])"], {"GREETING": "hello"})
    for _ in range(2):
        process.start()
        assert process.wait(timeout=20) == 0
    assert process.output() == "hello\nhello\n"


def test_process_does_not_inherit_settings_of_our_programs(
    new_process: NewProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_AGENT_DEVICE", "of-the-developer")
    process = new_process([sys.executable, "-c", "import os; print(os.environ.get('EDGE_AGENT_DEVICE'))"])
    process.start()
    process.wait(timeout=20)
    assert process.output() == "None\n"


def test_killed_process_reports_the_signal_and_is_reaped(new_process: NewProcess) -> None:
    process = new_process(["sleep", "1000"])
    process.start()
    pid = process.pid
    process.kill()
    assert process.wait(timeout=0) == -signal.SIGKILL
    assert not psutil.pid_exists(pid)


def test_closed_process_leaves_no_children(new_process: NewProcess) -> None:
    process = new_process(["sh", "-c", "sleep 1000 & echo $!; wait"])
    process.start()
    child = psutil.Process(int(until(process.output, timeout=20, what="the child's id")))
    process.close()
    until(lambda: is_gone(child), timeout=20, what="its end")


def test_broker_forgets_in_a_kill_and_comes_back_on_its_port(broker: Mosquitto) -> None:
    pid, port = broker.pid, broker.port
    publish_retained(broker, "remember/me")
    assert retained(broker, "remember/me") == b"x"
    broker.kill()
    assert not psutil.pid_exists(pid)
    with socket.socket() as probe:
        assert probe.connect_ex((broker.host, port)) != 0
    broker.start()
    assert (broker.port, broker.pid != pid) == (port, True)
    assert retained(broker, "remember/me") is None


def test_broker_stops_and_starts(broker: Mosquitto) -> None:
    broker.stop()
    broker.start()
    publish_retained(broker, "again")


def test_broker_takes_extra_configuration(tmp_path: Path) -> None:
    persistent = Mosquitto(tmp_path / "kept", extra_config=f"persistence true\npersistence_location {tmp_path}/kept/")
    try:
        persistent.start()
        publish_retained(persistent, "remember/me")
        persistent.stop()
        persistent.start()
        assert retained(persistent, "remember/me") == b"x"
    finally:
        persistent.close()


def test_broken_broker_configuration_is_shown(tmp_path: Path) -> None:
    broken = Mosquitto(tmp_path / "broken", extra_config="no_such_option 1")
    with pytest.raises(AssertionError, match="no_such_option"):
        broken.start()
    broken.close()


def test_database_server_is_of_its_kind(database_server: Server) -> None:
    with psycopg.connect(database_server.url()) as connection:
        available = connection.execute("select 1 from pg_available_extensions where name = 'timescaledb'").fetchone()
    assert (available is not None) == (database_server.kind == "timescaledb")


def test_fresh_database_is_empty_and_takes_the_extensions_we_use(database_server: Server, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("create extension ltree")
        if database_server.kind == "timescaledb":
            connection.execute("create extension timescaledb")
            connection.execute("create table t (time timestamptz not null, x float8)")
            connection.execute("select create_hypertable('t', by_range('time'))")


def test_database_is_dropped_under_open_connections(database_server: Server) -> None:
    with new_database(database_server) as url:
        lingering = psycopg.connect(url)
        if database_server.kind == "timescaledb":
            lingering.execute("create extension timescaledb")  # which starts a scheduler in the database
            lingering.commit()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    lingering.close()


def test_database_server_keeps_what_was_committed_before_a_kill(own_database_server: Server) -> None:
    server = own_database_server
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create table kept (n int)")
    for n in range(3):
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("insert into kept values (%s)", [n])
            backend = psutil.Process(connection.info.backend_pid)
            server.kill()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("select 1")
        assert is_gone(backend)
        server.start()
    server.stop()
    server.start()
    with psycopg.connect(server.url()) as connection:
        assert connection.execute("select array_agg(n order by n) from kept").fetchone() == ([0, 1, 2],)


def test_killed_database_server_dies_amid_work(own_database_server: Server) -> None:
    server = own_database_server
    started = threading.Event()
    outcome: list[str] = []

    def work() -> None:
        with psycopg.connect(server.url()) as connection:
            started.set()
            try:
                connection.execute("select pg_sleep(600)")
            except psycopg.OperationalError:
                outcome.append("cut")

    worker = threading.Thread(target=work)
    worker.start()
    assert started.wait(timeout=20)
    server.kill()
    worker.join(timeout=20)
    assert outcome == ["cut"]


def test_named_server_is_recognised_by_what_it_has_loaded(database_server: Server, database_url: str) -> None:
    named = NamedServer(database_url)
    assert named.kind == database_server.kind
    assert named.url("postgres") == database_server.url("postgres")


def test_directory_of_a_dead_owner_is_cleared_away_and_that_of_a_living_one_kept(tmp_path: Path) -> None:
    ended: list[Path] = []
    crash = (
        "import os, sys; from pathlib import Path; from harness.scratch import owned_directory\n"
        "mine = owned_directory(Path(sys.argv[1]), print); mine.__enter__(); os._exit(0)"
    )
    with owned_directory(tmp_path, ended.append) as living:
        subprocess.run(
            [sys.executable, "-c", crash, tmp_path],
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )
        (abandoned,) = {path for path in tmp_path.glob("data-*") if path.is_dir()} - {living}
        with owned_directory(tmp_path, ended.append) as other:
            assert ended == [abandoned]
            assert not abandoned.exists()
            assert living.is_dir()
            assert other.is_dir()
    assert list(tmp_path.glob("data-*")) == []


LONG_SESSION = """
import time
from harness.postgres import PlainServer

server = PlainServer()
server.start()
print(server.pid, flush=True)
time.sleep(1000)
"""


def test_servers_of_a_killed_session_are_ended_by_the_next(new_process: NewProcess) -> None:
    session = new_process([sys.executable, "-c", LONG_SESSION], {"PYTHONPATH": str(Path(__file__).parent)})
    session.start()
    orphan = psutil.Process(int(until(session.output, timeout=60, what="the server's id")))
    session.kill()
    assert not is_gone(orphan)
    PlainServer().close()
    assert is_gone(orphan)


SKIPPING = """
import pytest

@pytest.mark.timescaledb
def test_marked(): pytest.skip("not today")

def test_for_want_of_a_broker(): pytest.skip("Mosquitto is not installed")

def test_other(): pytest.skip("a matter of taste")

@pytest.mark.timescaledb
@pytest.mark.xfail(reason="known")
def test_expected(): assert False
"""


@pytest.mark.parametrize(("variable", "failed", "skipped"), [("CI", 2, 1), ("REQUIRE_TIMESCALEDB", 2, 1), (None, 0, 3)])
def test_what_ci_needs_cannot_be_skipped(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, variable: str | None, failed: int, skipped: int
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("REQUIRE_TIMESCALEDB", raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "true")
    pytester.makeini(f"[pytest]\nmarkers = timescaledb\npythonpath = {Path(__file__).parent}")
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    pytester.makepyfile(SKIPPING)
    pytester.runpytest_subprocess().assert_outcomes(failed=failed, skipped=skipped, xfailed=1)


def publish_retained(broker: Mosquitto, topic: str) -> None:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect(broker.host, broker.port)
    client.loop_start()
    client.publish(topic, b"x", qos=1, retain=True).wait_for_publish(20)
    client.disconnect()
    client.loop_stop()


def retained(broker: Mosquitto, topic: str) -> bytes | None:
    """The retained message of a topic; None where a later message comes without one having come before."""
    received: list[tuple[str, bytes]] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: received.append((message.topic, bytes(message.payload)))
    client.on_connect = lambda client, *_: client.subscribe([(topic, 1), ("end", 1)])
    client.on_subscribe = lambda client, *_: client.publish("end", b"", qos=1)
    client.connect(broker.host, broker.port)
    client.loop_start()
    until(lambda: ("end", b"") in received, timeout=20, what="the end marker")
    client.disconnect()
    client.loop_stop()
    return dict(received).get(topic)
