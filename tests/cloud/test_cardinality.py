"""The budget of a device: what it makes up beyond it is parked, exactly, and nobody else notices."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from harness.broker import Mosquitto
from harness.cloud import role
from harness.device import Device
from harness.fuse import Fuse
from harness.tiers import finish
from harness.wait import until
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.config import Retention
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.cardinality import Budget, Layout, Usage, largest, retire
from cloud_ingest.store.database import connect, server_time_ms
from cloud_ingest.store.directory import Directory
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.partitions import partitions_of
from cloud_ingest.store.ranges import from_multirange
from cloud_ingest.store.tiers import FIVE_MINUTES
from cloud_ingest.worker.upkeep import Upkeep

NOW_MS = 1_795_000_000_000
BUDGET = Budget(series=5, layouts=4)

Db = psycopg.Connection[tuple[Any, ...]]


def tick(stream: UUID, seq: int, *keys: str, device: str = "pump") -> Block:
    return Block(
        message=Message(f"telemetry/v1/plant/{device}/samples", repr((stream, seq)).encode()),
        site="plant",
        device=device,
        stream=stream,
        low=1,
        keys=keys,
        seqs=[seq],
        times_ms=np.array([NOW_MS + 1000 * seq], np.int64),
        samples=np.full((1, len(keys)), float(seq)),
    )


@pytest.fixture
def migrated(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def connection(migrated: str) -> Iterator[Db]:
    with connect(migrated, "test") as connection:
        yield connection


@pytest.fixture
def new_writer(migrated: str) -> Iterator[Callable[[Budget], BatchWriter]]:
    with ExitStack() as writers:
        yield lambda budget: writers.enter_context(closing(BatchWriter(migrated, budget=budget)))


def usage(connection: Db, device: str = "pump") -> tuple[int, int]:
    """Series and layouts that count."""
    (one,) = [row for row in largest(connection, 100) if row.device == device]
    return one.series, one.layouts


def stored(connection: Db, device: str = "pump") -> list[int]:
    rows = connection.execute(
        "select samples[1]::integer from telemetry.reading join telemetry.device using (device_id)"
        " where name = %s order by 1",
        [device],
    )
    return [seq for (seq,) in rows]


def parked(connection: Db, device: str = "pump") -> dict[int, str]:
    """Reason by sequence number."""
    rows = connection.execute("select seqs::text, reason from telemetry.rejected where device = %s", [device])
    return {
        seq: reason for text, reason in rows for first, last in from_multirange(text) for seq in range(first, last + 1)
    }


@given(
    st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=4).map(sorted), max_size=12),
    st.integers(1, 8) | st.none(),
    st.integers(1, 8) | st.none(),
)
def test_usage_never_exceeds_the_budget_and_refuses_nothing_that_fits(
    sent: list[list[str]], series: int | None, layouts: int | None
) -> None:
    held = Usage()
    keys: set[str] = set()
    count = 0
    for each in sent:
        fits = (series is None or len(keys | set(each)) <= series or keys >= set(each)) and (
            layouts is None or count < layouts
        )
        refusal = held.admit(Layout.of(each), Budget(series, layouts))
        assert (refusal is None) == fits
        if fits:
            keys |= set(each)
            count += 1
        assert (held.series, held.layouts) == (len(keys), count)


def test_series_beyond_the_budget_are_parked_and_settled_and_leave_no_trace(
    new_writer: Callable[[Budget], BatchWriter], connection: Db
) -> None:
    mine, other = uuid4(), uuid4()
    outcome = new_writer(BUDGET).write(
        [
            tick(mine, 1, "a", "b", "c"),
            tick(mine, 2, "a", "d", "e"),
            tick(mine, 3, "a", "made_up"),
            tick(other, 1, "x", "made_up_too", device="other"),
            tick(mine, 4, "a", "e"),
            tick(mine, 5, "made_up", "f"),
            tick(mine, 6, "a", "b", "c"),
        ],
        [],
    )
    assert {it.stream: it.ranges for it in outcome.settlements} == {mine: [(1, 6)], other: [(1, 1)]}
    assert stored(connection) == [1, 2, 4, 6]
    assert parked(connection) == {3: "too_many_series", 5: "too_many_series"}
    assert stored(connection, "other") == [1]
    assert usage(connection) == (5, 3)
    made_up = connection.execute("select key from telemetry.series_key where key in ('made_up', 'f')").fetchall()
    assert made_up == []
    assert connection.execute("select count(*) from telemetry.layout").fetchone() == (4,)
    assert [(row.device, row.refused) for row in largest(connection, 1)] == [("pump", 2)]


def test_layouts_that_alternate_are_counted_too(new_writer: Callable[[Budget], BatchWriter], connection: Db) -> None:
    stream = uuid4()
    layouts = ["ab", "ba", "abc", "cab", "bac", "a", "ab"]
    new_writer(BUDGET).write([tick(stream, seq, *keys) for seq, keys in enumerate(layouts, 1)], [])
    assert stored(connection) == [1, 2, 3, 4, 7]
    assert parked(connection) == {5: "too_many_layouts", 6: "too_many_layouts"}


def test_what_a_device_sent_before_the_budget_was_set_is_stored_on(
    new_writer: Callable[[Budget], BatchWriter], connection: Db
) -> None:
    stream = uuid4()
    wide = [f"s{number}" for number in range(20)]
    new_writer(Budget()).write([tick(stream, 1, *wide)], [])
    new_writer(BUDGET).write([tick(stream, 2, *wide), tick(stream, 3, "new"), tick(stream, 4, "s1", "s2")], [])
    assert stored(connection) == [1, 2, 4]
    assert parked(connection) == {3: "too_many_series"}


def test_known_layouts_ask_the_database_nothing(connection: Db, new_writer: Callable[[Budget], BatchWriter]) -> None:
    new_writer(BUDGET).write([tick(uuid4(), 1, "a")], [])
    directory = Directory(connection, BUDGET)
    device = directory.devices([("pump", "plant")])["pump"]
    sent = [(device, ("a",)), (device, ("b", "c")), (device, tuple("defghi"))]
    first = directory.layouts(sent)
    assert set(first[1]) == {sent[2]}
    fuse = Fuse(connection, {})
    assert directory.layouts(sent) == first
    assert fuse.statements == 0


def test_two_writers_at_once_keep_to_the_budget_and_never_deadlock(migrated: str, connection: Db) -> None:
    budget = Budget(series=40, layouts=50)
    devices = [f"device-{number}" for number in range(4)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        streams = {device: uuid4() for device in devices}
        order = devices[:: 1 if number else -1]
        try:
            with closing(BatchWriter(migrated, budget=budget)) as writer:
                for seq in range(1, 61):
                    keys = [f"common_{(seq * 7 + number) % 60}", f"own_{number}_{seq % 50}"]
                    writer.write([tick(streams[it], seq, *sorted(keys), device=it) for it in order], [])
        except BaseException as exc:  # noqa: BLE001 - reported by the test's own thread
            failures.append(exc)

    threads = [threading.Thread(target=work, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for device in devices:
        series, layouts = usage(connection, device)
        assert series in (39, 40)  # a layout of two may not fit where one is left
        assert layouts <= 50
        rows = connection.execute(
            "select (select count(*) from telemetry.reading where device_id = device.device_id),"
            "  (select sum(gap.ticks) from telemetry.gap join telemetry.stream using (stream_id)"
            "   where device_id = device.device_id and reason = 'rejected')"
            " from telemetry.device where name = %s",
            [device],
        ).fetchall()
        assert sum(rows[0]) == 120
    # What counts is what was stored
    assert (
        connection.execute(
            "select device_id, key_id from telemetry.device_series except"
            " select device_id, key_id from telemetry.reading join telemetry.layout_position using (layout_id)"
        ).fetchall()
        == []
    )


@pytest.mark.slow
def test_budget_holds_though_one_of_two_ingesters_is_killed(
    migrated: str, broker: Mosquitto, connection: Db, tmp_path: Path
) -> None:
    settings = {"INGEST__MAX_SERIES_PER_DEVICE": "20", "INGEST__BATCH_AGE_MS": "0"}
    now_ms = server_time_ms(connection)
    count = 200
    with (
        role("ingest", tmp_path / "one", broker, migrated, **settings) as one,
        role("ingest", tmp_path / "two", broker, migrated, **settings) as two,
        Device(broker) as device,
    ):
        for each in (one, two):
            until(lambda each=each: "connected to the broker" in each.output(), 20, "both subscribe")  # type: ignore[misc]
        for seq in range(1, count + 1):
            device.send_tick(seq, now_ms + seq, {f"s{seq}": 1.0})
            if seq == count // 2:
                until(lambda: device.committed() != [], 20, "something is committed")
                one.kill()

        def resent() -> bool:
            """What an edge does with what is not confirmed: some went to the one that is dead."""
            held = {seq for first, last in device.committed() for seq in range(first, last + 1)}
            for seq in sorted(set(range(1, count + 1)) - held):
                device.send_tick(seq, now_ms + seq, {f"s{seq}": 1.0})
            return device.committed() == [(1, count)]

        until(resent, 30, "all of it is settled")
    assert usage(connection) == (20, 20)
    assert connection.execute("select count(*) from telemetry.reading").fetchone() == (20,)
    assert set(parked(connection).values()) == {"too_many_series"}
    assert len(parked(connection)) == count - 20


def test_series_that_are_not_sent_any_more_make_room(
    new_writer: Callable[[Budget], BatchWriter], connection: Db
) -> None:
    stream = uuid4()
    new_writer(BUDGET).write([tick(stream, 1, "a", "b"), tick(stream, 2, "c", "d", "e"), tick(stream, 3, "b", "c")], [])
    age = "update telemetry.device_layout set counted_since = now() - interval '8 days'"
    connection.execute(age)
    assert retire(connection, 7) == 0, "readings of all are still held"
    connection.execute("delete from telemetry.reading where samples[1] in (2, 3)")
    assert retire(connection, 9) == 0, "none has been silent for so long"
    assert retire(connection, 7) == 2
    assert usage(connection) == (2, 1)
    # Others take the room, and what was retired has to ask again
    new_writer(BUDGET).write([tick(stream, 4, "f", "g"), tick(stream, 5, "c", "d", "e"), tick(stream, 6, "b", "c")], [])
    assert stored(connection) == [1, 4, 6]
    assert parked(connection) == {5: "too_many_series"}
    assert usage(connection) == (5, 3)
    partitions_of(connection, FIVE_MINUTES).cover(connection, [server_time_ms(connection)])
    # A bucket of the 5-minute tier holds a layout as readings do
    connection.execute(
        "insert into telemetry.rollup_5m"
        " (time, device_id, layout_id, ticks, first_time, last_time, sums, mins, maxs, lasts)"
        " select now(), device_id, layout_id, 1, now(), now(), '{1}', '{1}', '{1}', '{1}' from telemetry.device_layout"
        " where counted_since is not null limit 1"
    )
    connection.execute("delete from telemetry.reading")
    connection.execute(age + " where counted_since is not null")
    assert retire(connection, 7) == 2


def test_worker_looks_for_what_is_not_sent_any_more(
    new_writer: Callable[[Budget], BatchWriter], connection: Db
) -> None:
    new_writer(BUDGET).write([tick(uuid4(), 1, "a")], [])
    connection.execute("update telemetry.device_layout set counted_since = now() - interval '8 days'")
    connection.execute("delete from telemetry.reading")
    finish(Upkeep(connection, Retention(rollup_5m_days=7)).round(server_time_ms(connection)))
    assert largest(connection, 1) == []
