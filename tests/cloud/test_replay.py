"""Rejected messages stored after all: each reading once, whatever happens meanwhile and however often it is tried."""

import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from harness.cloud import PROGRAM, cloud_ingest
from harness.processes import NewProcess
from harness.sparkplug import DOUBLE, INT64, Metric, payload
from harness.wait import until

from cloud_ingest.config import Config, load
from cloud_ingest.ingest import decoders
from cloud_ingest.ingest.pipeline import Decoder
from cloud_ingest.message import Message
from cloud_ingest.replay import Replay, Replayed
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.cardinality import NO_LIMIT, Budget
from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.rejected import MAX_KEPT_BYTES, Rejection, Selection, get_rejected, numbers_of, park, prune
from cloud_ingest.store.tiers import RAW
from telemetry_contract.codec import encode
from telemetry_contract.payload import Backlog, Tick

Db = psycopg.Connection[tuple[Any, ...]]

HOUR_MS = 3_600_000
TIGHT = Budget(series=2)
SOURCES = """
sources:
  plc: {format: influx, topics: [plc/+], device: {topic_level: 2}, site: plant}
  scada: {format: sparkplug}
"""


@pytest.fixture
def migrated(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def connection(migrated: str) -> Iterator[Db]:
    with connect(migrated, "test") as connection:
        yield connection


@pytest.fixture
def config(migrated: str) -> Config:
    return load(None, {"CLOUD_INGEST_DATABASE_URL": migrated})


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def backlog(stream: UUID, seqs: Sequence[int], times: Sequence[int], key: str = "a", device: str = "pump") -> Message:
    payload = Backlog(v=1, stream=stream, low=1, seq=[*seqs], t=[*times], values={key: [float(seq) for seq in seqs]})
    return Message(f"telemetry/v1/plant/{device}/backlog", encode(payload).payload)


def ingest(config: Config, message: Message, budget: Budget = NO_LIMIT, at_ms: int | None = None) -> None:
    """As the ingest role does, at a time."""
    content = decoders.agents(config)(message, now_ms() if at_ms is None else at_ms)
    parts = [content] if isinstance(content, Rejection) else content
    with closing(BatchWriter(config.database_url.get_secret_value(), budget=budget)) as writer:
        writer.write([it for it in parts if isinstance(it, Block)], [it for it in parts if isinstance(it, Rejection)])


def replay(config: Config, budget: Budget = NO_LIMIT, agents: Decoder | None = None) -> list[Replayed]:
    url = config.database_url.get_secret_value()
    decode = decoders.by_source(config)
    if agents is not None:
        decode[None] = agents
    with connect(url, "test") as connection, closing(BatchWriter(url, budget=budget)) as writer:
        replaying = Replay(writer, decode)
        rows = [get_rejected(connection, number) for number in numbers_of(connection, Selection())]
        return [replaying.one(row) for row in rows if row is not None]


def values(connection: Db) -> list[float]:
    return [value for (value,) in connection.execute("select value from telemetry.sample order by value")]


def parked(connection: Db) -> list[tuple[str, str]]:
    return connection.execute("select reason, seqs::text from telemetry.rejected order by rejected_id").fetchall()


def gaps(connection: Db) -> list[tuple[int, int, int]]:
    return connection.execute(
        "select from_seq, to_seq, ticks from telemetry.gap where reason = 'rejected' order by from_seq"
    ).fetchall()


def check_ledger(connection: Db) -> None:
    """Every settled number is a reading or missing for a reason; no reading is there twice."""
    for received, ticks, missing in connection.execute(
        "select (select sum(upper(one) - lower(one)) from unnest(received) as one), ticks,"
        " (select coalesce(sum(gap.ticks), 0) from telemetry.gap where gap.stream_id = stream.stream_id)"
        " from telemetry.stream where received <> '{}'"
    ):
        assert received == ticks + missing
    ((readings, ticks),) = connection.execute(
        "select (select count(*) from telemetry.reading), (select coalesce(sum(ticks), 0) from telemetry.stream)"
    )
    assert readings == ticks


def test_what_was_over_the_budget_is_stored_once_the_budget_is_larger(config: Config, connection: Db) -> None:
    stream, start = uuid4(), now_ms() - HOUR_MS
    for number, key in enumerate("abcd"):
        ingest(config, backlog(stream, [2 * number + 1, 2 * number + 2], [start, start + 1], key), TIGHT)
    assert parked(connection) == [("too_many_series", "{[5,7)}"), ("too_many_series", "{[7,9)}")]
    assert gaps(connection) == [(5, 8, 4)]
    check_ledger(connection)

    again = replay(config, Budget(series=3))
    assert [(it.stored_ticks, it.duplicate_ticks) for it in again] == [(2, 0), (0, 0)]
    assert str(again[1].problem).startswith("too_many_series")
    assert parked(connection) == [("too_many_series", "{[7,9)}")]
    assert [ticks for _, _, ticks in gaps(connection)] == [2]
    check_ledger(connection)

    assert [it.stored_ticks for it in replay(config)] == [2]
    assert replay(config) == []
    assert values(connection) == list(range(1, 9))
    assert gaps(connection) == []
    check_ledger(connection)


def test_only_the_ticks_that_were_rejected_are_stored(config: Config, connection: Db) -> None:
    stream, now = uuid4(), now_ms()
    message = backlog(stream, [1, 2, 3, 4], [now - 9 * HOUR_MS, now - HOUR_MS, now - 8 * HOUR_MS, now - HOUR_MS + 1])
    ingest(config, message, at_ms=now - 8 * HOUR_MS)  # by then, two are hours ahead
    assert parked(connection) == [("in_the_future", "{[2,3),[4,5)}")]
    ingest(config, message)  # a redelivery changes nothing
    assert values(connection) == [1, 3]
    assert [(it.stored_ticks, it.duplicate_ticks) for it in replay(config)] == [(2, 2)]
    assert values(connection) == [1, 2, 3, 4]
    assert gaps(connection) == []
    check_ledger(connection)
    ingest(config, message)
    assert values(connection) == [1, 2, 3, 4]


def test_what_is_rejected_for_another_reason_stays_with_that(config: Config, connection: Db) -> None:
    stream, now = uuid4(), now_ms()
    ingest(config, backlog(stream, [1, 2], [now - 1, now]), at_ms=now - 8 * HOUR_MS)
    connection.execute("alter table telemetry.reading add constraint small check (samples[1] < 0)")
    (one,) = replay(config)
    assert str(one.problem).startswith("refused_by_database")
    assert parked(connection) == [("refused_by_database", "{[1,3)}")]
    assert connection.execute("select received_count from telemetry.rejected").fetchone() == (1,)
    check_ledger(connection)
    connection.execute("alter table telemetry.reading drop constraint small")
    replay(config)
    assert values(connection) == [1, 2]
    check_ledger(connection)


def test_what_a_message_owes_outlasts_a_replay_that_does_not_understand_it(config: Config, connection: Db) -> None:
    now = now_ms()
    ingest(config, backlog(uuid4(), [1, 2], [now - 1, now]), at_ms=now - 8 * HOUR_MS)
    for _ in range(2):
        (one,) = replay(config, agents=lambda message, _: Rejection(message, "too_large", "for a while"))
        assert one.problem == "too_large: for a while"
    assert parked(connection) == [("too_large", "{[1,3)}")]
    check_ledger(connection)
    assert [it.stored_ticks for it in replay(config)] == [2]
    assert values(connection) == [1, 2]
    assert (parked(connection), gaps(connection)) == ([], [])
    check_ledger(connection)


def test_an_unknown_version_is_stored_after_an_upgrade(config: Config, connection: Db) -> None:
    ours = Tick(v=1, stream=uuid4(), seq=1, low=1, t=now_ms(), values={"a": 1.0})
    message = Message("telemetry/v1/plant/pump/samples", encode(ours).payload.replace(b'"v":1', b'"v":2'))
    for _ in range(2):  # nothing of it is settled, so its edge sends it again
        ingest(config, message)
    assert parked(connection) == [("unknown_version", "{}")]
    assert str(replay(config)[0].problem).startswith("unknown_version")

    today = decoders.agents(config)

    def upgraded(message: Message, at_ms: int) -> Any:
        return today(replace(message, payload=message.payload.replace(b'"v":2', b'"v":1')), at_ms)

    assert [it.stored_ticks for it in replay(config, agents=upgraded)] == [1]
    assert parked(connection) == []
    assert values(connection) == [1]
    check_ledger(connection)


def test_two_people_at_once_store_each_tick_once(config: Config, connection: Db) -> None:
    stream, start = uuid4(), now_ms() - HOUR_MS
    for seq in range(1, 41):
        ingest(config, backlog(stream, [seq], [start + seq], f"k{seq % 10}"), TIGHT)
    results: list[list[Replayed]] = []
    threads = [threading.Thread(target=lambda: results.append(replay(config))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert sum(it.stored_ticks for one in results for it in one) == 32
    assert sum(it.duplicate_ticks for one in results for it in one) == 0
    assert values(connection) == list(range(1, 41))
    assert (parked(connection), gaps(connection)) == ([], [])
    check_ledger(connection)


@pytest.mark.slow
def test_replay_that_is_killed_is_finished_by_the_next(config: Config, connection: Db, new_process: NewProcess) -> None:
    stream, start = uuid4(), now_ms() - HOUR_MS
    for seq in range(1, 121):
        ingest(config, backlog(stream, [seq], [start + seq], f"k{seq}"), TIGHT)
    url = config.database_url.get_secret_value()
    first = new_process([PROGRAM, "rejected", "replay", "--all"], {"CLOUD_INGEST_DATABASE_URL": url})
    first.start()
    until(lambda: len(values(connection)) > 5, 30, "some messages to be replayed")
    first.kill()
    until(
        lambda: (
            connection.execute(
                "select count(*) from pg_stat_activity"
                " where application_name = 'cloud-ingest' and datname = current_database()"
            ).fetchone()
            == (0,)
        ),
        30,
        "the killed one's connection to be gone",
    )
    left = len(parked(connection))
    assert left + len(values(connection)) == 120
    check_ledger(connection)
    out, _ = cloud_ingest("rejected", "replay", "--all", DATABASE_URL=url)
    assert out == (
        f"{left} messages: {left} readings stored, 0 were there already; 0 messages rejected again, at least in part\n"
    )
    assert values(connection) == list(range(1, 121))
    assert (parked(connection), gaps(connection)) == ([], [])
    check_ledger(connection)


def test_message_that_is_kept_only_in_part_or_of_an_unknown_source_stays(config: Config, connection: Db) -> None:
    large = Message("telemetry/v1/plant/pump/samples", b"{" + b" " * MAX_KEPT_BYTES + b"}")
    ingest(config, large)
    url = config.database_url.get_secret_value()
    with closing(BatchWriter(url)) as writer:
        writer.write([], [Rejection(Message("x", b"x", source="old"), "malformed", "")])
    problems = [it.problem for it in replay(config)]
    assert problems == [f"only its first {MAX_KEPT_BYTES} bytes were kept", "the configuration has no source old"]
    assert len(parked(connection)) == 2


def test_messages_of_a_source_are_replayed_by_its_format(migrated: str, connection: Db, tmp_path: Path) -> None:
    file = tmp_path / "cloud.yaml"
    file.write_text(SOURCES)
    config = load(file, {"CLOUD_INGEST_DATABASE_URL": migrated})
    now = now_ms()
    lines = f"m a=1,b=2,c=3 {now}000000\nm d=4 {now}000000\nm a=5\n"
    message = Message("plc/press", lines.encode())
    content = decoders.source("plc", config, lambda *_: None, lambda _: None)(message, now)
    assert not isinstance(content, Rejection)
    blocks = [part for part in content if isinstance(part, Block)]
    with closing(BatchWriter(migrated, budget=Budget(series=1))) as writer:
        writer.write(blocks, [])
    assert connection.execute("select source, device, reason from telemetry.rejected").fetchall() == [
        ("plc", "press", "too_many_series")
    ]
    assert len(values(connection)) == 1
    assert [it.problem for it in replay(config)] == [None]
    assert values(connection) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert parked(connection) == []


TIMES = "select value, (extract(epoch from time) * 1000)::bigint from telemetry.sample order by value"


@pytest.fixture
def sources(migrated: str, tmp_path: Path) -> Config:
    file = tmp_path / "cloud.yaml"
    file.write_text(SOURCES)
    return load(file, {"CLOUD_INGEST_DATABASE_URL": migrated})


def parking(config: Config, name: str, message: Message, at_ms: int, reason: str = "malformed") -> None:
    """A message of a source is parked by a version that understood nothing of it."""
    with closing(BatchWriter(config.database_url.get_secret_value())) as writer:
        writer.write([], [Rejection(replace(message, source=name, received_ms=at_ms), reason, "by an old version")])


def test_readings_without_a_time_of_their_own_are_of_the_time_when_they_first_came(
    sources: Config, connection: Db
) -> None:
    first = now_ms() - HOUR_MS
    kept = Message("plc/press", b"m a=7\n", retained=True)
    parking(sources, "plc", kept, first - 1)  # of unknown age, and then it is published anew
    for at_ms in (first, first + 5):
        parking(sources, "plc", replace(kept, retained=False), at_ms)
    parking(sources, "plc", Message("plc/press", b"m a=8\n", retained=True), first)
    problems = [it.problem for it in replay(sources)]
    assert problems == [None, "by itself, long after it came, it says nothing"]
    assert connection.execute(TIMES).fetchall() == [(7.0, first)]
    assert parked(connection) == [("malformed", "{}")]


def test_part_of_a_message_that_was_stored_is_not_stored_again_with_another_time(
    sources: Config, connection: Db
) -> None:
    at_ms = now_ms() - HOUR_MS
    message = Message("plc/press", f"m a=1\nm a=2 {at_ms + 2 * HOUR_MS}000000\n".encode(), source="plc")
    content = decoders.source("plc", sources, lambda *_: None, lambda _: None)(message, at_ms)
    assert not isinstance(content, Rejection)
    parts = [part for part in content if isinstance(part, Block)], [it for it in content if isinstance(it, Rejection)]
    with closing(BatchWriter(sources.database_url.get_secret_value())) as writer:
        writer.write(*parts)
    assert parked(connection) == [("in_the_future", "{}")]
    assert [(it.stored_ticks, it.duplicate_ticks, it.problem) for it in replay(sources)] == [(1, 1, None)]
    assert connection.execute(TIMES).fetchall() == [(1.0, at_ms), (2.0, at_ms + 2 * HOUR_MS)]


def test_message_stays_where_the_time_of_its_readings_is_known_to_nobody(sources: Config, connection: Db) -> None:
    parking(sources, "plc", Message("plc/press", f"m a=1\nm a=2 {now_ms()}000000\n".encode()), now_ms())
    connection.execute("update telemetry.rejected set received_at = null")  # as before the migration that keeps it
    for stored in (1, 0):
        (one,) = replay(sources)
        assert (one.stored_ticks, str(one.problem).partition(":")[0]) == (stored, "time_unknown")
    assert values(connection) == [2.0]
    assert parked(connection) == [("time_unknown", "{}")]


def test_birth_of_a_node_is_stored_and_what_means_nothing_without_its_session_stays(
    sources: Config, connection: Db
) -> None:
    at_ms = now_ms() - HOUR_MS
    birth = [Metric("bdSeq", 0, INT64), Metric("Temp", 20.5, DOUBLE, alias=1)]
    data = Metric(alias=1, value=21.5, encode_as=DOUBLE)
    parking(sources, "scada", Message("spBv1.0/north/NBIRTH/edge", payload(*birth, seq=0)), at_ms)
    parking(sources, "scada", Message("spBv1.0/north/NDATA/edge", payload(data, seq=1)), at_ms + 1)
    parking(sources, "scada", Message("spBv1.0/north/NDEATH/edge", payload(Metric("bdSeq", 0, INT64))), at_ms + 2)
    problems = [it.problem for it in replay(sources)]
    assert problems == [
        None,
        "birth_missing: NDATA of node edge came before its birth",
        "by itself, long after it came, it says nothing",
    ]
    assert connection.execute(TIMES).fetchall() == [(1.0, at_ms), (20.5, at_ms)]
    assert [reason for reason, _ in parked(connection)] == ["birth_missing", "malformed"]


def forget(connection: Db) -> None:
    """Rows as they were before their ticks were kept with them."""
    connection.execute("update telemetry.rejected set seqs = '{}', stream_id = null, debt_known = false")


def test_ticks_that_were_parked_before_their_numbers_were_kept_are_stored_once(config: Config, connection: Db) -> None:
    stream, now = uuid4(), now_ms()
    mixed = backlog(stream, [1, 2, 3], [now - 9 * HOUR_MS, now - HOUR_MS, now - HOUR_MS + 1])
    ingest(config, mixed, at_ms=now - 8 * HOUR_MS)
    forget(connection)
    ingest(config, backlog(stream, [4], [now]), at_ms=now - 8 * HOUR_MS)  # a newer row, which knows
    assert values(connection) == [1]
    # Still refused: it stays, and from then on it knows too
    connection.execute("alter table telemetry.reading add constraint small check (samples[1] < 2)")
    assert [it.stored_ticks for it in replay(config)] == [0, 0]
    assert parked(connection) == [("refused_by_database", "{[2,4)}"), ("refused_by_database", "{[4,5)}")]
    connection.execute("alter table telemetry.reading drop constraint small")
    assert [(it.stored_ticks, it.duplicate_ticks) for it in replay(config)] == [(2, 1), (1, 0)]
    assert values(connection) == [1, 2, 3, 4]
    assert (parked(connection), gaps(connection)) == ([], [])
    check_ledger(connection)


def test_message_stays_where_nobody_knows_what_of_it_was_stored(config: Config, connection: Db) -> None:
    stream, now = uuid4(), now_ms()
    ingest(config, backlog(stream, [1, 2, 3], [now - 40 * HOUR_MS, now - 2, now - 1]), at_ms=now - 49 * HOUR_MS)
    assert parked(connection) == [("in_the_future", "{[1,4)}")]
    forget(connection)
    ingest(config, backlog(uuid4(), [1], [now - 1], key="b"))  # of the same device and time
    raw_from = (now - 24 * HOUR_MS) // RAW.span_ms * RAW.span_ms
    connection.execute("update telemetry.rollup_state set floor_raw = to_timestamp(%s / 1000.0)", [raw_from])
    again = replay(config)
    assert [(it.stored_ticks, str(it.problem).partition(":")[0]) for it in again] == [(1, "unknown_if_stored")]
    assert "[(1, 1), (3, 3)]" in str(again[0].problem)
    assert [it.stored_ticks for it in replay(config)] == [0]
    assert parked(connection) == [("unknown_if_stored", "{}")]
    assert values(connection) == [1, 2]


def test_parked_payloads_have_a_bound_of_each_device_and_of_all(connection: Db) -> None:
    for number in range(12):
        device = "loud" if number % 4 else "quiet"
        message = Message("x", str(number).encode() + bytes(98 + (number < 10)))  # 100 bytes each
        park(connection, [Rejection(message, "malformed", "", device)])

    def left() -> list[int]:
        return [number - 1 for number in numbers_of(connection, Selection())]

    assert prune(connection, older_than_days=1, max_bytes=1_200, max_bytes_of_device=900) == 0
    assert prune(connection, older_than_days=1, max_bytes=1_200, max_bytes_of_device=499) == 5
    assert left() == [0, 4, 7, 8, 9, 10, 11]
    assert prune(connection, older_than_days=1, max_bytes=300, max_bytes_of_device=499) == 4
    assert left() == [9, 10, 11]
    connection.execute(
        "update telemetry.rejected set last_received_at = now() - interval '25 h' where rejected_id = 11"
    )
    assert prune(connection, older_than_days=1, max_bytes=300, max_bytes_of_device=499) == 1
    assert left() == [9, 11]


@pytest.mark.slow
def test_command_selects_and_tells_what_it_would_do(config: Config, connection: Db) -> None:
    now = now_ms()
    for device in ("one", "two"):
        ingest(config, backlog(uuid4(), [1], [now], device=device), at_ms=now - 8 * HOUR_MS)
    ingest(config, Message("telemetry/v1/plant/two/samples", b"rubbish"))
    connection.execute(
        "update telemetry.rejected set last_received_at = now() - interval '2 days' where device = 'one'"
    )

    def command(*args: str, code: int = 0) -> str:
        out, err = cloud_ingest("rejected", *args, code=code, DATABASE_URL=config.database_url.get_secret_value())
        return f"{out}{err}"

    def listed(*args: str) -> list[str]:
        return [line.split()[0] for line in command("list", *args).splitlines()[1:]]

    assert listed() == ["3", "2", "1"]
    assert listed("--device", "two") == ["3", "2"]
    assert listed("--reason", "malformed") == ["3"]
    assert listed("--since", "-1d") == ["3", "2"]
    assert listed("--device", "two", "--limit", "1", "--before", "3") == ["2"]
    assert "--since must be RFC 3339" in command("list", "--since", "yesterday", code=2)
    assert "say which" in command("replay", code=2)
    dry = command("replay", "--all", "--dry-run").splitlines()
    assert dry[0].startswith("3: malformed: ")
    assert dry[1:] == ["3 messages: 2 readings would be tried; 1 messages would be rejected again, at least in part"]
    assert values(connection) == []
    assert command("replay", "1") == (
        "1 messages: 1 readings stored, 0 were there already; 0 messages rejected again, at least in part\n"
    )
    assert command("replay", "--reason", "in_the_future", "--since", "-1d").startswith("1 messages: 1 readings stored")
    assert listed() == ["3"]


def test_replay_needs_the_schema_of_this_version(database_url: str) -> None:
    done = subprocess.run(
        [PROGRAM, "rejected", "replay", "--all"],
        check=False,
        capture_output=True,
        timeout=60,
        env={"CLOUD_INGEST_DATABASE_URL": database_url},
    )
    assert done.returncode == 1
    assert b"cloud-ingest migrate" in done.stderr
