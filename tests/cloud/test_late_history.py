"""What came late judged as history, on real servers: whatever the order, one record, and one digest."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.alerts.history import Sample, in_order, judge
from cloud_ingest.alerts.rule import Rule, Versions
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.database import connect
from cloud_ingest.store.late_history import LateHistory
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.thresholds import create_threshold

Db = psycopg.Connection[tuple[Any, ...]]
KEY = 'temperature_celsius{sensor="oil"}'
# The series stands in two layouts
LAYOUTS = {False: (KEY, "other"), True: ("another", KEY)}
HOUR_MS = 3_600_000


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def connection(url: str) -> Iterator[Db]:
    with connect(url, "test") as connection:
        yield connection


@pytest.fixture
def start_ms(connection: Db) -> int:
    """Some hours ago, when the thresholds of these tests began to judge."""
    ((time_ms,),) = connection.execute("select (extract(epoch from now()) * 1000)::bigint").fetchall()
    return int(time_ms) - 5 * HOUR_MS


def hot(**changes: Any) -> Definition:
    return Definition.model_validate(
        {"name": "hot", "metric": "temperature_*", "operator": ">", "warning": 80, "critical": 90, "clear_level": 70,
         "for_seconds": 20, "no_data": {"after_seconds": 30}} | changes
    )  # fmt: skip


def make(connection: Db, start_ms: int, **changes: Any) -> int:
    with connection.transaction():
        threshold_id = create_threshold(connection, hot(**changes)).threshold_id
        connection.execute(
            "update telemetry.threshold_version set valid_from = to_timestamp(%s / 1000.0) where threshold_id = %s",
            [start_ms, threshold_id],
        )
    return threshold_id


class Device:
    """Sends values at seconds after `start_ms`, over as many connections as it likes."""

    def __init__(self, start_ms: int, name: str = "pump") -> None:
        self.start_ms, self.name = start_ms, name
        self.stream: UUID = uuid4()
        self.seq = 0

    def block(self, values: Mapping[int, float], *, held_back: bool = False, other_layout: bool = False) -> Block:
        seqs = [self.seq + number for number in range(1, len(values) + 1)]
        self.seq += len(values)
        keys = LAYOUTS[other_layout]
        samples = np.zeros((len(values), len(keys)))
        samples[:, keys.index(KEY)] = list(values.values())
        return Block(
            message=Message(f"telemetry/v1/plant/{self.name}/samples", b""),
            site="plant",
            device=self.name,
            stream=self.stream,
            low=1,
            keys=keys,
            seqs=seqs,
            times_ms=np.array([self.start_ms + 1000 * it for it in values], np.int64),
            samples=samples,
            held_back=held_back,
        )


@pytest.fixture
def writer(url: str) -> Iterator[BatchWriter]:
    with closing(BatchWriter(url)) as writer:
        yield writer


@pytest.fixture
def history(connection: Db) -> LateHistory:
    return LateHistory(connection)


def due(history: LateHistory) -> list[int]:
    return history.due(quiet_seconds=0, longest_seconds=3_600)


def judge_all(history: LateHistory) -> None:
    for device_id in due(history):
        history.judge(device_id)
    assert due(history) == []


def episodes(connection: Db, start_ms: int) -> list[tuple[Any, ...]]:
    """Start, firing and end in seconds, severity, peak, and whether it was late; not what was none."""
    return connection.execute(
        "select (extract(epoch from start_at) * 1000 - %(start)s)::float8 / 1000,"
        " (extract(epoch from fired_at) * 1000 - %(start)s)::float8 / 1000,"
        " (extract(epoch from ended_at) * 1000 - %(start)s)::float8 / 1000, severity, peak, late"
        " from telemetry.alert where end_reason is distinct from 'revised' order by start_at",
        {"start": start_ms},
    ).fetchall()


def told(connection: Db) -> list[str]:
    return [kind for (kind,) in connection.execute("select kind from telemetry.notification order by notification_id")]


def digest(connection: Db) -> dict[str, Any]:
    ((content,),) = connection.execute("select content from telemetry.notification where kind = 'digest'").fetchall()
    assert isinstance(content, dict)
    return content


def test_a_backlog_is_judged_as_history_and_told_in_one_digest(
    connection: Db, writer: BatchWriter, history: LateHistory, start_ms: int
) -> None:
    make(connection, start_ms)
    device = Device(start_ms)
    writer.write([device.block({0: 50})], [])
    # In one transaction, as it happens when a link returns: the newest, and what was held back
    back = device.block({100: 81, 110: 81, 120: 85, 130: 60, 200: 95, 220: 95, 240: 40}, held_back=True)
    writer.write([device.block({3600: 50}), back], [])
    assert (episodes(connection, start_ms), told(connection)) == ([], [])
    judge_all(history)
    assert episodes(connection, start_ms) == [
        (100, 120, 130, "warning", 85, True),
        (200, 220, 240, "critical", 95, True),
    ]
    assert told(connection) == ["digest"]
    content = digest(connection)
    assert (content["device"], content["added"], content["changed"], content["disproved"]) == ("pump", 2, 0, 0)
    assert [it["start_ms"] for it in content["episodes"]] == [start_ms + 100_000, start_ms + 200_000]
    assert content["message"].startswith("pump sent what it had measured from ")
    writer.write([device.block({3610: 50})], [])
    judge_all(history)
    assert told(connection) == ["digest"]


def test_what_fires_now_began_earlier_and_ends_as_usual(
    connection: Db, writer: BatchWriter, history: LateHistory, start_ms: int
) -> None:
    make(connection, start_ms)
    device = Device(start_ms)
    writer.write([device.block({1000: 81, 1020: 81})], [])
    assert told(connection) == ["opened"]
    writer.write([device.block({950: 60, 960: 81, 980: 93, 990: 81}, held_back=True)], [])
    judge_all(history)
    assert episodes(connection, start_ms) == [(960, 980, None, "warning", None, False)]
    assert told(connection) == ["opened", "digest"]
    writer.write([device.block({1040: 60})], [])
    assert episodes(connection, start_ms) == [(960, 980, 1040, "warning", 93, False)]
    assert told(connection) == ["opened", "digest", "ended"]


def test_an_alert_that_was_none_is_taken_back(
    connection: Db, writer: BatchWriter, history: LateHistory, start_ms: int
) -> None:
    make(connection, start_ms)
    device = Device(start_ms)
    writer.write([device.block({0: 81, 20: 81})], [])
    writer.write([device.block({10: 60}, held_back=True)], [])
    judge_all(history)
    assert episodes(connection, start_ms) == []
    assert connection.execute("select end_reason from telemetry.alert").fetchall() == [("revised",)]
    assert told(connection) == ["opened", "ended", "digest"]
    writer.write([device.block({40: 81})], [])  # since 20 s
    assert episodes(connection, start_ms) == [(20, 40, None, "warning", None, False)]


def test_what_is_open_by_history_is_no_present_alert(
    connection: Db, writer: BatchWriter, history: LateHistory, start_ms: int
) -> None:
    make(connection, start_ms)
    device = Device(start_ms)
    writer.write([device.block({120: 81})], [])
    writer.write([device.block({100: 81, 110: 81}, held_back=True)], [])
    judge_all(history)
    assert episodes(connection, start_ms) == [(100, 120, None, "warning", None, True)]
    writer.write([device.block({130: 81})], [])
    assert told(connection) == ["digest"]
    writer.write([device.block({140: 60})], [])
    assert episodes(connection, start_ms) == [(100, 120, 140, "warning", 81, True)]


def test_a_backlog_that_is_not_all_there_is_waited_for(
    connection: Db, writer: BatchWriter, history: LateHistory, start_ms: int
) -> None:
    make(connection, start_ms)
    device = Device(start_ms)
    writer.write([device.block({0: 50})], [])
    first, second = (device.block({it: 50}, held_back=True) for it in (10, 20))
    writer.write([device.block({100: 50}), second], [])
    assert due(history) == []
    assert history.due(quiet_seconds=0, longest_seconds=0) != []  # but not for ever
    writer.write([first], [])
    assert history.due(quiet_seconds=3_600, longest_seconds=3_600) == []
    assert due(history) != []


def test_what_is_older_than_raw_readings_is_counted_and_not_judged(
    connection: Db, writer: BatchWriter, history: LateHistory, start_ms: int
) -> None:
    make(connection, start_ms)
    device = Device(start_ms)
    writer.write([device.block({7200: 50})], [])
    floor_ms = start_ms + HOUR_MS
    connection.execute("update telemetry.rollup_state set floor_raw = to_timestamp(%s / 1000.0)", [floor_ms])
    connection.execute("update telemetry.rollup_state set watermark = to_timestamp(%s / 1000.0)", [floor_ms])
    writer.write([device.block({0: 99, 60: 99, 120: 50}, held_back=True)], [])
    writer.write([device.block({3700: 95, 3720: 95, 3740: 50}, held_back=True)], [])
    judge_all(history)
    assert episodes(connection, start_ms) == [(3700, 3720, 3740, "critical", 95, True)]
    assert digest(connection)["ticks_too_old"] == 3
    assert digest(connection)["message"].endswith("; 3 ticks were too old to be judged")


def test_ingesters_that_write_meanwhile_are_not_contradicted(
    connection: Db, url: str, history: LateHistory, start_ms: int
) -> None:
    make(connection, start_ms, for_seconds=0)
    device = Device(start_ms)
    live = [device.block({2000 + it: 85 if it % 3 else 60}) for it in range(60)]
    backlog = [device.block({it: 95 if it % 4 else 60}, held_back=True) for it in range(60)]

    def send(blocks: list[Block]) -> None:
        with closing(BatchWriter(url)) as writer:
            for block in blocks:
                writer.write([block], [])

    threads = [threading.Thread(target=send, args=[blocks]) for blocks in (live, backlog)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for device_id in history.due(quiet_seconds=0, longest_seconds=0):
            history.judge(device_id)
    for thread in threads:
        thread.join()
    for device_id in history.due(quiet_seconds=0, longest_seconds=0):
        history.judge(device_id)
    starts = [it[0] for it in episodes(connection, start_ms)]
    assert starts == [*range(1, 60, 4), *range(2001, 2060, 3)]
    assert told(connection).count("opened") == 20


SENT = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.sampled_from([float("nan"), 50.0, 75.0, 85.0, 95.0]),
        st.booleans(),  # held back
        st.booleans(),  # in the other layout
        st.booleans(),  # by the other ingester
        st.booleans(),  # in a new batch
        st.booleans(),  # with history judged before
    ),
    min_size=1,
    max_size=14,
    unique_by=lambda it: it[0],
)


@pytest.fixture
def ingesters(url: str) -> Iterator[tuple[BatchWriter, BatchWriter]]:
    with closing(BatchWriter(url)) as one, closing(BatchWriter(url)) as two:
        yield one, two


MODEL = {"name": "model", "for_seconds": 10, "no_data": {"after_seconds": 25}}


@pytest.fixture
def rule(connection: Db, start_ms: int) -> Rule:
    make(connection, start_ms, **MODEL)
    return hot(**MODEL).rule(1, start_ms)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SENT)
def test_any_order_batching_and_number_of_ingesters_give_the_same_episodes(
    connection: Db,
    ingesters: tuple[BatchWriter, BatchWriter],
    rule: Rule,
    history: LateHistory,
    sent: list[tuple[Any, ...]],
) -> None:
    start_ms = rule.valid_from_ms
    device = Device(start_ms, f"pump-{uuid4().hex[:8]}")
    batches: list[tuple[bool, bool, list[Block]]] = []
    for second, value, held_back, other_layout, other, new_batch, judged_before in sent:
        if not batches or new_batch or batches[-1][0] != other:
            batches.append((other, judged_before, []))
        batches[-1][2].append(device.block({5 * second: value}, held_back=held_back, other_layout=other_layout))
    for other, judged_before, blocks in batches:
        if judged_before:
            judge_late_of(connection, history)
        ingesters[other].write(blocks, [])
    judge_late_of(connection, history)
    samples = in_order(Sample(start_ms + 5_000 * second, value) for second, value, *_ in sent)
    expected = [
        (it.start_ms, it.fired_ms, it.end_ms, it.severity.name.lower(), None if it.end_ms is None else it.peak)
        for it in judge(Versions([rule]), samples)[0]
    ]
    found = connection.execute(
        "select (extract(epoch from start_at) * 1000)::bigint, (extract(epoch from fired_at) * 1000)::bigint,"
        " (extract(epoch from ended_at) * 1000)::bigint, severity, peak from telemetry.alert join telemetry.device"
        " using (device_id) where name = %s and end_reason is distinct from 'revised' order by start_at",
        [device.name],
    ).fetchall()
    assert found == expected


def judge_late_of(connection: Db, history: LateHistory) -> None:
    """All devices, whether or not everything is there."""
    rows = connection.execute("select device_id from telemetry.alert_device where late_first_ms is not null").fetchall()
    for (device_id,) in rows:
        history.judge(device_id)
