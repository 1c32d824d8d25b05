"""The tiers against an oracle: whatever comes when, and whoever dies, they equal a recomputation from all samples."""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial
from itertools import pairwise
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from harness.fuse import Fuse, waits_for_a_lock
from harness.tiers import DAY_MS, KEEP_MS, Point, Sent, compare_tiers, empty, expected, finish
from harness.wait import until
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.database import connect
from cloud_ingest.store.history import Aggregate, Cut, buckets, find_series
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.rollup.keeper import TierKeeper
from cloud_ingest.store.rollup.state import from_ms, read_state, take_lease
from cloud_ingest.store.tier_choice import choose_tier, parts_of
from cloud_ingest.store.tiers import FIVE_MINUTES, TIERS, Tier

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
START_MS = 1_795_000_000_000
DEVICES = ("pump", "tank")
# Two layouts of one width and one of another, with series in common.
LAYOUTS = (("a", "b"), ("b", "c"), ("a",))

AGGREGATES: dict[Aggregate, Callable[[Point], float]] = {
    Aggregate.MEAN: lambda point: point.sum / point.values,
    Aggregate.MIN: lambda point: point.min,
    Aggregate.MAX: lambda point: point.max,
    Aggregate.SUM: lambda point: point.sum,
    Aggregate.COUNT: lambda point: point.values,
    Aggregate.LAST: lambda point: point.last,
}


