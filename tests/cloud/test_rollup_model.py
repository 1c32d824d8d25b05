"""The tiers against an oracle: whatever comes when, and whoever dies, they equal a recomputation from all samples."""

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from harness.wait import until
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.database import Connection, connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.partitions import partitions_of
from cloud_ingest.store.rollup.keeper import TierKeeper
from cloud_ingest.store.rollup.state import read_state
from cloud_ingest.store.tiers import DAY, FIVE_MINUTES, HOUR, RAW, ROLLUPS, TIERS, Tier

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
START_MS = 1_795_000_000_000
KEEP_MS = {RAW: DAY_MS, FIVE_MINUTES: 7 * DAY_MS, HOUR: 30 * DAY_MS, DAY: 365 * DAY_MS}
DEVICES = ("pump", "tank")
# Two layouts of one width and one of another, with a series in common.
LAYOUTS = (("a", "b"), ("b", "c"), ("a",))


class Point(NamedTuple):
    """What a series did in a bucket."""

    values: int
    sum: float
    min: float
    max: float
    last: float


@dataclass(frozen=True)
class Sent:
    """A tick as the cloud has accepted it."""

    device: str
    time_ms: int
    values: dict[str, float]


def expected(sent: list[Sent], tier: Tier, earliest_ms: int, latest_ms: int) -> dict[tuple[str, str, int], Point]:
    """The tier as a recomputation makes it, of buckets between the times."""
    found: dict[tuple[str, str, int], list[tuple[int, float]]] = defaultdict(list)
    for tick in sent:
        if earliest_ms <= tier.bucket(tick.time_ms) < latest_ms:
            for key, value in tick.values.items():
                if not math.isnan(value):
                    found[tick.device, key, tier.bucket(tick.time_ms)].append((tick.time_ms, value))
    return {
        where: Point(len(held), sum(values), min(values), max(values), max(held)[1])
        for where, held in found.items()
        for values in [[value for _, value in held]]
    }


def stored(connection: Connection, tier: Tier, earliest_ms: int) -> dict[tuple[str, str, int], Point]:
    """The tier as a user of SQL sees it."""
    rows = connection.execute(
        f"select device, metric, (extract(epoch from time) * 1000)::bigint, count, sum, min, max, last"  # noqa: S608
        f" from telemetry.sample_{tier.name} where time >= to_timestamp(%s / 1000.0)",
        [earliest_ms],
    ).fetchall()
    return {(device, metric, time): Point(*point) for device, metric, time, *point in rows}


