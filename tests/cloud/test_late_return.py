"""A device that returns after two days, through a real broker, real ingesters and a real worker."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from harness.broker import Mosquitto
from harness.cloud import role
from harness.device import Device
from harness.processes import Process
from harness.wait import until

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.thresholds import create_threshold

Db = psycopg.Connection[tuple[Any, ...]]
KEY = "temperature_celsius"
DAY_MS = 86_400_000
STEP_MS = 60_000
TICKS = 2 * DAY_MS // STEP_MS
SETTINGS = {"RETENTION__RAW_HOURS": "96", "WORKER__LATE_QUIET_SECONDS": "0.2", "INGEST__ACK_INTERVAL_SECONDS": "0"}


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def connection(url: str) -> Iterator[Db]:
    with connect(url, "test") as connection:
        yield connection


@contextmanager
def running(*processes: Process) -> Iterator[None]:
    with ExitStack() as stack:
        for process in processes:
            stack.callback(process.close)
            process.start()
        yield


def told(connection: Db) -> list[str]:
    return [kind for (kind,) in connection.execute("select kind from telemetry.notification order by notification_id")]


def is_judged(connection: Db) -> bool:
    return connection.execute(
        "select count(*) from telemetry.alert_device where late_first_ms is not null"
    ).fetchall() == [(0,)]


def begin(connection: Db) -> int:
    """A threshold that has been there for four days; the time now."""
    definition = Definition.model_validate(
        {"name": "hot", "metric": KEY, "operator": ">", "warning": 80, "for_seconds": 120}
    )
    with connection.transaction():
        create_threshold(connection, definition)
        connection.execute("update telemetry.threshold_version set valid_from = now() - interval '4 days'")
    ((now_ms,),) = connection.execute("select (extract(epoch from now()) * 1000)::bigint").fetchall()
    return int(now_ms)


def send_two_days(device: Device, now_ms: int) -> None:
    """The newest first, then the rest; each day it was hot for ten minutes, at noon of the outage, so to say."""
    times = [now_ms - (TICKS - number) * STEP_MS for number in range(TICKS)]
    device.send_tick(TICKS + 2, now_ms, {KEY: 50.0}, low=2)
    for start in range(0, TICKS, 480):
        numbers = range(start, min(start + 480, TICKS))
        values: list[float | None] = [90.0 if number % 1440 in range(700, 710) else 50.0 for number in numbers]
        device.send_backlog([number + 2 for number in numbers], [times[it] for it in numbers], {KEY: values}, low=2)


def test_a_return_after_two_days_is_one_digest_and_no_present_alert(
    url: str, connection: Db, broker: Mosquitto, tmp_path: Path
) -> None:
    now_ms = begin(connection)
    ingesters = [role("ingest", tmp_path / str(number), broker, url, **SETTINGS) for number in range(2)]
    with running(*ingesters, role("worker", tmp_path, broker, url, **SETTINGS)), Device(broker) as device:
        until(lambda: all("connected to the broker" in it.output() for it in ingesters), 20, "the ingesters")
        device.send_tick(1, now_ms - 2 * DAY_MS - STEP_MS, {KEY: 50.0})
        device.wait_committed((1, 1))
        send_two_days(device, now_ms)
        device.wait_committed((2, TICKS + 2))
        until(lambda: told(connection) and is_judged(connection), 20, "the digest")
        assert told(connection) == ["digest"]
        rows = connection.execute(
            "select late, end_reason, extract(epoch from ended_at - start_at)::int from telemetry.alert"
        ).fetchall()
        assert rows == [(True, "cleared", 600), (True, "cleared", 600)]
        device.send_tick(TICKS + 3, now_ms + 1_000, {KEY: 50.0}, low=TICKS + 3)
        device.wait_committed((TICKS + 3, TICKS + 3))
        assert told(connection) == ["digest"]


def test_a_worker_killed_while_it_judges_leaves_the_work_to_the_next(
    url: str, connection: Db, broker: Mosquitto, tmp_path: Path
) -> None:
    now_ms = begin(connection)
    waiting = (
        "select count(*) from pg_stat_activity where application_name = 'cloud-ingest-late'"
        " and datname = current_database() and wait_event_type = 'Lock'"
    )
    ingest = role("ingest", tmp_path / "ingest", broker, url, **SETTINGS)
    worker = role("worker", tmp_path / "worker", broker, url, **SETTINGS)
    with running(ingest), Device(broker) as device:
        until(lambda: "connected to the broker" in ingest.output(), 20, "the ingester")
        device.send_tick(1, now_ms - 2 * DAY_MS - STEP_MS, {KEY: 50.0})
        device.wait_committed((1, 1))
        send_two_days(device, now_ms)
        device.wait_committed((2, TICKS + 2))
        with connect(url, "holder") as holder, holder.transaction(), running(worker):
            holder.execute("select from telemetry.alert_device for update")
            until(lambda: connection.execute(waiting).fetchall() == [(1,)], 20, "the worker at the device's lock")
            worker.signal(signal.SIGKILL)
        assert (told(connection), is_judged(connection)) == ([], False)
        with running(worker, role("worker", tmp_path / "other", broker, url, **SETTINGS)):
            until(lambda: is_judged(connection), 20, "the late samples judged")
            assert told(connection) == ["digest"]
    assert connection.execute("select count(*) from telemetry.alert where late").fetchall() == [(2,)]
