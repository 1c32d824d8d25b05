"""Firing alerts of devices and series that can't be heard, and of thresholds that are gone."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.database import Connection, connect, server_time_ms
from cloud_ingest.store.hearing import READINGS, beat
from cloud_ingest.store.locations import create_location, place_device
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.thresholds import create_threshold, delete_threshold
from cloud_ingest.store.unheard_alerts import look_at_alerts
from cloud_ingest.store.withdrawn_alerts import Withdrawals

GRACE_MS = 5_000


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def connection(url: str) -> Iterator[Connection]:
    with connect(url, "test") as connection:
        beat(connection, READINGS)
        connection.execute("update telemetry.hearing set since = now() - interval '1 hour'")
        yield connection


@pytest.fixture
def writer(url: str) -> Iterator[BatchWriter]:
    with closing(BatchWriter(url)) as writer:
        yield writer


def make(connection: Connection, **changes: Any) -> int:
    definition = Definition.model_validate({"name": "hot", "metric": "t", "operator": ">", "warning": 80} | changes)
    with connection.transaction():
        made = create_threshold(connection, definition).threshold_id
    connection.execute("update telemetry.threshold_version set valid_from = now() - interval '1 hour'")
    connection.execute("update telemetry.threshold_epoch set epoch = epoch + 1")
    return made


class Series:
    """Of a device; `ago` is in seconds."""

    def __init__(self, connection: Connection, writer: BatchWriter, device: str = "pump") -> None:
        self._connection, self._writer, self._device = connection, writer, device
        self._stream: UUID = uuid4()
        self._seq = 0

    def send(self, value: float, *, ago: float) -> None:
        self._seq += 1
        time_ms = server_time_ms(self._connection) - round(ago * 1000)
        block = Block(
            message=Message("", b""), site="plant", device=self._device, stream=self._stream, low=1, keys=("t",),
            seqs=[self._seq], times_ms=np.array([time_ms], np.int64), samples=np.array([[value]], np.float64),
        )  # fmt: skip
        assert self._writer.write([block], []).stored_ticks == 1


@pytest.fixture
def series(connection: Connection, writer: BatchWriter) -> Series:
    return Series(connection, writer)


def told(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select kind, content ->> 'reason' from telemetry.notification order by notification_id"
    ).fetchall()


def away(connection: Connection, *, online: bool) -> None:
    connection.execute(
        "insert into telemetry.device_liveness (device_id, online, since, noticed_at, told)"
        " select device_id, %(online)s, now(), now(), true from telemetry.device"
        " on conflict (device_id) do update set online = excluded.online",
        {"online": online},
    )


@pytest.mark.parametrize(("value", "after"), [(99, ("firing", None)), (20, ("ended", "cleared"))])
def test_of_a_device_that_goes_it_is_unknown_until_its_next_sample(
    connection: Connection, series: Series, value: float, after: tuple[str, Any]
) -> None:
    make(connection)
    series.send(90, ago=20)
    assert look_at_alerts(connection, GRACE_MS) == 0
    away(connection, online=False)
    assert look_at_alerts(connection, GRACE_MS) == 1
    away(connection, online=True)
    assert look_at_alerts(connection, GRACE_MS) == 0  # it is back, but nothing is known of the series yet
    ((since, ended),) = connection.execute("select unknown_since, ended_at from telemetry.alert").fetchall()
    assert since is not None
    assert ended is None
    series.send(value, ago=10)
    look_at_alerts(connection, GRACE_MS)
    look_at_alerts(connection, GRACE_MS)
    assert told(connection) == [("opened", None), ("unknown", "offline"), after]
    (content,) = connection.execute("select content from telemetry.notification where kind = 'unknown'").fetchall()[0]
    assert (content["device"], content["threshold"], content["value"], content["severity"]) == (
        "pump", "hot", 90, "warning"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ("unknown", [("opened", None), ("unknown", "silent")]),
        ("keep", [("opened", None)]),
        ("alert", [("opened", None)]),
    ],
)
def test_silence_of_a_series_is_what_its_threshold_says(
    connection: Connection, series: Series, then: str, expected: list[tuple[Any, ...]]
) -> None:
    make(connection, no_data={"after_seconds": 30, "then": then})
    series.send(90, ago=40)
    look_at_alerts(connection, GRACE_MS)
    assert told(connection) == expected


def test_nothing_is_unknown_for_what_the_ingesters_could_not_hear(connection: Connection, series: Series) -> None:
    make(connection, no_data={"after_seconds": 30, "then": "unknown"})
    series.send(90, ago=600)
    connection.execute("update telemetry.hearing set since = now() - interval '20 seconds'")
    assert look_at_alerts(connection, GRACE_MS) == 0
    connection.execute("update telemetry.hearing set since = now() - interval '31 seconds'")
    assert look_at_alerts(connection, GRACE_MS) == 1


def test_a_deleted_threshold_ends_the_episodes_of_devices_that_never_send_again(
    connection: Connection, series: Series
) -> None:
    threshold_id = make(connection)
    series.send(90, ago=5)
    withdrawals = Withdrawals()
    assert withdrawals.look(connection) == 0
    with connection.transaction():
        delete_threshold(connection, threshold_id)
    assert withdrawals.look(connection) == 1
    assert Withdrawals().look(connection) == 0
    assert told(connection) == [("opened", None), ("ended", "withdrawn")]
    rows = connection.execute("select end_reason, (select count(*) from telemetry.alert_state) from telemetry.alert")
    assert rows.fetchall() == [("withdrawn", 0)]


def test_so_does_a_move_to_where_the_threshold_does_not_apply(connection: Connection, series: Series) -> None:
    with connection.transaction():
        create_location(connection, "hall", name="Hall")
    make(connection, selector={"location": "hall"})
    make(connection, name="other", metric="t", operator="<", warning=95)
    series.send(50, ago=9)
    with connection.transaction():
        place_device(connection, "pump", "hall")
    series.send(90, ago=5)
    withdrawals = Withdrawals()
    assert withdrawals.look(connection) == 0
    with connection.transaction():
        place_device(connection, "pump", None)
    assert withdrawals.look(connection) == 1
    open_ = connection.execute(
        "select threshold.name from telemetry.alert join telemetry.threshold using (threshold_id)"
        " where ended_at is null"
    )
    assert open_.fetchall() == [("other",)]