class Fuse:
    """Counts statements down, and then does what it was made for, once."""

    def __init__(self, statements: int, action: Callable[[], None]) -> None:
        self._left = statements
        self._action = action

    def burn(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._action()

    def cursor(self) -> type[psycopg.Cursor[Any]]:
        burn = self.burn

        class Cursor(psycopg.Cursor[Any]):
            def execute(self, *args: Any, **kwargs: Any) -> Any:
                burn()
                return super().execute(*args, **kwargs)

            def copy(self, *args: Any, **kwargs: Any) -> Any:
                burn()
                return super().copy(*args, **kwargs)

        return Cursor


class TierMachine(RuleBasedStateMachine):
    """Two ingesters, two workers, a clock that only this machine moves, and all that was ever accepted."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.now_ms = START_MS
        self.sent: list[Sent] = []
        self.blocks: list[Block] = []
        self.next_seq = 1
        self.streams: dict[str, UUID] = {device: uuid4() for device in DEVICES}
        self.writers = [BatchWriter(url), BatchWriter(url)]
        self.connection = connect(url, "test")
        reset(self.connection)

    def teardown(self) -> None:
        try:
            self.compare()
        finally:
            self.connection.close()
            for writer in self.writers:
                writer.close()

    # Ingest

    def make_block(self, device: str, keys: tuple[str, ...], ages_ms: list[int], values: list[float]) -> Block:
        seqs = list(range(self.next_seq, self.next_seq + len(ages_ms)))
        self.next_seq += len(ages_ms)
        cells = [values[index % len(values)] for index in range(len(seqs) * len(keys))]
        return Block(
            message=Message("", b""),
            site="plant",
            device=device,
            stream=self.streams[device],
            low=1,
            keys=keys,
            seqs=seqs,
            times_ms=np.array([self.now_ms - age for age in ages_ms], np.int64),
            samples=np.array(cells, np.float64).reshape(len(seqs), len(keys)),
        )

    def accept(self, block: Block) -> None:
        for time_ms, row in zip(block.times_ms.tolist(), block.samples.tolist(), strict=True):
            self.sent.append(Sent(block.device, time_ms, dict(zip(block.keys, row, strict=True))))

    def write(self, writer: int, *blocks: Block) -> None:
        outcome = self.writers[writer].write(list(blocks), [])
        assert outcome.rejections == []

    blocks_of = st.tuples(
        st.sampled_from(DEVICES),
        st.sampled_from(LAYOUTS),
        st.sampled_from([0, 6 * MINUTE_MS, 23 * HOUR_MS, 25 * HOUR_MS, 8 * DAY_MS, 31 * DAY_MS, 364 * DAY_MS]),
        st.lists(st.integers(-30_000, 2 * HOUR_MS), min_size=1, max_size=5, unique=True),
        st.lists(st.one_of(st.integers(-1000, 1000).map(float), st.just(math.nan)), min_size=1, max_size=6),
    )

    @rule(writer=st.integers(0, 1), wanted=st.lists(blocks_of, min_size=1, max_size=3))
    def new_ticks(self, writer: int, wanted: list[tuple[str, tuple[str, ...], int, list[int], list[float]]]) -> None:
        blocks = [
            self.make_block(device, keys, [age + it for it in jitter], values)
            for device, keys, age, jitter, values in wanted
        ]
        self.write(writer, *blocks)
        for block in blocks:
            self.accept(block)
        self.blocks += blocks

    @rule(writer=st.integers(0, 1), which=st.integers(0, 100))
    def old_ticks_again(self, writer: int, which: int) -> None:
        if self.blocks:
            outcome = self.writers[writer].write([self.blocks[which % len(self.blocks)]], [])
            assert outcome.stored_ticks == 0

    # Time and workers

    @rule(step=st.sampled_from([MINUTE_MS, 7 * MINUTE_MS, HOUR_MS, 7 * HOUR_MS, 26 * HOUR_MS, 8 * DAY_MS]))
    def time_passes(self, step: int) -> None:
        self.now_ms += step

    @rule(pauses=st.integers(1, 12))
    def worker_does_a_part(self, pauses: int) -> None:
        with connect(self.url, "worker") as connection:
            for _, _ in zip(range(pauses), TierKeeper(connection, KEEP_MS).round(self.now_ms), strict=False):
                pass

    @rule(statements=st.integers(3, 60))
    def worker_is_killed(self, statements: int) -> None:
        with connect(self.url, "worker") as connection:
            pid = connection.info.backend_pid
            fuse = Fuse(statements, lambda: self.kill(pid))
            connection.cursor_factory = fuse.cursor()
            with suppress(psycopg.OperationalError):
                self.run_round(TierKeeper(connection, KEEP_MS).round(self.now_ms))

    @rule(order=st.lists(st.booleans(), min_size=1, max_size=30))
    def two_workers_take_turns(self, order: list[bool]) -> None:
        with connect(self.url, "worker") as one, connect(self.url, "worker") as two:
            rounds = [TierKeeper(it, KEEP_MS).round(self.now_ms) for it in (one, two)]
            for first in order:
                next(rounds[first], None)
            for round_ in rounds:
                self.run_round(round_)

    @rule(statements=st.integers(3, 60), wanted=blocks_of)
    def ticks_come_while_a_worker_is_in_a_transaction(
        self, statements: int, wanted: tuple[str, tuple[str, ...], int, list[int], list[float]]
    ) -> None:
        device, keys, age, jitter, values = wanted
        block = self.make_block(device, keys, [age + it for it in jitter], values)
        thread = threading.Thread(target=lambda: self.write(0, block))

        def start() -> None:
            thread.start()
            until(lambda: not thread.is_alive() or self.waits_for_a_lock(), 20, "the ingester done or waiting")

        with connect(self.url, "worker") as connection:
            connection.cursor_factory = Fuse(statements, start).cursor()
            self.run_round(TierKeeper(connection, KEEP_MS).round(self.now_ms))
        if thread.ident is None:
            thread.start()
        thread.join(20)
        assert not thread.is_alive()
        self.accept(block)

    @rule()
    def compare(self) -> None:
        """After a round in peace: every tier as far as it is held and made, and neither more nor less of it."""
        with connect(self.url, "worker") as connection:
            self.run_round(TierKeeper(connection, KEEP_MS).round(self.now_ms))
        state = read_state(self.connection)
        assert state.watermark == FIVE_MINUTES.bucket(self.now_ms - MINUTE_MS)
        for finer, tier in zip(TIERS, ROLLUPS, strict=False):
            assert state.rolled[tier.level] == tier.bucket(state.rolled[finer.level])
        for tier in TIERS:
            floor = state.floors[tier.level]
            assert floor == (self.now_ms - KEEP_MS[tier]) // tier.span_ms * tier.span_ms
        for tier in ROLLUPS:
            floor, rolled = state.floors[tier.level], state.rolled[tier.level]
            assert stored(self.connection, tier, floor) == expected(self.sent, tier, floor, rolled), tier.name
        self.compare_raw(state.floors[RAW.level])
        assert self.connection.execute("select count(*) from telemetry.rollup_mark").fetchone() == (0,)

    def compare_raw(self, floor: int) -> None:
        rows = self.connection.execute(
            "select device.name, (extract(epoch from time) * 1000)::bigint, samples from telemetry.reading"
            " join telemetry.device using (device_id) where time >= to_timestamp(%s / 1000.0)",
            [floor],
        ).fetchall()
        held = [tick for tick in self.sent if tick.time_ms >= floor]
        assert sorted(map(repr, rows)) == sorted(repr((it.device, it.time_ms, [*it.values.values()])) for it in held)

    def run_round(self, round_: Iterator[None]) -> None:
        for count, _ in enumerate(round_):
            assert count < 2_000, "the round does not end"

    def kill(self, pid: int) -> None:
        self.connection.execute("select pg_terminate_backend(%s, 5000)", [pid])

    def waits_for_a_lock(self) -> bool:
        return self.connection.execute(
            "select count(*) from pg_stat_activity where application_name = 'cloud-ingest' and wait_event_type = 'Lock'"
            " and datname = current_database()"
        ).fetchone() == (1,)


def reset(connection: Connection) -> None:
    for tier in TIERS:
        partitions_of(connection, tier).drop_before(connection, START_MS + 10_000 * DAY_MS)
    connection.execute("truncate telemetry.rollup_mark, telemetry.rollup_state, telemetry.stream")
    connection.execute("insert into telemetry.rollup_state default values")


@pytest.mark.slow
def test_tiers_equal_a_recomputation_from_all_samples(database_url: str) -> None:
    migrate(database_url)
    run_state_machine_as_test(
        partial(TierMachine, database_url),  # type: ignore[arg-type] # any callable does
        settings=settings(
            max_examples=20,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
