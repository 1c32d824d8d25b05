"""The worker role: statuses, births answered, partitions ahead, and retention."""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from uuid import uuid4

import numpy as np
import pytest
from harness.broker import Mosquitto
from harness.cloud import at_work
from harness.device import Device
from harness.wait import until

from cloud_ingest.config import Retention
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.database import Connection, connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.rejected import Rejection, park
from cloud_ingest.store.tiers import RAW
from cloud_ingest.worker import main
from cloud_ingest.worker.upkeep import Upkeep

HOUR_MS = 3_600_000
NOW_MS = 1_795_000_000_000


@pytest.fixture
def migrated(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def connection(migrated: str) -> Iterator[Connection]:
    with connect(migrated, "test") as connection:
        yield connection


working = partial(at_work, main.run)


def write(database_url: str, device: Device, seqs: list[int], times_ms: list[int]) -> None:
    writer = BatchWriter(database_url)
    block = Block(
        message=Message("", b""),
        site="plant",
        device=device.name,
        stream=device.stream,
        low=1,
        keys=("a",),
        seqs=seqs,
        times_ms=np.array(times_ms, np.int64),
        samples=np.array([[float(seq)] for seq in seqs]),
    )
    writer.write([block], [])
    writer.close()


def test_status_is_recorded_as_it_changes(migrated: str, broker: Mosquitto, connection: Connection) -> None:
    def online() -> list[tuple[object, ...]]:
        return connection.execute(
            "select name, site, online, status ->> 'agent_version' from telemetry.device_status"
            " join telemetry.device using (device_id)"
        ).fetchall()

    with Device(broker) as device:
        device.send_status()  # retained: the worker that comes later hears of it
        with working(migrated, broker):
            until(lambda: online() == [("pump", "plant", True, "1.2.3")], 15, "status of the device")
            device.send_status(online=False)
            until(lambda: online() == [("pump", "plant", False, "1.2.3")], 15, "device offline")


def test_birth_is_answered_with_what_is_committed(migrated: str, broker: Mosquitto) -> None:
    with Device(broker) as device:
        write(migrated, device, [1, 2, 5], [NOW_MS] * 3)
        with working(migrated, broker):
            device.send_status()
            device.wait_committed((1, 2), (5, 5))


def test_birth_that_names_the_stream_of_another_device_is_not_answered(migrated: str, broker: Mosquitto) -> None:
    with Device(broker, "owner") as owner, Device(broker, "thief") as thief:
        write(migrated, owner, [1, 2], [NOW_MS] * 2)
        thief.stream = owner.stream
        with working(migrated, broker):
            thief.send_status()
            owner.send_status()
            owner.wait_committed((1, 2))  # sent after the thief's, so that one has been dealt with
            assert thief.acks == []


def test_hostile_status_is_ignored_with_a_line_in_the_log(
    migrated: str, broker: Mosquitto, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    nul = b'{"v":1,"online":true,"stream":"%s","boot_id":"\\u0000","agent_version":"1"}' % str(uuid4()).encode()
    with Device(broker, "bad") as bad, Device(broker, "worse") as worse, Device(broker, "good") as good:
        bad.send_raw(b"\xff\x00", "status", retain=True)
        worse.send_raw(nul, "status", retain=True)
        good.send_raw(b"", "status", retain=True)
        good.send_status()
        with working(migrated, broker):
            names = "select name from telemetry.device_status join telemetry.device using (device_id)"
            until(lambda: connection.execute(names).fetchall() == [("good",)], 15, "the good status alone")
            until(lambda: caplog.text.count("ignored a status on") == 2, 15, "both lines in the log")
    assert "ignored a status on telemetry/v1/plant/bad/status" in caplog.text
    assert "ignored a status on telemetry/v1/plant/worse/status" in caplog.text


def test_worker_waits_for_a_database_that_is_away(
    broker: Mosquitto, free_port: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    with working(f"postgresql://nobody@127.0.0.1:{free_port()}/none", broker):
        until(lambda: "the database is away" in caplog.text, 15, "a line that says so")
    assert len([record for record in caplog.records if "away" in record.message]) == 1


def run_upkeep(connection: Connection, retention: Retention, now_ms: int) -> None:
    for _ in Upkeep(connection, retention).round(now_ms):
        pass


def ages_in_hours(connection: Connection) -> list[float]:
    rows = connection.execute("select (%s - extract(epoch from time) * 1000)::bigint from telemetry.reading", [NOW_MS])
    return sorted(age / HOUR_MS for (age,) in rows.fetchall())


def test_only_what_lies_wholly_past_the_retention_is_dropped(
    migrated: str, broker: Mosquitto, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ages = [0, 1, 23, 24, 29, 31, 37, 100]
    with Device(broker) as device:
        write(migrated, device, list(range(1, 9)), [NOW_MS - age * HOUR_MS for age in ages])
    run_upkeep(connection, Retention(raw_hours=24), NOW_MS)
    oldest = NOW_MS - (NOW_MS - 24 * HOUR_MS) // RAW.span_ms * RAW.span_ms  # the piece that holds what is 24 h old
    assert ages_in_hours(connection) == [age for age in ages if age * HOUR_MS <= oldest]
    assert "of tier raw" in caplog.text
    assert connection.execute("select sum(count) from telemetry.sample_5m").fetchone() == (len(ages) - 1,)
    caplog.clear()
    run_upkeep(connection, Retention(raw_hours=24), NOW_MS)
    assert caplog.text == ""


def test_a_reader_keeps_old_readings_but_holds_nobody_up(
    migrated: str, broker: Mosquitto, connection: Connection
) -> None:
    with Device(broker) as device, connect(migrated, "reader") as reader:
        write(migrated, device, [1, 2], [NOW_MS, NOW_MS - 100 * HOUR_MS])
        with reader.transaction():
            reader.execute("select from telemetry.reading").fetchall()
            run_upkeep(connection, Retention(), NOW_MS)
            assert 100 in ages_in_hours(connection)
            write(migrated, device, [3], [NOW_MS])
        run_upkeep(connection, Retention(), NOW_MS)
        assert ages_in_hours(connection) == [0, 0]


def test_partitions_stand_a_day_ahead(connection: Connection) -> None:
    run_upkeep(connection, Retention(), int(time.time() * 1000))
    row = connection.execute(
        "select relkind = 'r'"
        " or (select count(*) from pg_inherits where inhparent = 'telemetry.reading'::regclass) >= 5"
        " from pg_class where oid = 'telemetry.reading'::regclass"
    ).fetchone()
    assert row == (True,)


def test_rejected_messages_are_pruned_by_their_last_appearance(connection: Connection) -> None:
    park(
        connection, [Rejection(Message("a", b"old"), "malformed", ""), Rejection(Message("b", b"new"), "malformed", "")]
    )
    connection.execute("update telemetry.rejected set last_received_at = now() - interval '31 days' where topic = 'a'")
    run_upkeep(connection, Retention(rejected_days=30), NOW_MS)
    assert connection.execute("select topic from telemetry.rejected").fetchall() == [("b",)]