# Device, series, how long ago (or at the floor of which tier), offsets from that, and values in turn.
Ticks = tuple[str, tuple[str, ...], int | Tier, list[int], list[float]]
TICKS = st.tuples(
    st.sampled_from(DEVICES),
    st.sampled_from(LAYOUTS),
    st.one_of(
        st.sampled_from([0, 6 * MINUTE_MS, 23 * HOUR_MS, 25 * HOUR_MS, 8 * DAY_MS, 31 * DAY_MS, 364 * DAY_MS]),
        st.sampled_from(TIERS[:-1]),
    ),
    st.lists(st.integers(-30_000, 2 * HOUR_MS), min_size=1, max_size=5, unique=True),
    st.lists(st.one_of(st.integers(-1000, 1000).map(float), st.just(math.nan)), min_size=1, max_size=6),
)


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
        empty(self.connection, START_MS)
        for device in DEVICES:
            first = self.make_block((device, LAYOUTS[0], 0, [0], [1.0]))
            self.write(0, first)
            self.accept(first)

    def teardown(self) -> None:
        try:
            self.compare()
        finally:
            self.connection.close()
            for writer in self.writers:
                writer.close()

    # Ingest

    def make_block(self, wanted: Ticks) -> Block:
        device, keys, age, offsets, values = wanted
        if isinstance(age, Tier):  # about where its floor is to be
            base = (self.now_ms - KEEP_MS[age]) // age.span_ms * age.span_ms + HOUR_MS
        else:
            base = self.now_ms - age
        seqs = list(range(self.next_seq, self.next_seq + len(offsets)))
        self.next_seq += len(offsets)
        cells = [values[index % len(values)] for index in range(len(seqs) * len(keys))]
        return Block(
            message=Message("", b""),
            site="plant",
            device=device,
            stream=self.streams[device],
            low=1,
            keys=keys,
            seqs=seqs,
            times_ms=np.array([base - offset for offset in offsets], np.int64),
            samples=np.array(cells, np.float64).reshape(len(seqs), len(keys)),
        )

    def accept(self, block: Block) -> None:
        for time_ms, row in zip(block.times_ms.tolist(), block.samples.tolist(), strict=True):
            self.sent.append(Sent(block.device, time_ms, dict(zip(block.keys, row, strict=True))))

    def write(self, writer: int, *blocks: Block) -> None:
        outcome = self.writers[writer].write(list(blocks), [])
        assert outcome.rejections == []

    @rule(writer=st.integers(0, 1), wanted=st.lists(TICKS, min_size=1, max_size=3))
    def new_ticks(self, writer: int, wanted: list[Ticks]) -> None:
        blocks = [self.make_block(ticks) for ticks in wanted]
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
            Fuse(connection, {statements: lambda: self.kill(pid)})
            with suppress(psycopg.OperationalError):
                finish(TierKeeper(connection, KEEP_MS).round(self.now_ms))

    @rule(statements=st.integers(1, 60), length=st.integers(1, 30))
    def another_worker_has_the_lease_for_a_while(self, statements: int, length: int) -> None:
        with connect(self.url, "worker") as other, connect(self.url, "worker") as connection:
            held = ExitStack()

            def take() -> None:
                held.enter_context(other.transaction())
                take_lease(other)

            Fuse(connection, {statements: take, statements + length: held.close})
            finish(TierKeeper(connection, KEEP_MS).round(self.now_ms))
            held.close()

    @rule(order=st.lists(st.booleans(), min_size=1, max_size=30))
    def two_workers_take_turns(self, order: list[bool]) -> None:
        with connect(self.url, "worker") as one, connect(self.url, "worker") as two:
            rounds = [TierKeeper(it, KEEP_MS).round(self.now_ms) for it in (one, two)]
            for first in order:
                next(rounds[first], None)
            for round_ in rounds:
                finish(round_)

    @rule(pauses=st.integers(1, 12), wanted=TICKS)
    def ticks_come_between_a_workers_transactions(self, pauses: int, wanted: Ticks) -> None:
        with connect(self.url, "worker") as connection:
            round_ = TierKeeper(connection, KEEP_MS).round(self.now_ms)
            for _ in range(pauses):
                next(round_, None)
            self.new_ticks(0, [wanted])
            finish(round_)

    @rule(statements=st.integers(1, 60))
    def another_worker_comes_while_one_is_at_work(self, statements: int) -> None:
        self.work_while(statements, self.work, "other")

    @rule(statements=st.integers(1, 60), wanted=TICKS)
    def ticks_come_while_a_worker_is_at_work(self, statements: int, wanted: Ticks) -> None:
        block = self.make_block(wanted)
        self.work_while(statements, lambda: self.write(0, block), "cloud-ingest")
        self.accept(block)

    @rule(wanted=TICKS)
    def worker_comes_while_ticks_are_being_stored(self, wanted: Ticks) -> None:
        block = self.make_block(wanted)
        with ThreadPoolExecutor(1) as pool:
            with self.connection.transaction():
                self.connection.execute("select from telemetry.stream for update")
                writing = pool.submit(self.write, 0, block)
                until(lambda: waits_for_a_lock(self.connection, "cloud-ingest"), 20, "an ingester in its transaction")
                self.work()
            writing.result(20)
        self.accept(block)

    # What must hold

    @rule()
    def compare(self) -> None:
        """After a round in peace."""
        self.work()
        state = read_state(self.connection)
        assert state.watermark == FIVE_MINUTES.bucket(self.now_ms - MINUTE_MS)
        for finer, tier in pairwise(TIERS):
            assert state.rolled[tier.level] == tier.bucket(state.rolled[finer.level])
        for tier in TIERS:
            assert state.floors[tier.level] == (self.now_ms - KEEP_MS[tier]) // tier.span_ms * tier.span_ms
        compare_tiers(self.connection, self.sent)
        assert self.connection.execute("select count(*) from telemetry.rollup_mark").fetchone() == (0,)

    @rule(
        metric=st.sampled_from("abc"),
        age=st.sampled_from([HOUR_MS, 20 * HOUR_MS, 3 * DAY_MS, 20 * DAY_MS, 200 * DAY_MS, 500 * DAY_MS]),
        length=st.sampled_from([HOUR_MS, DAY_MS, 500 * DAY_MS]),
        step=st.sampled_from([7 * MINUTE_MS, 10 * MINUTE_MS, HOUR_MS, 7 * HOUR_MS, DAY_MS, 7 * DAY_MS]),
        aggregate=st.sampled_from([*AGGREGATES]),
    )
    def ask(self, metric: str, age: int, length: int, step: int, aggregate: Aggregate) -> None:
        self.work()
        state = read_state(self.connection)
        start = self.now_ms - age
        choice = choose_tier(state, start, start + length, step)
        assert choice.step_ms is not None
        first = start // choice.step_ms * choice.step_ms
        last = -(-(start + length) // choice.step_ms) * choice.step_ms
        series = find_series(self.connection, metric=metric, devices=[], site=None, labels={}, limit=10)
        found = buckets(
            self.connection,
            [one.places for one in series],
            parts_of(state, choice.tier, first, last),
            Cut(from_ms(first), timedelta(milliseconds=choice.step_ms)),
            [aggregate],
        )
        rows = zip(found["series"].tolist(), found["time"].tolist(), found[aggregate.value].tolist(), strict=True)
        answer = {(series[index].device, metric, time): value for index, time, value in rows}
        earliest = max(first, state.floors[choice.tier.level])
        points = expected(self.sent, choice.step_ms, earliest, last)
        wanted = {where: AGGREGATES[aggregate](point) for where, point in points.items() if where[1] == metric}
        assert {where: answer.pop(where, None) for where in wanted} == wanted
        # Ticks that hold no value of the series make a bucket without one
        assert all(math.isnan(value) or (value == 0 and aggregate is Aggregate.COUNT) for value in answer.values())

    def work(self, name: str = "other") -> None:
        with connect(self.url, name) as connection:
            finish(TierKeeper(connection, KEEP_MS).round(self.now_ms))

    def work_while(self, statements: int, action: Callable[[], None], name: str) -> None:
        """A round, with an action of a connection of that name begun before one of its statements, if it has so many.

        The round goes on when the action is done, or has to wait for it.
        """
        running: list[Future[None]] = []

        def start() -> None:
            running.append(pool.submit(action))
            until(lambda: running[0].done() or waits_for_a_lock(self.connection, name), 20, f"{name} done or waiting")

        with ThreadPoolExecutor(1) as pool, connect(self.url, "worker") as connection:
            Fuse(connection, {statements: start})
            finish(TierKeeper(connection, KEEP_MS).round(self.now_ms))
            if not running:
                start()
            running[0].result(20)

    def kill(self, pid: int) -> None:
        self.connection.execute("select pg_terminate_backend(%s, 5000)", [pid])


@pytest.mark.slow
def test_tiers_equal_a_recomputation_from_all_samples(database_url: str) -> None:
    migrate(database_url)
    run_state_machine_as_test(
        partial(TierMachine, database_url),  # type: ignore[arg-type] # any callable does
        settings=settings(
            max_examples=25,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
