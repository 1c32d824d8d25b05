"""The batch transaction on real servers: each tick once, whatever is delivered how often and by whom."""

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from harness.wait import until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_ingest.errors import DataRejected, SchemaMissing, StoreUnavailable
from cloud_ingest.message import Message
from cloud_ingest.store import rejected
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.conflicts import of_device
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.partitions import partitions_of
from cloud_ingest.store.ranges import runs
from cloud_ingest.store.rejected import Rejection
from cloud_ingest.store.tiers import RAW

NOW_MS = 1_795_000_000_000


def block(stream: UUID, seqs: list[int], *, device: str = "pump", low: int = 1, **changes: Any) -> Block:
    """Ticks whose values follow from their sequence numbers."""
    keys = changes.pop("keys", ("a", 'b{x="1"}'))
    rows = [[seq + column / 10 for column in range(len(keys))] for seq in seqs]
    return Block(
        message=Message(f"telemetry/v1/plant/{device}/samples", repr((stream, seqs)).encode()),
        site=changes.pop("site", "plant"),
        device=device,
        stream=stream,
        low=low,
        keys=keys,
        seqs=seqs,
        times_ms=np.array([NOW_MS + 1000 * seq for seq in seqs], np.int64),
        samples=np.array(rows, np.float64).reshape(len(seqs), len(keys)),
        **changes,
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
def connection(migrated: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(migrated, autocommit=True, options="-c TimeZone=UTC") as connection:
        yield connection


Db = psycopg.Connection[tuple[Any, ...]]


def stored(connection: Db, device: str) -> list[tuple[int, list[float]]]:
    return connection.execute(
        "select (extract(epoch from time) * 1000)::bigint, samples from telemetry.reading"
        " join telemetry.device using (device_id) where name = %s order by time",
        [device],
    ).fetchall()


def test_values_times_and_layout_are_stored_as_they_came(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    written = block(stream, [1, 2])
    written.samples[1, 1] = np.nan
    outcome = writer.write([written], [])
    assert (outcome.stored_ticks, outcome.stored_samples, outcome.duplicate_ticks) == (2, 3, 0)
    rows = connection.execute(
        "select (extract(epoch from time) * 1000)::bigint, device, site, metric, labels, value"
        " from telemetry.sample order by time, metric"
    ).fetchall()
    assert rows == [
        (NOW_MS + 1000, "pump", "plant", "a", {}, 1.0),
        (NOW_MS + 1000, "pump", "plant", "b", {"x": "1"}, 1.1),
        (NOW_MS + 2000, "pump", "plant", "a", {}, 2.0),
    ]


def test_devices_that_send_the_same_keys_share_a_layout(writer: BatchWriter, connection: Db) -> None:
    writer.write([block(uuid4(), [1], device="one"), block(uuid4(), [1], device="two")], [])
    writer.write([block(uuid4(), [1], device="three", keys=("a", 'b{x="1",}'))], [])
    assert connection.execute("select count(*) from telemetry.layout").fetchone() == (1,)
    assert connection.execute("select count(*) from telemetry.device_layout").fetchone() == (3,)


deliveries = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sets(st.integers(1, 25), min_size=1, max_size=8).map(sorted),
            st.sampled_from([("a",), ("a", 'b{x="1"}')]),
        ),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=5,
)


@given(deliveries)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_tick_is_stored_once_however_it_is_delivered(
    migrated: str, connection: Db, batches: list[list[tuple[int, list[int], tuple[str, ...]]]]
) -> None:
    streams = [uuid4(), uuid4()]
    devices = [f"device-{stream}" for stream in streams]
    expected: list[set[int]] = [set(), set()]
    with closing(BatchWriter(migrated)) as one, closing(BatchWriter(migrated)) as two:
        for number, batch in enumerate(batches):
            blocks = [block(streams[which], seqs, device=devices[which], keys=keys) for which, seqs, keys in batch]
            outcome = (one, two)[number % 2].write(blocks, [])
            before = sum(map(len, expected))
            for which, seqs, _ in batch:
                expected[which].update(seqs)
            assert outcome.stored_ticks == sum(map(len, expected)) - before
            assert outcome.duplicate_ticks == sum(len(it.seqs) for it in blocks) - outcome.stored_ticks
            settled = {it.stream: it.ranges for it in outcome.settlements}
            assert settled == {streams[which]: runs(expected[which]) for which in {which for which, _, _ in batch}}
    for which, device in enumerate(devices):
        rows = stored(connection, device)
        assert [time for time, _ in rows] == [NOW_MS + 1000 * seq for seq in sorted(expected[which])]
        assert [samples[0] for _, samples in rows] == sorted(expected[which])


def test_two_writers_at_once_store_each_tick_once_and_never_deadlock(migrated: str, connection: Db) -> None:
    streams = [uuid4() for _ in range(6)]
    failures: list[BaseException] = []

    def work(order: int) -> None:
        try:
            with closing(BatchWriter(migrated)) as writer:
                for start in range(1, 60, 3):
                    blocks = [block(it, list(range(start, start + 6)), device=f"d-{it}") for it in streams[::order]]
                    writer.write(blocks, [])
        except BaseException as exc:  # noqa: BLE001 - reported by the test's own thread
            failures.append(exc)

    threads = [threading.Thread(target=work, args=[order]) for order in (1, -1, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []
    for stream in streams:
        assert [row[1][0] for row in stored(connection, f"d-{stream}")] == list(range(1, 64))
    assert connection.execute("select distinct received::text, ticks from telemetry.stream").fetchall() == [
        ("{[1,64)}", 63)
    ]


def test_crossing_batches_wait_for_each_other_in_one_order(migrated: str, connection: Db) -> None:
    streams = sorted((uuid4() for _ in range(3)), key=lambda it: it.int)
    middle = streams[1]
    with closing(BatchWriter(migrated)) as writer:
        writer.write([block(it, [1], device=f"d-{it}") for it in streams], [])
    failures: list[BaseException] = []

    def work(order: list[UUID]) -> None:
        try:
            with closing(BatchWriter(migrated)) as writer:
                writer.write([block(it, [2], device=f"d-{it}") for it in order], [])
        except BaseException as exc:  # noqa: BLE001 - reported by the test's own thread
            failures.append(exc)

    threads = [threading.Thread(target=work, args=[order]) for order in (streams, streams[::-1])]
    blocked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with psycopg.connect(migrated) as other:
        # In the order of the batches each would now get one end, then want the middle, and then the other's end.
        other.execute("select from telemetry.stream where stream_id = %s for update", [middle])
        for thread in threads:
            thread.start()
        until(lambda: connection.execute(blocked).fetchone() == (2,), 20, "both writers to wait")
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []
    assert connection.execute("select distinct received::text, ticks from telemetry.stream").fetchall() == [
        ("{[1,3)}", 2)
    ]


@pytest.mark.slow
def test_writer_that_hangs_in_a_transaction_lets_go_of_its_streams(
    migrated: str, connection: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = uuid4()
    hangs, goes_on = threading.Event(), threading.Event()
    park = rejected.park
    raised: list[BaseException] = []

    def hang_once(connection: Db, rejections: list[Rejection]) -> None:
        if not hangs.is_set():
            hangs.set()
            goes_on.wait(60)
        park(connection, rejections)

    with closing(BatchWriter(migrated)) as hanging, closing(BatchWriter(migrated)) as other:

        def work() -> None:
            try:
                hanging.write([block(stream, [1, 2])], [])
            except StoreUnavailable as exc:
                raised.append(exc)

        monkeypatch.setattr(rejected, "park", hang_once)
        thread = threading.Thread(target=work)
        thread.start()
        try:
            assert hangs.wait(20)
            assert other.write([block(stream, [1])], []).stored_ticks == 1
        finally:
            goes_on.set()
            thread.join()
        assert len(raised) == 1
        outcome = hanging.write([block(stream, [1, 2])], [])
        assert (outcome.stored_ticks, outcome.duplicate_ticks) == (1, 1)
    assert len(stored(connection, "pump")) == 2


def test_writer_that_waited_for_a_stream_knows_what_the_other_has_committed(
    writer: BatchWriter, migrated: str, connection: Db
) -> None:
    stream = uuid4()
    writer.write([block(stream, [1])], [])
    outcomes = []
    with psycopg.connect(migrated) as other:
        other.execute("update telemetry.stream set received = received + '{[2,4)}'")
        waiting = threading.Thread(target=lambda: outcomes.append(writer.write([block(stream, [1, 2, 3, 4])], [])))
        waiting.start()
        blocked = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        until(lambda: connection.execute(blocked).fetchone() == (1,), 10, "the writer to wait for the stream")
        other.commit()
        waiting.join()
    assert [(it.stored_ticks, it.duplicate_ticks) for it in outcomes] == [(1, 3)]
    assert [time_ms for time_ms, _ in stored(connection, "pump")] == [NOW_MS + 1_000, NOW_MS + 4_000]


def test_stream_that_was_deleted_behind_the_writers_back_is_made_again(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    writer.write([block(stream, [1]), block(uuid4(), [1], device="fan")], [])
    connection.execute("delete from telemetry.stream")
    outcome = writer.write([block(stream, [1, 2])], [])
    assert (outcome.stored_ticks, outcome.settlements[0].ranges) == (2, [(1, 2)])


def test_a_stream_can_not_be_spoken_for_by_another_device(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    writer.write([block(stream, [1], device="owner")], [])
    outcome = writer.write([block(stream, [2], device="thief"), block(uuid4(), [1], device="bystander")], [])
    assert outcome.stored_ticks == 1
    assert [rejection.reason for rejection in outcome.rejections] == ["foreign_stream"]
    assert stored(connection, "thief") == []
    received = connection.execute("select received::text from telemetry.stream where stream_id = %s", [stream])
    assert received.fetchone() == ("{[1,2)}",)


def test_a_second_machine_with_the_same_name_and_outbox_is_noted(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    writer.write([block(stream, [1, 2])], [])
    elsewhere = replace(block(stream, [1, 2, 3]), times_ms=np.array([NOW_MS + at for at in (1_500, 2_500, 3_500)]))
    outcome = writer.write([elsewhere, block(stream, [3])], [])
    # Of each number what came first is stored, and the other is no redelivery, be it of this batch
    assert (outcome.stored_ticks, outcome.duplicate_ticks, outcome.cloned_messages) == (1, 3, 2)
    assert [time_ms for time_ms, _ in stored(connection, "pump")] == [NOW_MS + at for at in (1_000, 2_000, 3_500)]
    (conflict,) = of_device(connection, "pump", 10)
    assert (conflict.stream, conflict.owner, conflict.claimant, conflict.messages) == (stream, "pump", "pump", 2)


def test_a_redelivery_is_no_second_machine(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    refused = block(stream, [3]).refused("cardinality", "too many series")
    writer.write([block(stream, [1, 2]), refused, block(stream, [4], keys=())], [])
    again = [block(stream, [1]), block(stream, [2, 3]), block(stream, [4], keys=()), block(stream, [2, 5])]
    outcome = writer.write([*again, block(stream, [5], keys=("c",))], [])
    assert (outcome.stored_ticks, outcome.duplicate_ticks, outcome.cloned_messages) == (1, 6, 0)
    assert of_device(connection, "pump", 10) == []


def test_each_device_that_speaks_for_a_stream_of_another_is_noted(
    writer: BatchWriter, connection: Db, migrated: str
) -> None:
    stream, other = uuid4(), uuid4()
    writer.write([block(stream, [1], device="owner"), block(other, [1], device="thief")], [])
    with closing(BatchWriter(migrated)) as second:
        for number in range(2, 5):
            thief = [block(stream, [number], device="thief"), block(stream, [number + 10], device="thief")]
            second.write([*thief, block(stream, [number], device="owner")], [])
        second.write([block(other, [9], device="owner")], [])
    found = [(it.stream, it.owner, it.claimant, it.messages) for it in of_device(connection, "thief", 10)]
    assert found == [(other, "thief", "owner", 1), (stream, "owner", "thief", 6)]
    assert len(of_device(connection, "owner", 10)) == 2
    assert of_device(connection, "owner", 1)[0].stream == other
    assert of_device(connection, "pump", 10) == []
    # The owner is not held up, and nothing of the other is among its readings
    assert [samples[0] for _, samples in stored(connection, "owner")] == [1, 2, 3, 4]


def test_bad_series_key_is_parked_and_settled_and_its_neighbour_stored(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    outcome = writer.write([block(stream, [1], keys=("not a metric",)), block(stream, [2])], [])
    assert outcome.stored_ticks == 1
    assert [rejection.reason for rejection in outcome.rejections] == ["invalid_series_key"]
    assert outcome.settlements[0].ranges == [(1, 2)]
    assert connection.execute("select reason from telemetry.rejected").fetchall() == [("invalid_series_key",)]


def test_a_rejected_message_is_kept_once_however_often_it_comes(writer: BatchWriter, connection: Db) -> None:
    message = Message("telemetry/v1/plant/pump\x00/samples", b"\x00\xff", "text/plain")
    for _ in range(3):
        writer.write([], [Rejection(message, "malformed", "not JSON \ud800")])
    rows = connection.execute("select topic, payload, reason, received_count from telemetry.rejected").fetchall()
    assert rows == [("telemetry/v1/plant/pump\N{REPLACEMENT CHARACTER}/samples", b"\x00\xff", "malformed", 3)]


def test_tick_without_values_is_settled_and_stores_nothing(writer: BatchWriter, connection: Db) -> None:
    outcome = writer.write([block(uuid4(), [1], keys=())], [])
    assert outcome.settlements[0].ranges == [(1, 1)]
    assert stored(connection, "pump") == []


def test_settlement_leaves_out_what_the_edge_no_longer_holds(writer: BatchWriter) -> None:
    stream = uuid4()
    writer.write([block(stream, [1, 2, 3, 7])], [])
    outcome = writer.write([block(stream, [8, 20], low=3)], [])
    assert outcome.settlements[0].ranges == [(3, 3), (7, 8), (20, 20)]


def test_device_that_moves_to_another_site_stays_one_device(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    for seq, site in enumerate(["plant", "depot", "plant", "depot"], start=1):
        writer.write([block(stream, [seq], site=site)], [])
    assert connection.execute("select name, site from telemetry.device").fetchall() == [("pump", "depot")]
    assert len(stored(connection, "pump")) == 4


def test_value_that_the_database_refuses_is_data_rejected_and_leaves_nothing(
    writer: BatchWriter, connection: Db
) -> None:
    connection.execute("alter table telemetry.reading add constraint small check (samples[1] < 100)")
    with pytest.raises(DataRejected, match="small"):
        writer.write([block(uuid4(), [1, 101])], [])
    assert stored(connection, "pump") == []
    assert connection.execute("select received::text, ticks from telemetry.stream").fetchall() == [("{}", 0)]
    assert writer.write([block(uuid4(), [1])], []).stored_ticks == 1


def test_connection_ended_by_the_server_is_unavailable_and_the_next_write_goes_on(
    writer: BatchWriter, connection: Db
) -> None:
    stream = uuid4()
    writer.write([block(stream, [1])], [])
    connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'cloud-ingest' and datname = current_database()"
    )
    with pytest.raises(StoreUnavailable):
        writer.write([block(stream, [2])], [])
    assert writer.write([block(stream, [1, 2])], []).duplicate_ticks == 1


def test_partition_dropped_behind_the_writers_back_is_made_again(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    writer.write([block(stream, [1])], [])
    assert partitions_of(connection).drop_before(connection, NOW_MS + 10 * RAW.span_ms) != []
    with suppress(StoreUnavailable):  # on plain PostgreSQL once: the writer thought that it was there
        writer.write([block(stream, [2])], [])
    writer.write([block(stream, [2, 3])], [])
    assert [row[1][0] for row in stored(connection, "pump")] == [2, 3]


def test_a_batch_may_span_any_stretch_of_time(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    wide = block(stream, [1, 2, 3, 4])
    wide.times_ms[:] = NOW_MS + RAW.span_ms * np.array([0, 3, 1, 7])
    assert writer.write([wide], []).stored_ticks == 4
    assert len(stored(connection, "pump")) == 4


def test_database_without_schema_is_said_to_be_so(database_url: str) -> None:
    with closing(BatchWriter(database_url)) as writer, pytest.raises(SchemaMissing, match="cloud-ingest migrate"):
        writer.write([block(uuid4(), [1])], [])


def test_server_that_is_not_there_is_unavailable() -> None:
    with closing(BatchWriter("postgresql://nobody@127.0.0.1:1/none")) as writer, pytest.raises(StoreUnavailable):
        writer.write([], [])
