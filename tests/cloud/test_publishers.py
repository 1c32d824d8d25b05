"""Readings without sequence numbers on real servers: each once, and only for devices that are their publisher's."""

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_ingest.foreign.blocks import blocks
from cloud_ingest.foreign.interpretation import Reading
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.lease import Lease
from cloud_ingest.store.migrate import migrate

NOW_MS = 1_795_000_000_000
NAN = float("nan")
Db = psycopg.Connection[tuple[Any, ...]]


def reading(
    second: int, *values: float, device: str = "web", publisher: str = "telegraf", keys: tuple[str, ...] = ()
) -> Reading:
    keys = keys or tuple(f"k{number}" for number in range(len(values)))
    return Reading(publisher, "plant", device, NOW_MS + 1000 * second, keys, values)


def published(*readings: Reading) -> list[Block]:
    return blocks(Message("telegraf/web/x", repr(readings).encode()), readings, NOW_MS)


def agents(device: str, seq: int, site: str = "agents") -> Block:
    return Block(
        message=Message(f"telemetry/v1/{site}/{device}/samples", b""),
        site=site,
        device=device,
        stream=uuid4(),
        low=1,
        keys=("k0",),
        seqs=[seq],
        times_ms=np.array([NOW_MS], np.int64),
        samples=np.array([[0.5]]),
    )


@pytest.fixture
def migrated(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def writer(migrated: str) -> Iterator[BatchWriter]:
    with closing(BatchWriter(migrated)) as writer:
        yield writer


@pytest.fixture
def connection(migrated: str) -> Iterator[Db]:
    with psycopg.connect(migrated, autocommit=True) as connection:
        yield connection


def stored(connection: Db, device: str = "web") -> list[tuple[int, str, float]]:
    return connection.execute(
        "select (extract(epoch from time) * 1000)::bigint - %s, metric, value from telemetry.sample"
        " where device = %s order by time, metric, value",
        [NOW_MS, device],
    ).fetchall()


def test_redelivery_changes_nothing_within_a_batch_and_between_batches(writer: BatchWriter, connection: Db) -> None:
    batch = published(reading(1, 1.0, NAN), reading(2, 2.0, 3.0))
    first = writer.write([*batch, *batch], [])
    assert (first.stored_ticks, first.duplicate_ticks, first.settlements) == (2, 2, [])
    again = writer.write(published(reading(2, 2.0, 3.0), reading(1, 1.0, NAN), reading(3, 2.0, 3.0)), [])
    assert (again.stored_ticks, again.duplicate_ticks) == (1, 2)
    assert stored(connection) == [
        (1000, "k0", 1.0),
        (2000, "k0", 2.0),
        (2000, "k1", 3.0),
        (3000, "k0", 2.0),
        (3000, "k1", 3.0),
    ]
    assert connection.execute("select ticks, received::text from telemetry.stream").fetchall() == [(3, "{}")]


def test_other_values_of_the_same_time_are_another_reading(writer: BatchWriter, connection: Db) -> None:
    writer.write(published(reading(1, 1.0)), [])
    writer.write(published(reading(1, 1.5), reading(1, 1.0, device="other")), [])
    assert stored(connection) == [(1000, "k0", 1.0), (1000, "k0", 1.5)]
    assert stored(connection, "other") == [(1000, "k0", 1.0)]


deliveries = st.lists(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([0.0, -0.0, 1.5, NAN, 1e300]), st.sampled_from(["one", "two"])),
        min_size=1,
        max_size=8,
    ),
    min_size=1,
    max_size=5,
)


@given(deliveries)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_reading_is_stored_once_however_it_is_delivered(
    migrated: str, connection: Db, batches: list[list[tuple[int, float, str]]]
) -> None:
    run = uuid4()
    expected: set[tuple[int, str, str]] = set()
    with closing(BatchWriter(migrated)) as writer:
        for batch in batches:
            readings = [
                reading(second, value, 7.0, device=f"{device}-{run}"[:64], keys=("a", f"b_{device}"))
                for second, value, device in batch
            ]
            outcome = writer.write(published(*readings), [])
            new = {(second, repr(value), device) for second, value, device in batch} - expected
            assert outcome.stored_ticks == len(new)
            expected |= new
    rows = connection.execute(
        "select count(*) from telemetry.reading join telemetry.device using (device_id) where name like %s",
        [f"%{run}"],
    ).fetchone()
    assert rows == (len(expected),)


