"""Readings judged in the transaction that stores them, on real servers."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.database import connect
from cloud_ingest.store.locations import create_location, place_device
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.thresholds import change_threshold, create_threshold, delete_threshold

Db = psycopg.Connection[tuple[Any, ...]]
KEYS = ('temperature_celsius{sensor="oil"}', "other")


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def connection(url: str) -> Iterator[Db]:
    with connect(url, "test") as connection:
        yield connection


@pytest.fixture
def now_ms(connection: Db) -> int:
    """Later than thresholds that are made now begin to judge, and not too far ahead for the store."""
    ((time_ms,),) = connection.execute("select (extract(epoch from now()) * 1000)::bigint + 60000").fetchall()
    return int(time_ms)


def definition(**changes: Any) -> Definition:
    return Definition.model_validate(
        {"name": "hot", "metric": "temperature_*", "operator": ">", "warning": 80, "critical": 90, "clear_level": 70,
         "for_seconds": 20, "no_data": {"after_seconds": 30}} | changes
    )  # fmt: skip


def make(connection: Db, **changes: Any) -> int:
    with connection.transaction():
        return create_threshold(connection, definition(**changes)).threshold_id


class Device:
    """Sends values; time 0 is `now_ms`."""

    def __init__(self, url: str, now_ms: int, name: str = "pump", keys: tuple[str, ...] = KEYS) -> None:
        self.writer = BatchWriter(url)
        self.now_ms, self.name, self.keys = now_ms, name, keys
        self.stream: UUID = uuid4()
        self.seq = 0

    def block(self, values: Mapping[int, float]) -> Block:
        seqs = [self.seq + number for number in range(1, len(values) + 1)]
        self.seq += len(values)
        samples = np.zeros((len(values), len(self.keys)))
        samples[:, 0] = list(values.values())
        return Block(
            message=Message(f"telemetry/v1/plant/{self.name}/samples", b""),
            site="plant",
            device=self.name,
            stream=self.stream,
            low=1,
            keys=self.keys,
            seqs=seqs,
            times_ms=np.array([self.now_ms + 1000 * it for it in values], np.int64),
            samples=samples,
        )

    def send(self, values: Mapping[int, float]) -> Block:
        block = self.block(values)
        assert self.writer.write([block], []).stored_ticks == len(values)
        return block


@pytest.fixture
def device(url: str, now_ms: int) -> Iterator[Device]:
    device = Device(url, now_ms)
    with closing(device.writer):
        yield device


def episodes(connection: Db, now_ms: int) -> list[tuple[Any, ...]]:
    """Start, firing and end in seconds, severity, peak, reason and device."""
    return connection.execute(
        "select (extract(epoch from start_at) * 1000 - %(now)s)::float8 / 1000,"
        " (extract(epoch from fired_at) * 1000 - %(now)s)::float8 / 1000,"
        " (extract(epoch from ended_at) * 1000 - %(now)s)::float8 / 1000, severity, peak, end_reason"
        " from telemetry.alert order by alert_id",
        {"now": now_ms},
    ).fetchall()


def told(connection: Db) -> list[str]:
    return [kind for (kind,) in connection.execute("select kind from telemetry.notification order by notification_id")]


def test_an_episode_from_beginning_to_end(connection: Db, device: Device, now_ms: int) -> None:
    make(connection, message="{device} {value:.1f} {unit} beyond {level}")
    device.send({0: 50, 10: 81})
    assert episodes(connection, now_ms) == []
    device.send({20: 85, 30: 84})
    assert episodes(connection, now_ms) == [(10, 30, None, "warning", None, None)]
    device.send({40: 95, 50: 95, 60: 96})
    device.send({70: 75, 80: 69})
    assert episodes(connection, now_ms) == [(10, 30, 80, "critical", 96, "cleared")]
    assert told(connection) == ["opened", "escalated", "ended"]
    rows = connection.execute("select content from telemetry.notification order by notification_id").fetchall()
    opened, escalated, ended = (row[0] for row in rows)
    assert opened["message"] == "pump 84.0 celsius beyond 80"
    assert (opened["threshold"], opened["labels"], opened["time_ms"]) == ("hot", {"sensor": "oil"}, now_ms + 30_000)
    assert escalated["message"] == "pump 96.0 celsius beyond 90"
    assert (ended["reason"], ended["peak"], ended["value"]) == ("cleared", 96, 69)
    assert connection.execute("select count(*) from telemetry.alert_state").fetchall() == [(0,)]


def test_a_restart_tells_nothing_again_and_goes_on(connection: Db, device: Device, url: str, now_ms: int) -> None:
    make(connection)
    block = device.send({0: 81, 10: 81, 20: 99})
    device.writer.close()
    with closing(BatchWriter(url)) as other:
        assert other.write([block], []).duplicate_ticks == 3  # what was not acknowledged comes again
        assert other.write([device.block({30: 82})], []).stored_ticks == 1
    assert told(connection) == ["opened"]
    device.send({40: 60})
    assert episodes(connection, now_ms) == [(0, 20, 40, "warning", 99, "cleared")]


def test_samples_that_come_late_change_nothing_of_the_present(connection: Db, device: Device, now_ms: int) -> None:
    make(connection)
    device.send({1000: 50})
    device.send({0: 99, 10: 99, 20: 99, 30: 99})
    assert (episodes(connection, now_ms), told(connection)) == ([], [])
    device.send({1010: 99})
    device.send({500: 99, 990: 10})
    late = connection.execute(
        "select late_first_ms - %(n)s, late_last_ms - %(n)s from telemetry.alert_device", {"n": now_ms}
    )
    assert late.fetchall() == [(0, 990_000)]
    device.send({1030: 99})
    assert episodes(connection, now_ms) == [(1010, 1030, None, "critical", None, None)]


def test_ingesters_in_turn_and_layouts_in_turn_are_one(connection: Db, device: Device, url: str, now_ms: int) -> None:
    make(connection)
    with closing(BatchWriter(url)) as other:
        device.send({0: 81})
        device.keys = ("another", *KEYS[:1])
        block = device.block({10: 0})
        block.samples[0] = [0, 85]
        other.write([block], [])
        device.keys = KEYS
        device.send({20: 81})
        late = device.block({15: 0, 20: 0})
        other.write([late], [])
    assert episodes(connection, now_ms) == [(0, 20, None, "warning", None, None)]


def test_two_streams_of_one_device_are_judged_one_after_the_other(connection: Db, url: str, now_ms: int) -> None:
    make(connection, for_seconds=0)
    devices = [Device(url, now_ms) for _ in range(4)]

    def send(device: Device, start: int) -> None:
        for time in range(start, 60, len(devices)):
            device.send({time: 99 if time % 3 else 50})

    threads = [threading.Thread(target=send, args=(it, start)) for start, it in enumerate(devices)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for it in devices:
        it.writer.close()
    kinds = told(connection)
    assert "opened" in kinds
    for kind, after in zip(kinds, [*kinds[1:], "opened"], strict=True):
        assert (kind, after) in {("opened", "ended"), ("ended", "opened"), ("opened", "opened")}
    ((opened, ended, total),) = connection.execute(
        "select count(*) filter (where ended_at is null), count(*) filter (where ended_at is not null),"
        " count(*) from telemetry.alert"
    ).fetchall()
    assert opened <= 1
    assert kinds.count("opened") == total
    assert kinds.count("ended") == ended


def test_an_edit_judges_from_then_on(connection: Db, device: Device, now_ms: int) -> None:
    threshold_id = make(connection, for_seconds=0)
    device.send({0: 85})
    with connection.transaction():
        change_threshold(connection, threshold_id, definition(warning=100, critical=None, for_seconds=0))
        # as if it had been edited while the device went on
        connection.execute(
            "update telemetry.threshold_version set valid_from = to_timestamp(%s / 1000.0) where version = 2",
            [now_ms + 25_000],
        )
    device.send({10: 95, 20: 72})
    assert [it[2:5] for it in episodes(connection, now_ms)] == [(None, "critical", None)]
    device.send({30: 85})
    assert [it[2:] for it in episodes(connection, now_ms)] == [(None, "critical", None, None)]
    device.send({40: 69, 50: 101})
    assert episodes(connection, now_ms) == [
        (0, 0, 40, "critical", 95, "cleared"),
        (50, 50, None, "warning", None, None),
    ]


def test_what_no_threshold_watches_any_more_is_withdrawn(connection: Db, device: Device, now_ms: int) -> None:
    threshold_id = make(connection, for_seconds=0)
    device.send({0: 85})
    with connection.transaction():
        delete_threshold(connection, threshold_id)
    device.send({10: 85})
    assert [it[5] for it in episodes(connection, now_ms)] == ["withdrawn"]
    assert told(connection) == ["opened", "ended"]
    device.send({20: 85})
    assert told(connection) == ["opened", "ended"]


def test_a_device_that_moves_is_judged_by_what_applies_there(connection: Db, device: Device) -> None:
    make(connection, name="hall", for_seconds=0, selector={"location": "hall"})
    device.send({0: 85})
    assert told(connection) == []
    with connection.transaction():
        create_location(connection, "hall", name="Hall")
        place_device(connection, "pump", "hall")
    device.send({10: 85})
    ((content,),) = connection.execute("select content from telemetry.notification").fetchall()
    assert (content["threshold"], content["location"]) == ("hall", "hall")
    with connection.transaction():
        place_device(connection, "pump", None)
    device.send({20: 85})
    assert told(connection) == ["opened", "ended"]


def test_without_thresholds_nothing_is_remembered(connection: Db, device: Device) -> None:
    device.send({0: 99})
    make(connection, metric="elsewhere")
    device.send({10: 99})
    ((states, episodes_),) = connection.execute(
        "select (select count(*) from telemetry.alert_state), (select count(*) from telemetry.alert)"
    ).fetchall()
    assert (states, episodes_) == (0, 0)
