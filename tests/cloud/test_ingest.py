"""The ingest role between a real broker and a real database."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from harness.broker import Mosquitto
from harness.cloud import at_work, environment
from harness.device import Device
from harness.postgres import Server
from harness.wait import until

from cloud_ingest import config
from cloud_ingest.errors import SchemaMissing
from cloud_ingest.ingest import decoders, main
from cloud_ingest.store.migrate import migrate
from telemetry_contract.codec import encode
from telemetry_contract.payload import Tick

Query = Callable[..., list[Any]]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


ingesting = partial(at_work, main.run)


@pytest.fixture
def migrated(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def query(migrated: str) -> Iterator[Query]:
    with psycopg.connect(migrated, autocommit=True) as connection:
        yield lambda sql: connection.execute(sql).fetchall()


@pytest.fixture
def subscribed(caplog: pytest.LogCaptureFixture) -> Callable[[], None]:
    """Waits until the role is subscribed: a broker forgets at once what nobody subscribes to."""
    caplog.set_level(logging.INFO)

    def wait() -> None:
        until(lambda: "connected to the broker" in caplog.text, 15, "subscription")

    return wait


READINGS = "select samples from telemetry.reading order by time"


def test_tick_is_stored_and_its_commit_told(
    migrated: str, broker: Mosquitto, query: Query, subscribed: Callable[[], None]
) -> None:
    with ingesting(migrated, broker), Device(broker) as device:
        subscribed()
        device.send_tick(1, now_ms(), {"a": 1.5, "b": None})
        device.wait_committed((1, 1))
        assert query("select device, metric, value from telemetry.sample") == [("pump", "a", 1.5)]
        assert abs(device.acks[-1].server_time - now_ms()) < 60_000


def test_duplicate_and_overlapping_redelivery_changes_no_row(
    migrated: str, broker: Mosquitto, query: Query, subscribed: Callable[[], None]
) -> None:
    start = now_ms() - 100_000
    times = [start + seq * 1000 for seq in range(30)]

    def backlog(device: Device, first: int, last: int) -> None:
        seqs = list(range(first, last + 1))
        device.send_backlog(seqs, [times[seq] for seq in seqs], {"a": [float(seq) for seq in seqs]})

    with ingesting(migrated, broker), Device(broker) as device:
        subscribed()
        backlog(device, 1, 10)
        device.send_tick(20, times[20], {"a": 20.0})
        device.wait_committed((1, 10), (20, 20))
        before = query("select ctid, time, samples from telemetry.reading order by time")
        backlog(device, 1, 10)
        backlog(device, 3, 7)
        device.send_tick(20, times[20], {"a": 20.0})
        device.send_tick(5, times[5], {"a": 999.0})
        backlog(device, 8, 12)
        device.wait_committed((1, 12), (20, 20))
        after = query("select ctid, time, samples from telemetry.reading order by time")
        assert [row for row in after if row in before] == before
        assert [row[2] for row in after] == [[float(seq)] for seq in [*range(1, 13), 20]]
        assert query("select ticks, received::text from telemetry.stream") == [(13, "{[1,13),[20,21)}")]


def test_bad_messages_are_parked_with_their_reason_and_neighbours_are_stored(
    migrated: str, broker: Mosquitto, query: Query, subscribed: Callable[[], None]
) -> None:
    stream = uuid4()
    good = Tick(v=1, stream=stream, seq=1, low=1, t=now_ms(), values={"a": 1.0})
    bad = {
        b"\x00rubbish": "malformed",
        encode(good).payload.replace(b'"v":1', b'"v":2'): "unknown_version",
        json.dumps({**json.loads(encode(good).payload), "device": "other"}).encode(): "foreign_device",
        b"{" + b" " * 3_000 + b"}": "too_large",
        json.dumps({**json.loads(encode(good).payload), "t": now_ms() + 7_200_000, "seq": 7}).encode(): "in_the_future",
        json.dumps({**json.loads(encode(good).payload), "t": 3, "seq": 8}).encode(): "too_old",
        json.dumps({**json.loads(encode(good).payload), "values": {"a b": 1}, "seq": 9}).encode(): "invalid_series_key",
    }
    # Each is acknowledged: the broker sends only two at a time, and yet the good one behind them comes.
    limits = {"INGEST__RECEIVE_MAXIMUM": "2", "INGEST__MAX_MESSAGE_BYTES": "2048"}
    with ingesting(migrated, broker, **limits), Device(broker) as device:
        subscribed()
        device.stream = stream
        for payload in bad:
            device.send_raw(payload)
        device.send_tick(1, now_ms(), {"a": 1.0})
        device.wait_committed((1, 1), (7, 9))  # what was parked but understood, the edge may forget
        rows = query("select payload, reason from telemetry.rejected")
        assert {bytes(payload): reason for payload, reason in rows} == bad
        assert query(READINGS) == [([1.0],)]


def test_only_the_ticks_outside_the_time_bounds_are_rejected(
    migrated: str, broker: Mosquitto, query: Query, subscribed: Callable[[], None]
) -> None:
    with ingesting(migrated, broker), Device(broker) as device:
        subscribed()
        device.send_backlog([1, 2, 3], [5, now_ms(), now_ms() + 10_000_000], {"a": [1, 2, 3]})
        device.wait_committed((1, 3))
        assert query(READINGS) == [([2.0],)]
        detail = query("select detail from telemetry.rejected")[0][0]
        assert detail.startswith("2 of 3 ticks")


def test_message_that_the_database_refuses_is_found_and_parked_alone(
    migrated: str, broker: Mosquitto, query: Query, subscribed: Callable[[], None]
) -> None:
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("alter table telemetry.reading add constraint small check (samples[1] < 100)")
    # One batch of everything: only cutting it finds the poison.
    with ingesting(migrated, broker, INGEST__BATCH_AGE_MS="2000"), Device(broker) as device:
        subscribed()
        for seq in range(1, 10):
            device.send_tick(seq, now_ms() + seq, {"a": 1000.0 if seq == 6 else float(seq)})
        device.wait_committed((1, 9))
        assert [samples[0] for (samples,) in query(READINGS)] == [1, 2, 3, 4, 5, 7, 8, 9]
        ((reason, detail, payload),) = query("select reason, detail, payload from telemetry.rejected")
        assert (reason, json.loads(bytes(payload))["seq"]) == ("refused_by_database", 6)
        assert "small" in detail


def test_commit_acks_are_coalesced_and_the_last_one_tells_all(
    migrated: str, broker: Mosquitto, subscribed: Callable[[], None]
) -> None:
    with ingesting(migrated, broker, INGEST__BATCH_AGE_MS="0"), Device(broker) as device:
        subscribed()
        started = time.monotonic()
        for seq in range(1, 301):
            device.send_tick(seq, now_ms(), {"a": 1.0})
        device.wait_committed((1, 300))
        elapsed = time.monotonic() - started
        assert len(device.acks) <= elapsed + 2


def test_while_the_database_is_away_nothing_is_acknowledged_and_afterwards_nothing_is_missing(
    own_database_server: Server, broker: Mosquitto, caplog: pytest.LogCaptureFixture, subscribed: Callable[[], None]
) -> None:
    url = own_database_server.url()
    migrate(url)
    with ingesting(url, broker, INGEST__RECEIVE_MAXIMUM="5"), Device(broker) as device:
        subscribed()
        device.send_tick(1, now_ms(), {"a": 1.0})
        device.wait_committed((1, 1))
        own_database_server.kill()
        for seq in range(2, 21):
            device.send_tick(seq, now_ms(), {"a": float(seq)})
        acks_before = len(device.acks)
        # The broker holds back what lies beyond the receive maximum: five are with the ingester, fourteen wait.
        until(lambda: "database is away" in caplog.text, 15, "notice that the database is away")
        assert len(device.acks) == acks_before
        own_database_server.start()
        device.wait_committed((1, 20), timeout=30)
    with psycopg.connect(url) as connection:
        values = [row[0] for row in connection.execute("select value from telemetry.sample order by time, value")]
        assert values == list(range(1, 21))


def test_clean_stop_writes_what_has_arrived(
    migrated: str, broker: Mosquitto, query: Query, subscribed: Callable[[], None]
) -> None:
    with Device(broker) as device:
        with ingesting(migrated, broker, INGEST__BATCH_AGE_MS="60000", INGEST__BATCH_ROWS="100000"):
            subscribed()
            for seq in range(1, 51):
                device.send_tick(seq, now_ms() + seq, {"a": float(seq)})
        assert len(query(READINGS)) == 50
        device.wait_committed((1, 50))


def test_clean_stop_writes_also_what_the_broker_holds_for_it(
    migrated: str, broker: Mosquitto, query: Query, subscribed: Callable[[], None]
) -> None:
    with psycopg.connect(migrated) as blocker, Device(broker) as device:
        blocker.execute("lock table telemetry.stream in exclusive mode")
        with ingesting(migrated, broker, INGEST__RECEIVE_MAXIMUM="4") as stop:
            subscribed()
            for seq in range(1, 51):
                device.send_tick(seq, now_ms() + seq, {"a": float(seq)})

            def unblock() -> None:
                stop.wait()
                blocker.rollback()

            threading.Thread(target=unblock).start()
        assert query("select count(*) from telemetry.reading") == [(50,)]
        device.wait_committed((1, 50))


def test_transactions_stay_small_however_much_has_come(
    migrated: str, broker: Mosquitto, query: Query, subscribed: Callable[[], None]
) -> None:
    with psycopg.connect(migrated) as blocker, ingesting(migrated, broker, INGEST__BATCH_ROWS="100"):
        subscribed()
        blocker.execute("lock table telemetry.stream in exclusive mode")
        with Device(broker) as device:
            start = now_ms() - 10_000_000
            for number in range(40):
                seqs = list(range(number * 50 + 1, number * 50 + 51))
                device.send_backlog(seqs, [start + seq for seq in seqs], {"a": [1.0] * 50})
            blocker.rollback()
            device.wait_committed((1, 2_000))
    rows = query("select count(*) from telemetry.reading group by xmin::text")
    assert sum(count for (count,) in rows) == 2_000
    assert max(count for (count,) in rows) <= 100


def test_stop_does_not_wait_for_a_database_that_is_away(
    own_database_server: Server, broker: Mosquitto, caplog: pytest.LogCaptureFixture, subscribed: Callable[[], None]
) -> None:
    url = own_database_server.url()
    migrate(url)
    with ingesting(url, broker, INGEST__RECEIVE_MAXIMUM="4"), Device(broker) as device:
        subscribed()
        own_database_server.kill()
        for seq in range(1, 21):
            device.send_tick(seq, now_ms(), {"a": 1.0})
        until(lambda: "database is away" in caplog.text, 15, "notice that the database is away")


def test_database_without_the_schema_ends_the_role_with_the_reason(
    database_url: str, broker: Mosquitto, subscribed: Callable[[], None]
) -> None:
    settings = config.load(None, environment(broker, database_url, {}))

    def send() -> None:
        subscribed()
        with Device(broker) as device:
            device.send_tick(1, now_ms(), {"a": 1.0})

    sending = threading.Thread(target=send)
    sending.start()
    with pytest.raises(SchemaMissing):
        main.run(settings, threading.Event())
    sending.join()


def test_defect_ends_the_role_though_a_commit_waits_for_the_database(
    broker: Mosquitto,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    subscribed: Callable[[], None],
    free_port: Callable[[], int],
) -> None:
    settings = config.load(None, environment(broker, f"postgresql://127.0.0.1:{free_port()}/nowhere", {}))

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    def send() -> None:
        subscribed()
        with Device(broker) as device:
            device.send_tick(1, now_ms(), {"a": 1.0})
            until(lambda: "database is away" in caplog.text, 15, "notice that the database is away")
            monkeypatch.setattr(decoders, "decode", fail)
            device.send_tick(2, now_ms(), {"a": 1.0})

    sending = threading.Thread(target=send)
    sending.start()
    with pytest.raises(ZeroDivisionError):
        main.run(settings, threading.Event())
    sending.join()


def test_protocol_3_1_1_with_a_plain_subscription(
    migrated: str, broker: Mosquitto, query: Query, subscribed: Callable[[], None]
) -> None:
    settings = {"BROKER__PROTOCOL": "3.1.1", "INGEST__GROUP": "null"}
    with ingesting(migrated, broker, **settings), Device(broker) as device:
        subscribed()
        device.send_tick(1, now_ms(), {"a": 1.0})
        device.wait_committed((1, 1))
        assert query(READINGS) == [([1.0],)]


def test_broker_that_was_killed_is_found_again(
    migrated: str, broker: Mosquitto, query: Query, caplog: pytest.LogCaptureFixture, subscribed: Callable[[], None]
) -> None:
    with ingesting(migrated, broker):
        subscribed()
        broker.kill()
        until(lambda: "no broker at" in caplog.text, 15, "notice of the lost connection")
        caplog.clear()
        broker.start()
        subscribed()
        with Device(broker) as device:
            device.send_tick(1, now_ms(), {"a": 1.0})
            device.wait_committed((1, 1))
    assert query(READINGS) == [([1.0],)]
