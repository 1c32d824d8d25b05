"""What an edge says to be gone, on real servers: the ledger stays in one piece, and each gap has its cause."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_ingest.config import Retention
from cloud_ingest.decode import Limits, decode
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block, Outcome
from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.worker.upkeep import Upkeep
from edge_agent import messages
from edge_agent.outbox import Outbox
from edge_agent.reading import Reading
from telemetry_contract.codec import encode
from telemetry_contract.payload import Backlog, Gone

NOW_MS = 1_795_000_000_000
LIMITS = Limits(
    max_message_bytes=10**7, max_decompressed_bytes=10**8, max_future_ms=10**9, max_age_ms=400 * 86_400 * 1_000
)
Db = psycopg.Connection[tuple[Any, ...]]
GapRow = tuple[int, int, int, int | None, int | None, str]


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
    with psycopg.connect(migrated, autocommit=True, options="-c TimeZone=UTC") as connection:
        yield connection


def time_of(seq: int) -> int:
    return NOW_MS + 1_000 * seq


def blocks(
    stream: UUID,
    seqs: Sequence[int],
    *,
    low: int,
    gone: Gone | None = None,
    key: str = "a",
    device: str = "pump",
) -> list[Block]:
    """A message as it comes over the wire, decoded."""
    message = Backlog(
        v=1,
        stream=stream,
        low=low,
        seq=list(seqs),
        t=[time_of(seq) for seq in seqs],
        values={key: [float(seq) for seq in seqs]},
        gone=gone,
    )
    return decoded(encode(message).payload, device)


def decoded(payload: bytes, device: str = "pump") -> list[Block]:
    found = decode(Message(f"telemetry/v1/plant/{device}/backlog", payload), LIMITS, NOW_MS)
    assert isinstance(found, list)
    return found


def received(connection: Db, stream: UUID) -> str:
    [(text,)] = connection.execute("select received::text from telemetry.stream where stream_id = %s", [stream])
    return str(text)


def found_gaps(connection: Db, stream: UUID) -> list[GapRow]:
    """From, to, how many, the numbers of the ticks around it, and why."""
    rows = connection.execute(
        "select from_seq, to_seq, ticks, start_time, end_time, reason from telemetry.gap where stream_id = %s"
        " order by from_seq",
        [stream],
    ).fetchall()
    return [(first, last, ticks, _number(start), _number(end), why) for first, last, ticks, start, end, why in rows]


def _number(time: datetime | None) -> int | None:
    return None if time is None else round((time.astimezone(UTC).timestamp() * 1_000 - NOW_MS) / 1_000)


def ranges(outcome: Outcome) -> list[tuple[int, int]]:
    [settlement] = outcome.settlements
    return settlement.ranges


def test_thinned_messages_leave_one_piece_and_one_gap(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    writer.write(blocks(stream, [1, 2, 3], low=1), [])
    first = blocks(stream, [6, 8, 10], low=6, gone={"thinned": [(4, 5), (7, 7), (9, 9)]})
    assert ranges(writer.write(first, [])) == [(6, 10)]
    assert found_gaps(connection, stream) == [(4, 9, 4, 3, 10, "thinned")]
    second = blocks(stream, [13, 15, 16], low=6, gone={"thinned": [(11, 12), (14, 14)]})
    assert ranges(writer.write(second, [])) == [(6, 16)]
    assert received(connection, stream) == "{[1,17)}"
    assert found_gaps(connection, stream) == [(4, 14, 7, 3, 15, "thinned")]
    # Again, whole and in part: nothing changes.
    outcome = writer.write([*first, *second, *blocks(stream, [8], low=6, gone={"thinned": [(7, 7)]})], [])
    assert (outcome.stored_ticks, outcome.duplicate_ticks) == (0, 7)
    assert found_gaps(connection, stream) == [(4, 14, 7, 3, 15, "thinned")]
    assert connection.execute("select count(*) from telemetry.reading").fetchone() == (9,)


def test_thinned_stretches_with_something_open_between_are_two_gaps(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    writer.write(blocks(stream, [1, 3], low=1, gone={"thinned": [(2, 2)]}), [])
    writer.write(blocks(stream, [9, 11], low=1, gone={"thinned": [(10, 10)]}), [])
    assert received(connection, stream) == "{[1,4),[9,12)}"
    assert found_gaps(connection, stream) == [(2, 2, 1, 1, 3, "thinned"), (10, 10, 1, 9, 11, "thinned")]
    writer.write(blocks(stream, [5, 8], low=1, gone={"thinned": [(4, 4), (6, 7)]}), [])
    assert received(connection, stream) == "{[1,12)}"
    assert found_gaps(connection, stream) == [(2, 7, 4, 1, 8, "thinned"), (10, 10, 1, 9, 11, "thinned")]


def test_what_was_dropped_is_a_gap_from_the_last_reading_to_the_lowest_tick(
    writer: BatchWriter, connection: Db
) -> None:
    stream = uuid4()
    writer.write(blocks(stream, [1, 2, 3], low=1), [])
    # The newest comes first and can't say where the gap ends.
    assert ranges(writer.write(blocks(stream, [90], low=50), [])) == [(90, 90)]
    assert found_gaps(connection, stream) == []
    assert ranges(writer.write(blocks(stream, [50, 51], low=50), [])) == [(50, 51), (90, 90)]
    assert found_gaps(connection, stream) == [(4, 49, 46, 3, 50, "dropped")]
    assert received(connection, stream) == "{[1,52),[90,91)}"


def test_what_an_agent_lost_has_its_own_reason(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    writer.write(blocks(stream, [1, 2], low=1), [])
    lost: Gone = {"lost": [(4, 259)]}
    outcome = writer.write([*blocks(stream, [260], low=260, gone=lost), *blocks(stream, [3], low=3)], [])
    assert ranges(outcome) == [(260, 260)]
    assert received(connection, stream) == "{[1,261)}"
    assert found_gaps(connection, stream) == [(4, 259, 256, 3, 260, "lost")]


def test_reasons_of_one_message_stand_apart(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    message = blocks(stream, [2, 5, 9, 12], low=1, gone={"lost": [(6, 7)], "thinned": [(3, 4), (8, 8), (10, 11)]})
    writer.write([*blocks(stream, [1], low=1), *message], [])
    assert received(connection, stream) == "{[1,13)}"
    assert found_gaps(connection, stream) == [(3, 11, 5, 2, 12, "thinned"), (6, 7, 2, 5, 9, "lost")]


def test_what_is_said_to_be_gone_and_came_is_no_gap(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    came = blocks(stream, [2, 4], low=1)
    writer.write(came, [])
    message = blocks(stream, [1, 8], low=1, gone={"thinned": [(2, 7)]})
    writer.write([*message, *blocks(stream, [6], low=1)], [])
    assert received(connection, stream) == "{[1,9)}"
    assert found_gaps(connection, stream) == [(3, 7, 3, 1, 8, "thinned")]
    assert connection.execute("select count(*) from telemetry.reading").fetchone() == (5,)


def test_what_was_rejected_is_a_gap_and_many_in_a_row_are_one(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    writer.write(blocks(stream, [1, 2], low=1), [])
    for seq in (3, 4, 6):
        refused = [block.refused("invalid_series_key", "why") for block in blocks(stream, [seq], low=1)]
        outcome = writer.write(refused, [])
        assert outcome.duplicate_ticks == 0
    assert found_gaps(connection, stream) == [(3, 4, 2, 3, 4, "rejected"), (6, 6, 1, 6, 6, "rejected")]
    outcome = writer.write([block.refused("too_old", "why") for block in blocks(stream, [3, 4], low=1)], [])
    assert outcome.duplicate_ticks == 2
    assert received(connection, stream) == "{[1,5),[6,7)}"
    assert len(found_gaps(connection, stream)) == 2


def test_a_reason_that_no_database_holds_is_kept_as_far_as_it_can_be(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    writer.write(blocks(stream, [1, 3], low=1, gone={"no\x00thing": [(2, 2)]}), [])
    assert found_gaps(connection, stream) == [(2, 2, 1, 1, 3, "no\N{REPLACEMENT CHARACTER}thing")]


def test_what_comes_after_all_is_known_and_not_stored(writer: BatchWriter) -> None:
    stream = uuid4()
    writer.write(blocks(stream, [1, 3], low=1, gone={"thinned": [(2, 2)]}), [])
    outcome = writer.write(blocks(stream, [2], low=1), [])
    assert (outcome.stored_ticks, outcome.duplicate_ticks) == (0, 1)


def test_a_ledger_begins_where_it_first_hears_of_a_stream(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    assert ranges(writer.write(blocks(stream, [900], low=500), [])) == [(900, 900)]
    writer.write(blocks(stream, [500, 501], low=500), [])
    assert received(connection, stream) == "{[1,502),[900,901)}"
    assert found_gaps(connection, stream) == []


def test_another_device_can_not_declare_for_a_stream(writer: BatchWriter, connection: Db) -> None:
    stream = uuid4()
    writer.write(blocks(stream, [1], low=1), [])
    foreign = blocks(stream, [9], low=9, gone={"lost": [(2, 8)]}, device="thief")
    writer.write(foreign, [])
    assert received(connection, stream) == "{[1,2)}"
    assert found_gaps(connection, stream) == []


def test_gaps_are_kept_as_long_as_the_longest_tier(writer: BatchWriter, connection: Db, migrated: str) -> None:
    stream = uuid4()
    writer.write(blocks(stream, [1, 3, 5], low=1, gone={"lost": [(2, 2), (4, 4)]}), [])
    for first, days in ((2, 366), (4, 364)):
        connection.execute(
            "update telemetry.gap set created_at = now() - make_interval(days => %s) where from_seq = %s", [days, first]
        )
    with closing(connect(migrated, "test")) as own:
        for _ in Upkeep(own, Retention(rollup_1d_days=365)).round(NOW_MS):
            pass
    assert [first for first, *_ in found_gaps(connection, stream)] == [4]


def test_a_thinned_backlog_of_fifty_thousand_ticks_keeps_the_ledger_small(
    migrated: str, connection: Db, tmp_path: Path
) -> None:
    """Of three layouts, by two ingesters, with 32 messages on their way whose commits come in any order."""
    keys = [(("a", "b"), 1), (("c",), 3), (("d", "e", "f"), 7)]
    with ExitStack() as stack:
        outbox = stack.enter_context(closing(Outbox.open(tmp_path / "outbox.db", max_bytes=2_000_000)))
        writers = [stack.enter_context(closing(BatchWriter(migrated))) for _ in range(2)]
        waiting: list[Reading] = []
        for second in range(300_000):
            if second % 5 == 0:
                waiting += [
                    Reading(NOW_MS + second * 1_000, 0, dict.fromkeys(names, float(second)))
                    for names, every in keys
                    if second // 5 % every == 0
                ]
            if len(waiting) > 1_000:
                outbox.append_many(waiting)
                waiting.clear()
        outbox.append_many(waiting)
        assert outbox.depth >= 50_000
        assert outbox.thinned > 1_000
        held, stored, largest, number = outbox.depth, 0, 0, 0
        while outbox.depth:
            sent: set[int] = set()
            window: list[list[Block]] = []
            for _ in range(32):
                chosen = _next(outbox, sent)
                if chosen:
                    sent |= set(chosen)
                    ticks = outbox.ticks(chosen)
                    names = outbox.keys(ticks[0].layout)
                    gone = outbox.gone(chosen)
                    low = outbox.low() or 1
                    window.append(decoded(messages.backlog(outbox.stream, low, ticks, names, gone).payload))
            for message in reversed(window):
                number += 1
                outcome = writers[number % 2].write(message, [])
                stored += outcome.stored_ticks
                [(size,)] = connection.execute("select max(pg_column_size(received)) from telemetry.stream")
                largest = max(largest, size)
            outbox.confirm(ranges(outcome))
        stream, thinned, last = outbox.stream, outbox.thinned, outbox.next_seq - 1
    assert largest < 5_000
    assert stored == held
    assert received(connection, stream) == f"{{[1,{last + 1})}}"
    rows = found_gaps(connection, stream)
    assert sum(ticks for _, _, ticks, *_ in rows) == thinned
    # Of a run below the lowest tick that is held no message says more than `low` does.
    by_low = sum(ticks for _, _, ticks, *_, reason in rows if reason == "dropped")
    assert by_low < thinned / 100
    assert {reason for *_, reason in rows} <= {"thinned", "dropped"}
    assert len(rows) < number / 3  # in order they would be a handful


def _next(outbox: Outbox, sent: set[int]) -> list[int]:
    """The next hundred ticks of one layout, as the backlog lane chooses them."""
    chosen: list[int] = []
    layout = None
    scanned = 0
    for seq, its in outbox.index(min(sent, default=1)):
        if seq in sent:
            continue
        scanned += 1
        layout = layout or its
        if its == layout:
            chosen.append(seq)
        if len(chosen) == 100 or scanned == 800:
            break
    return chosen


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 6), st.sampled_from("ab")),
        st.tuples(st.just("thin"), st.integers(0, 30), st.just("")),
        st.tuples(st.just("drop"), st.integers(1, 3), st.just("")),
        st.tuples(st.just("send"), st.integers(0, 30), st.integers(1, 5)),
        st.tuples(st.just("deliver"), st.integers(0, 30), st.booleans()),
        st.tuples(st.just("acknowledge"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


class Edge:
    """As much of an outbox as makes its promises: what it says to be gone it never sends later."""

    def __init__(self) -> None:
        self.stream = uuid4()
        self.held: dict[int, str] = {}
        self.used = 0
        self.given_up: set[int] = set()

    def append(self, ticks: int, key: str) -> None:
        self.held |= {self.used + 1 + it: key for it in range(ticks)}
        self.used += ticks

    def act(self, what: str, number: int, key: str) -> None:
        held = sorted(self.held)
        if what == "append":
            self.append(number, key)
        elif held:
            self.give_up(held[number % len(held) :][:1] if what == "thin" else held[:number])

    def give_up(self, seqs: Sequence[int]) -> None:
        going = [seq for seq in seqs if seq != max(self.held)]
        self.given_up |= set(going)
        self.forget([(seq, seq) for seq in going])

    def forget(self, gone: list[tuple[int, int]]) -> None:
        self.held = {seq: key for seq, key in self.held.items() if not any(a <= seq <= b for a, b in gone)}

    def message(self, start: int, length: int) -> tuple[int, list[Block]]:
        """The message, and what it says to be the lowest that is held."""
        order = sorted(self.held)
        first = order[start % len(order)]
        chosen = [seq for seq in order if seq >= first and self.held[seq] == self.held[first]][:length]
        below = {seq: max((it for it in order if it < seq), default=seq - 1) for seq in chosen}
        gone = [(below[seq] + 1, seq - 1) for seq in chosen if seq > below[seq] + 1]
        said: Gone | None = {"thinned": gone} if gone else None
        low = order[0]
        return low, blocks(self.stream, chosen, low=low, gone=said, key=self.held[first], device=str(self.stream))


@given(steps)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_number_is_stored_or_a_gap_and_never_both(
    migrated: str, connection: Db, actions: list[tuple[str, int, Any]]
) -> None:
    edge = Edge()
    edge.append(1, "a")
    on_their_way: list[tuple[int, list[Block]]] = []
    begun: int | None = None
    acknowledged: list[tuple[int, int]] = []
    with closing(BatchWriter(migrated)) as one, closing(BatchWriter(migrated)) as two:
        for number, (what, a, b) in enumerate(actions):
            if what in {"append", "thin", "drop"}:
                edge.act(what, a, b)
            elif what == "send" and edge.held:
                on_their_way.append(edge.message(a, b))
            elif what == "deliver" and on_their_way:
                chosen = a % len(on_their_way)
                low, message = on_their_way[chosen]
                begun = begun or low
                acknowledged = ranges((one, two)[number % 2].write(message, []))
                if b:
                    del on_their_way[chosen]
            elif what == "acknowledge":
                edge.forget(acknowledged)
        # At last everything comes through. What was given up below a tick that had been sent before, and is confirmed
        # meanwhile, is told by the `low` of the next.
        for _ in range(2):
            edge.append(1, "a")
            while edge.held:
                low, message = edge.message(0, 5)
                begun = begun or low
                edge.forget(ranges(one.write(message, [])))
    rows = connection.execute(
        "select samples[1]::bigint, ticks from telemetry.reading join telemetry.stream using (device_id)"
        " where stream_id = %s",
        [edge.stream],
    ).fetchall()
    stored = {int(seq) for seq, _ in rows}
    assert len(stored) == len(rows) == rows[0][1]
    assert received(connection, edge.stream) == f"{{[1,{edge.used + 1})}}"
    missing = set(range(begun or 1, edge.used + 1)) - stored
    assert missing <= edge.given_up
    found = found_gaps(connection, edge.stream)
    assert sum(ticks for _, _, ticks, *_ in found) == len(missing)
    for first, last, ticks, *_, reason in found:
        assert {first, last} <= missing
        assert reason == "thinned" or ticks == last - first + 1
