"""The ingest role and other publishers: a real broker that keeps their messages, a real database."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import yaml
from harness.broker import Mosquitto
from harness.cloud import at_work, role
from harness.link import Link
from harness.postgres import Server
from harness.processes import Process
from harness.publisher import Publisher
from harness.sparkplug import DOUBLE, INT64, Metric, payload
from harness.wait import until

from cloud_ingest.foreign.sparkplug_payload import decode_payload
from cloud_ingest.ingest import main
from cloud_ingest.store.migrate import migrate

Query = Callable[[str], list[Any]]

TELEGRAF: dict[str, Any] = {"format": "influx", "topics": ["telegraf/#"]}
BROKERS = pytest.mark.parametrize("protocol", [{}, {"BROKER__PROTOCOL": "3.1.1", "INGEST__GROUP": "null"}])


@pytest.fixture
def migrated(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def query(migrated: str) -> Iterator[Query]:
    with psycopg.connect(migrated, autocommit=True) as connection:
        yield lambda sql: connection.execute(sql.encode()).fetchall()


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[..., str]:
    def write(**sources: dict[str, Any]) -> str:
        file = tmp_path / "cloud.yaml"
        file.write_text(yaml.safe_dump({"sources": sources}))
        return str(file)

    return write


def line(second: int, value: float, host: str = "web01") -> bytes:
    """As Telegraf writes a metric; `second` counts from an hour ago, so that times are what the ingester accepts."""
    return f"load,host={host} value={value} {(START + second) * 1_000_000_000}\n".encode()


START = int(time.time()) - 3_600
VALUES = "select device, value from telemetry.sample where metric <> 'probe' order by time, device"


def stored(query: Query) -> list[tuple[str, float]]:
    return [(device, value) for device, value in query(VALUES)]


def wait_session(publisher: Publisher, query: Query, topic: str = "telegraf/probe/x") -> None:
    """Until the source is subscribed: before, the broker forgets at once what nobody subscribes to."""

    def came() -> bool:
        publisher.send(topic, f"probe value=1 {START * 1_000_000_000}\n".encode())
        return bool(query("select from telemetry.sample where metric = 'probe'"))

    until(came, 20, "the session of the source")


@BROKERS
def test_telegraf_as_it_is_is_stored(
    migrated: str, broker: Mosquitto, query: Query, config_file: Callable[..., str], protocol: dict[str, str]
) -> None:
    file = config_file(telegraf=TELEGRAF)
    with at_work(main.run, migrated, broker, CONFIG=file, **protocol), Publisher(broker) as telegraf:
        wait_session(telegraf, query)
        telegraf.send("telegraf/web01/load", line(1, 0.5))
        telegraf.send("telegraf/web02/load", line(1, 1.5) + line(2, 2.5))
        telegraf.send("telegraf/web01/load", line(1, 0.5))  # twice, as at least once allows
        telegraf.send("telegraf/web01/load", b"rubbish")
        telegraf.send("telegraf/web01/load", line(3, 3.5))
        until(lambda: len(query(VALUES)) >= 4, 15, "four values")
        assert stored(query) == [("web01", 0.5), ("web02", 1.5), ("web02", 2.5), ("web01", 3.5)]
        assert query("select topic, reason from telemetry.rejected") == [("telegraf/web01/load", "malformed")]


@BROKERS
def test_what_comes_while_no_ingester_is_there_is_stored_by_the_next(
    migrated: str, broker: Mosquitto, query: Query, config_file: Callable[..., str], protocol: dict[str, str]
) -> None:
    settings = {"CONFIG": config_file(telegraf=TELEGRAF), **protocol}
    with Publisher(broker) as telegraf:
        with at_work(main.run, migrated, broker, **settings):
            wait_session(telegraf, query)
        for second in range(50):
            telegraf.send("telegraf/web01/load", line(second, float(second)))
        with at_work(main.run, migrated, broker, **settings):
            until(lambda: len(query(VALUES)) >= 50, 15, "all values")
    assert stored(query) == [("web01", float(second)) for second in range(50)]


def test_retained_value_without_time_is_not_taken_for_a_new_one(
    migrated: str, broker: Mosquitto, query: Query, config_file: Callable[..., str]
) -> None:
    with Publisher(broker) as telegraf:
        telegraf.send("telegraf/web01/load", b"load value=1\n", retain=True)
        telegraf.send("telegraf/web02/load", line(1, 2.0), retain=True)
        with at_work(main.run, migrated, broker, CONFIG=config_file(telegraf=TELEGRAF)):
            until(lambda: stored(query), 15, "the retained value that has a time")
            telegraf.send("telegraf/web01/load", b"load value=3\n", retain=True)  # it came now: this one is new
            until(lambda: len(query(VALUES)) >= 2, 15, "the new value")
    assert stored(query) == [("web02", 2.0), ("web01", 3.0)]


def test_readings_committed_by_an_ingester_that_was_killed_before_its_puback_count_once(
    migrated: str, broker: Mosquitto, query: Query, config_file: Callable[..., str], tmp_path: Path
) -> None:
    def ingester(port: int, name: str) -> Process:
        settings = {"CONFIG": config_file(telegraf=TELEGRAF), "BROKER__PORT": str(port)}
        return role("ingest", tmp_path / name, broker, migrated, **settings)

    counted = "select ticks from telemetry.stream join telemetry.device using (device_id) where name = 'web01'"
    with Link(broker.port) as link, Publisher(broker) as telegraf:
        with ingester(link.port, "first") as first:
            wait_session(telegraf, query)
            # Held back at first, so that all are committed together; then the way back to the broker is silent.
            with psycopg.connect(migrated) as blocker:
                blocker.execute("lock table telemetry.reading in access exclusive mode")
                for second in range(20):
                    telegraf.send("telegraf/web01/load", line(second, float(second)))
                until(lambda: bool(query(WAITING)), 15, "a batch that waits for the table")
                link.silence()
            until(lambda: query(VALUES), 15, "a commit")
            committed = stored(query)
            first.kill()
        with ingester(broker.port, "second"):
            telegraf.send("telegraf/web01/load", line(30, 30.0))
            until(lambda: ("web01", 30.0) in stored(query), 20, "what was sent last")
    assert committed
    assert query(counted) == [(21,)]
    assert stored(query) == [*(("web01", float(second)) for second in range(20)), ("web01", 30.0)]


WAITING = "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"


def test_one_of_two_ingesters_has_the_session_and_the_other_takes_over(
    migrated: str, broker: Mosquitto, query: Query, config_file: Callable[..., str], tmp_path: Path
) -> None:
    settings = {"CONFIG": config_file(telegraf=TELEGRAF)}
    with (
        Publisher(broker) as telegraf,
        role("ingest", tmp_path / "one", broker, migrated, **settings) as one,
        role("ingest", tmp_path / "two", broker, migrated, **settings) as two,
    ):
        wait_session(telegraf, query)

        def owner() -> Process | None:
            return next((it for it in (one, two) if "source telegraf is this process's" in it.output()), None)

        until(lambda: owner() is not None, 10, "an owner in its log")
        first = owner()
        assert first is not None
        other = two if first is one else one
        assert "source telegraf" not in other.output()
        telegraf.send("telegraf/web01/load", line(1, 1.0))
        until(lambda: len(stored(query)) == 1, 15, "the first")
        first.kill()
        telegraf.send("telegraf/web01/load", line(2, 2.0))
        until(lambda: len(stored(query)) == 2, 20, "the second, from the other")
        assert "source telegraf is this process's" in other.output()


def test_json_with_a_mapping_is_stored(
    migrated: str,
    broker: Mosquitto,
    query: Query,
    config_file: Callable[..., str],
    free_port: Callable[[], int],
) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    file = config_file(
        sensors={
            "format": "json",
            "topics": ["sensors/+/state"],
            "device": {"field": "id"},
            "metrics": [{"field": "t", "metric": "temperature_celsius", "labels": {"sensor": "sht31"}, "scale": 0.1}],
        }
    )
    settings = {"CONFIG": file, "INGEST__METRICS_LISTEN": metrics}
    with at_work(main.run, migrated, broker, **settings), Publisher(broker) as sensor:

        def came() -> bool:
            sensor.send("sensors/cellar/state", b'{"id": "cellar", "t": 215, "state": "open"}')
            return bool(stored(query))

        until(came, 20, "the value")
        told = httpx2.get(f"http://{metrics}/metrics").text
        assert 'ingest_source_up{source="sensors"} 1.0' in told
        (texts,) = (
            line for line in told.splitlines() if line.startswith('ingest_source_texts_total{source="sensors"}')
        )
        assert float(texts.split()[1]) >= 1
    columns = "select distinct site, device, metric, labels, value from telemetry.sample"
    assert query(columns) == [("default", "cellar", "temperature_celsius", {"sensor": "sht31"}, 21.5)]


def test_sparkplug_node_is_asked_for_its_birth_and_then_understood(
    migrated: str, broker: Mosquitto, query: Query, config_file: Callable[..., str]
) -> None:
    now_ms = time.time_ns() // 1_000_000
    file = config_file(plant={"format": "sparkplug"})
    data = Metric(alias=1, value=21.5, encode_as=DOUBLE, timestamp=now_ms)
    with at_work(main.run, migrated, broker, CONFIG=file), Publisher(broker) as node:
        node.listen("spBv1.0/north/NCMD/edge")

        def asked() -> bool:
            node.send("spBv1.0/north/NDATA/edge", payload(data, seq=9, timestamp=now_ms))
            return bool(node.arrived)

        until(asked, 20, "a request for a birth")
        assert decode_payload(node.arrived[0][1]).metrics[0].name == "Node Control/Rebirth"
        birth = [Metric("bdSeq", 0, INT64), Metric("Temp", 20.5, DOUBLE, alias=1, timestamp=now_ms - 1_000)]
        node.send("spBv1.0/north/NBIRTH/edge", payload(*birth, seq=0, timestamp=now_ms), qos=0)
        for _ in range(2):  # the second is a redelivery
            node.send("spBv1.0/north/NDATA/edge", payload(data, seq=1, timestamp=now_ms))
        node.send("spBv1.0/north/NDEATH/edge", payload(Metric("bdSeq", 0, INT64)))
        online = "select value from telemetry.sample where metric = 'sparkplug_online' order by time"
        until(lambda: query(online)[1:] == [(0.0,)], 15, "its death")
    values = query("select site, device, value from telemetry.sample where metric = 'Temp' order by time")
    assert values == [("north", "edge", 20.5), ("north", "edge", 21.5)]
    assert {reason for (reason,) in query("select reason from telemetry.rejected")} == {"birth_missing"}


@pytest.mark.slow
def test_while_the_database_is_away_the_broker_keeps_what_comes(
    own_database_server: Server, broker: Mosquitto, config_file: Callable[..., str], free_port: Callable[[], int]
) -> None:
    url = own_database_server.url()
    migrate(url)
    metrics = f"127.0.0.1:{free_port()}"
    settings = {"CONFIG": config_file(telegraf=TELEGRAF), "INGEST__METRICS_LISTEN": metrics}

    def tells(line: str) -> bool:
        return line in httpx2.get(f"http://{metrics}/metrics").text

    def values() -> list[Any]:
        with psycopg.connect(url) as connection:
            return connection.execute("select value from telemetry.sample order by time").fetchall()

    with at_work(main.run, url, broker, **settings), Publisher(broker) as telegraf:
        until(lambda: tells('ingest_source_up{source="telegraf"} 1.0'), 20, "the session")
        own_database_server.kill()
        telegraf.send("telegraf/web01/load", line(1, 1.0))
        until(lambda: tells('ingest_source_up{source="telegraf"} 0.0'), 20, "the lease to be missed")
        until(lambda: tells("ingest_queue_messages 0.0"), 10, "the queue to be the broker's again")
        own_database_server.start()
        until(values, 30, "the value")
        assert values() == [(1.0,)]
