"""Firing alerts and an ingester that is killed, through a real broker: nobody is told a second time."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from harness.broker import Mosquitto
from harness.cloud import role
from harness.device import Device
from harness.wait import until

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.thresholds import create_threshold

Db = psycopg.Connection[tuple[Any, ...]]
DEVICES = 10
SENSORS = [f'temperature_celsius{{sensor="{number}"}}' for number in range(50)]
ALERTS = DEVICES * len(SENSORS)


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def connection(url: str) -> Iterator[Db]:
    with connect(url, "test") as connection:
        yield connection


def told(connection: Db) -> dict[str, int]:
    return dict(connection.execute("select kind, count(*) from telemetry.notification group by kind").fetchall())


def test_500_firing_alerts_survive_an_ingester_that_is_killed_and_nobody_is_told_again(
    url: str, connection: Db, broker: Mosquitto, tmp_path: Path
) -> None:
    with connection.transaction():
        definition = {"name": "hot", "metric": "temperature_celsius", "operator": ">", "warning": 80, "critical": 90}
        create_threshold(connection, Definition.model_validate(definition))
    ((now_ms,),) = connection.execute("select (extract(epoch from now()) * 1000)::bigint + 1000").fetchall()
    ingest = role("ingest", tmp_path, broker, url, INGEST__ACK_INTERVAL_SECONDS="0")
    waiting = (
        "select count(*) from pg_stat_activity where application_name = 'cloud-ingest'"
        " and datname = current_database() and wait_event_type = 'Lock'"
    )
    with ExitStack() as stack:
        devices = [stack.enter_context(Device(broker, f"pump-{number}")) for number in range(DEVICES)]

        def send(seq: int, value: float) -> None:
            for device in devices:
                device.send_tick(seq, now_ms + 1_000 * seq, dict.fromkeys(SENSORS, value))

        def start(time: int) -> None:
            ingest.start()
            until(lambda: ingest.output().count("connected to the broker") == time, 20, "the ingester")

        def wait_committed(seq: int) -> None:
            for device in devices:
                device.wait_committed((1, seq))

        stack.enter_context(closing(ingest))
        start(1)
        send(1, 85)
        wait_committed(1)
        assert told(connection) == {"opened": ALERTS}
        # Killed in the transaction that judges what comes next, and what was not acknowledged comes again
        with connect(url, "holder") as holder, holder.transaction():
            holder.execute("select from telemetry.alert_device for update")
            send(2, 95)
            until(lambda: connection.execute(waiting).fetchall() == [(1,)], 20, "the ingester at a device's lock")
            ingest.signal(signal.SIGKILL)
            until(lambda: not ingest.running, 10, "the end of the ingester")
        assert told(connection) == {"opened": ALERTS}
        start(2)
        send(1, 85)
        send(2, 95)
        wait_committed(2)
        send(3, 95)
        wait_committed(3)
        assert told(connection) == {"opened": ALERTS, "escalated": ALERTS}
        send(4, 50)
        wait_committed(4)
    assert told(connection) == {"opened": ALERTS, "escalated": ALERTS, "ended": ALERTS}
    assert connection.execute("select count(*), count(ended_at) from telemetry.alert").fetchall() == [(ALERTS, ALERTS)]
