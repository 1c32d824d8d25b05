"""What the tiers do in particular: who waits for whom, what is kept until when, and how much of it."""

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from harness.broker import Mosquitto
from harness.processes import NewProcess, Process
from harness.tiers import DAY_MS, KEEP_MS, Sent, compare_tiers, finish
from harness.wait import until

from cloud_ingest.errors import StoreError
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block, Outcome
from cloud_ingest.store.database import Connection, connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.rollup import keeper
from cloud_ingest.store.rollup.keeper import TierKeeper
from cloud_ingest.store.rollup.late import Mark, add_marks
from cloud_ingest.store.rollup.state import hold_state, note_rolled, raise_floors, read_state, take_lease
from cloud_ingest.store.tiers import DAY, FIVE_MINUTES, HOUR, RAW, ROLLUPS, TIERS, Tier
from cloud_ingest.worker import main

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
NOW_MS = 1_795_000_000_000


@pytest.fixture
def migrated(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def connection(migrated: str) -> Iterator[Connection]:
    with connect(migrated, "test") as connection:
        yield connection


class Ingester:
    """Stores ticks of one series, each with its number as the value."""

    def __init__(self, url: str) -> None:
        self._writer = BatchWriter(url)
        self._stream = uuid4()
        self._device = f"device-{self._stream}"
        self.sent: list[Sent] = []
        self._next_seq = 1

    def store(self, *times_ms: int) -> Outcome:
        seqs = list(range(self._next_seq, self._next_seq + len(times_ms)))
        self._next_seq += len(times_ms)
        block = Block(
            message=Message("telemetry/v1/plant/pump/samples", b""),
            site="plant",
            device=self._device,
            stream=self._stream,
            low=1,
            keys=("a",),
            seqs=seqs,
            times_ms=np.array(times_ms, np.int64),
            samples=np.array([[float(seq)] for seq in seqs]),
        )
        outcome = self._writer.write([block], [])
        if not outcome.rejections:
            self.sent += [Sent(self._device, at, {"a": float(seq)}) for at, seq in zip(times_ms, seqs, strict=True)]
        return outcome

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
def ingester(migrated: str) -> Iterator[Ingester]:
    with closing(Ingester(migrated)) as ingester:
        yield ingester


def work(connection: Connection, now_ms: int = NOW_MS) -> int:
    return finish(TierKeeper(connection, KEEP_MS).round(now_ms))


def rows(connection: Connection, tier: Tier) -> int:
    ((count,),) = connection.execute(f"select count(*) from telemetry.{tier.table}").fetchall()  # noqa: S608
    return int(count)


def test_an_ingester_that_hangs_holds_up_the_watermark_but_no_other_ingester(
    connection: Connection, migrated: str, ingester: Ingester
) -> None:
    ingester.store(NOW_MS)
    work(connection)
    with connect(migrated, "hanging") as hanging, hanging.transaction():
        hold_state(hanging)
        work(connection, NOW_MS + HOUR_MS)
        assert read_state(connection).watermark < NOW_MS
        ingester.store(NOW_MS + HOUR_MS)
    work(connection, NOW_MS + HOUR_MS)
    assert read_state(connection).watermark > NOW_MS
    compare_tiers(connection, ingester.sent)


def test_only_one_worker_acts(connection: Connection, migrated: str, ingester: Ingester) -> None:
    ingester.store(NOW_MS - 2 * HOUR_MS)
    with connect(migrated, "leader") as leader, leader.transaction():
        assert take_lease(leader)
        work(connection)
        assert read_state(connection).watermark == 0
    work(connection)
    assert rows(connection, FIVE_MINUTES) == 1


def test_ticks_that_no_tier_has_room_for_are_refused_and_their_neighbours_stored(
    connection: Connection, ingester: Ingester
) -> None:
    work(connection)
    earliest = read_state(connection).floors[DAY.level]
    assert earliest > 0
    outcome = ingester.store(earliest - 1, earliest, NOW_MS)
    assert outcome.stored_ticks == 2
    assert [rejection.reason for rejection in outcome.rejections] == ["too_old"]
    assert outcome.settlements[0].ranges == [(1, 3)]
    work(connection)
    assert (rows(connection, RAW), rows(connection, DAY)) == (1, 1)


def test_what_comes_late_piece_by_piece_becomes_one_row_a_bucket(connection: Connection, ingester: Ingester) -> None:
    work(connection)
    for age_days in (8, 40, 300):
        for offset in range(0, 50 * MINUTE_MS, 10 * MINUTE_MS):
            ingester.store(NOW_MS // HOUR_MS * HOUR_MS - age_days * DAY_MS + offset)
    assert (rows(connection, HOUR), rows(connection, DAY)) == (5, 10)
    work(connection)
    assert (rows(connection, FIVE_MINUTES), rows(connection, HOUR), rows(connection, DAY)) == (0, 1, 3)
    compare_tiers(connection, ingester.sent)


def test_a_drained_backlog_is_worked_off_in_many_transactions(
    connection: Connection, ingester: Ingester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_MARKS_AT_ONCE", 7)
    ingester.store(NOW_MS)
    work(connection)
    for age in range(60):
        ingester.store(NOW_MS - age * HOUR_MS, NOW_MS - age * HOUR_MS - 10 * MINUTE_MS)
    assert work(connection) > 60 * 2 / 7
    compare_tiers(connection, ingester.sent)


def test_a_long_absence_is_made_up_for_in_few_transactions(connection: Connection, ingester: Ingester) -> None:
    ingester.store(NOW_MS, NOW_MS - 3 * DAY_MS)
    work(connection)
    ingester.store(NOW_MS + 300 * DAY_MS)
    assert work(connection, NOW_MS + 301 * DAY_MS) < 60
    compare_tiers(connection, ingester.sent)


def test_pieces_are_dropped_and_what_they_held_is_in_the_next_tier(connection: Connection, ingester: Ingester) -> None:
    ingester.store(*(NOW_MS - hours * HOUR_MS for hours in range(0, 48, 3)))
    for days in (0, 1, 9, 40, 500):
        work(connection, NOW_MS + days * DAY_MS)
        compare_tiers(connection, ingester.sent)
    assert [rows(connection, tier) for tier in TIERS] == [0, 0, 0, 0]


def keep_everything(connection: Connection) -> None:
    finish(TierKeeper(connection, dict.fromkeys(TIERS, 10_000 * DAY_MS)).round(NOW_MS))


@pytest.mark.parametrize("tier", ROLLUPS)
def test_no_tier_is_let_go_of_before_what_was_marked_is_done(connection: Connection, tier: Tier) -> None:
    keep_everything(connection)
    marked = DAY.bucket(NOW_MS - 90 * DAY_MS)
    with connection.transaction():
        take_lease(connection)
        add_marks(connection, [Mark(tier.level, marked, 1, 1)])
        raise_floors(connection, dict.fromkeys(TIERS, NOW_MS - DAY_MS))
    floors = read_state(connection).floors
    assert all(floor > marked for floor in floors[: tier.level - 1])  # not needed to make it anew
    assert all(marked - DAY.span_ms < floor <= marked for floor in floors[tier.level - 1 :])


@pytest.mark.parametrize("tier", [FIVE_MINUTES, HOUR])
def test_no_tier_is_let_go_of_before_what_was_added_to_it_is_passed_on(connection: Connection, tier: Tier) -> None:
    keep_everything(connection)
    with connection.transaction():
        take_lease(connection)
        raise_floors(connection, {it: NOW_MS - DAY_MS if it.level < tier.level else 0 for it in TIERS})
    before = read_state(connection).floors
    added = DAY.bucket(NOW_MS - 90 * DAY_MS)
    with connection.transaction():
        take_lease(connection)
        add_marks(connection, [Mark(tier.level, added, 1, 1)])
        raise_floors(connection, dict.fromkeys(TIERS, NOW_MS - DAY_MS))
    floors = read_state(connection).floors
    assert floors[: tier.level] == before[: tier.level]
    assert all(added - DAY.span_ms < floor <= added for floor in floors[tier.level :])


@pytest.mark.parametrize("tier", ROLLUPS)
def test_no_tier_is_let_go_of_before_the_next_one_is_made(connection: Connection, tier: Tier) -> None:
    keep_everything(connection)
    rolled = DAY.bucket(NOW_MS - 90 * DAY_MS)
    with connection.transaction():
        take_lease(connection)
        note_rolled(connection, tier, rolled)
        raise_floors(connection, dict.fromkeys(TIERS, NOW_MS - DAY_MS))
    floors = read_state(connection).floors
    assert all(floor > rolled for floor in floors[: tier.level - 1])
    assert all(rolled - DAY.span_ms < floor <= rolled for floor in floors[tier.level - 1 :])


def test_floors_do_not_fall_when_more_is_to_be_kept(connection: Connection, ingester: Ingester) -> None:
    ingester.store(NOW_MS, NOW_MS - 2 * DAY_MS)
    work(connection)
    floors = read_state(connection).floors
    finish(TierKeeper(connection, dict.fromkeys(TIERS, 365 * DAY_MS)).round(NOW_MS))
    assert read_state(connection).floors == floors
    ingester.store(NOW_MS - 2 * DAY_MS)
    work(connection)
    compare_tiers(connection, ingester.sent)


def test_a_clock_that_runs_ahead_drops_nothing(
    connection: Connection, ingester: Ingester, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = time.time_ns() // 1_000_000
    ingester.store(now_ms)
    monkeypatch.setattr(time, "time_ns", lambda: (now_ms + 1_000 * DAY_MS) * 1_000_000)
    assert abs(main._now_ms(connection) - now_ms) < HOUR_MS  # noqa: SLF001 - what the role goes by
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)
    assert main._now_ms(connection) == 1  # noqa: SLF001


@pytest.mark.parametrize("samples", ["'{1,2}'", "'{}'", "'{null}'"])
def test_a_row_that_does_not_fit_its_layout_is_named_and_not_misread(
    connection: Connection, ingester: Ingester, samples: str
) -> None:
    ingester.store(NOW_MS - HOUR_MS, NOW_MS - HOUR_MS + 1)
    connection.execute(f"update telemetry.reading set samples = {samples} where samples = '{{1}}'")  # noqa: S608
    with pytest.raises(StoreError, match="as many values as its layout"):
        work(connection)


@pytest.fixture
def start_worker(
    migrated: str, broker: Mosquitto, new_process: NewProcess, tmp_path: Path
) -> Callable[[], AbstractContextManager[Process]]:
    settings = {
        "CLOUD_INGEST_DATABASE_URL": migrated,
        "CLOUD_INGEST_BROKER__HOST": broker.host,
        "CLOUD_INGEST_BROKER__PORT": str(broker.port),
        "CLOUD_INGEST_WORKER__INTERVAL_SECONDS": "0.1",
    }

    @contextmanager
    def start() -> Iterator[Process]:
        program = Path(sys.executable).with_name("cloud-ingest")
        process = new_process([program, "worker"], settings, log=tmp_path / f"{uuid4()}.log")
        process.start()
        yield process
        process.kill()
        process.wait(10)

    return start


@pytest.mark.slow
def test_workers_that_are_killed_at_any_time_leave_the_tiers_right(
    connection: Connection, ingester: Ingester, start_worker: Callable[[], AbstractContextManager[Process]]
) -> None:
    chance = random.Random(20261121)  # noqa: S311 - nothing secret
    now_ms = time.time_ns() // 1_000_000
    for _ in range(8):
        mark = Mark(1, 0, chance.randrange(2**31), 1)  # of nobody: once it is gone, a worker is at work
        add_marks(connection, [mark])
        with start_worker(), start_worker():
            until(partial(is_gone, connection, mark), 20, "a worker's round")
            for _ in range(chance.randrange(5, 60)):
                ages = [chance.choice([0, 1, 20, 25, 26, 30, 100, 200, 1_000, 8_000]) for _ in range(5)]
                ingester.store(*(now_ms - age * HOUR_MS - chance.randrange(HOUR_MS) for age in ages))
    work(connection, now_ms)
    compare_tiers(connection, ingester.sent)
    assert connection.execute("select count(*) from telemetry.rollup_mark").fetchone() == (0,)


def is_gone(connection: Connection, mark: Mark) -> bool:
    found = connection.execute("select from telemetry.rollup_mark where device_id = %s", [mark.device_id])
    return found.fetchone() is None