def test_two_writers_with_the_same_readings_store_each_once(migrated: str, connection: Db) -> None:
    barrier = threading.Barrier(2)
    outcomes = []

    def work(order: int) -> None:
        with closing(BatchWriter(migrated)) as writer:
            for second in range(10):
                batch = published(*(reading(second, 1.0, device=f"d{number}") for number in range(5)))
                barrier.wait(30)
                outcomes.append(writer.write(batch[::order], []))

    threads = [threading.Thread(target=work, args=(order,)) for order in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 20
    assert sum(outcome.stored_ticks for outcome in outcomes) == 50
    assert connection.execute("select count(*) from telemetry.reading").fetchone() == (50,)


def test_readings_from_before_the_raw_ones_kept_are_refused_because_they_may_have_been_counted(
    writer: BatchWriter, connection: Db
) -> None:
    floor = NOW_MS + 2_000
    connection.execute("update telemetry.rollup_state set floor_raw = to_timestamp(%s / 1000.0)", [floor])
    outcome = writer.write(published(reading(1, 1.0), reading(2, 2.0), reading(3, 3.0)), [])
    assert [rejection.reason for rejection in outcome.rejections] == ["too_old"]
    assert stored(connection) == [(2000, "k0", 2.0), (3000, "k0", 3.0)]


def test_no_publisher_speaks_for_a_device_that_has_an_agent(writer: BatchWriter, connection: Db) -> None:
    writer.write([agents("pump", 1)], [])
    outcome = writer.write(published(reading(1, 1.0, device="pump"), reading(1, 1.0)), [])
    assert [(it.reason, it.detail) for it in outcome.rejections] == [
        ("device_taken", "device pump has an agent of its own")
    ]
    assert stored(connection, "pump") == [(0, "k0", 0.5)]
    assert stored(connection) == [(1000, "k0", 1.0)]
    # Nor moves it to its own site
    assert connection.execute("select site from telemetry.device where name = 'pump'").fetchall() == [("agents",)]


def test_device_whose_agent_has_only_said_that_it_is_there_is_taken_too(writer: BatchWriter, connection: Db) -> None:
    connection.execute(
        "with made as (insert into telemetry.device (name, site) values ('web', 'agents') returning device_id)"
        " insert into telemetry.device_status select device_id, true, now(), '{}' from made"
    )
    outcome = writer.write(published(reading(1, 1.0)), [])
    assert [rejection.reason for rejection in outcome.rejections] == ["device_taken"]


def test_agent_takes_over_the_device_of_a_publisher(writer: BatchWriter, connection: Db) -> None:
    writer.write(published(reading(1, 1.0)), [])
    assert writer.write([agents("web", 1)], []).stored_ticks == 1
    outcome = writer.write(published(reading(2, 2.0)), [])
    assert [rejection.reason for rejection in outcome.rejections] == ["device_taken"]
    assert stored(connection) == [(0, "k0", 0.5), (1000, "k0", 1.0)]


def test_device_belongs_to_the_publisher_that_came_first(writer: BatchWriter, connection: Db) -> None:
    mixed = published(reading(1, 1.0), reading(1, 2.0, publisher="other"))
    outcome = writer.write(mixed, [])
    assert [rejection.detail for rejection in outcome.rejections] == [
        "device web belongs to publisher telegraf, not to other"
    ]
    assert stored(connection) == [(1000, "k0", 1.0)]


def test_series_that_can_not_be_is_parked_and_its_neighbour_stored(writer: BatchWriter, connection: Db) -> None:
    outcome = writer.write(published(reading(1, 1.0, keys=("a b",)), reading(1, 1.0)), [])
    assert [rejection.reason for rejection in outcome.rejections] == ["invalid_series_key"]
    assert stored(connection) == [(1000, "k0", 1.0)]


def test_lease_has_one_holder_until_it_lets_go(migrated: str) -> None:
    one, two, other = Lease(migrated, "a"), Lease(migrated, "a"), Lease(migrated, "b")
    assert one.take()
    assert other.take()
    assert not two.take()
    assert one.is_held()
    assert not two.is_held()
    one.release()
    assert not one.is_held()
    assert two.take()
    two.release()
    other.release()


def test_lease_is_lost_with_its_connection_and_not_had_without_a_database(migrated: str, connection: Db) -> None:
    lease = Lease(migrated, "a")
    assert lease.take()
    connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'cloud-ingest-lease'"
        " and datname = current_database()"
    )
    assert not lease.is_held()
    assert not Lease("postgresql://nobody@127.0.0.1:1/none", "a").take()
