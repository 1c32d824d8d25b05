"""One round of a worker in which everything happens, disturbed before each of its statements in turn."""

import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from harness.fuse import Fuse, waits_for_a_lock
from harness.tiers import DAY_MS, KEEP_MS, Sent, compare_tiers, finish
from harness.wait import until

from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.database import Connection, connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.rollup.keeper import TierKeeper
from cloud_ingest.store.rollup.state import take_lease
from cloud_ingest.store.tiers import DAY, TIERS

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
START_MS = 1_795_000_000_000
# A round has some 200 statements, and a run takes every so many of them, beginning anywhere.
STRIDE = 6


class World:
    """An ingester, a clock, and all that was stored."""

    def __init__(self, url: str, connection: Connection) -> None:
        self.url = url
        self.connection = connection
        self.now_ms = START_MS
        self.sent: list[Sent] = []
        self._stream = uuid4()
        self._next_seq = 1
        self.store()
        self.round()

    def pass_a_day(self) -> None:
        """After this there is something to do in each tier, and readings and 5 minutes to let go of."""
        before_ms, self.now_ms = self.now_ms, self.now_ms + DAY_MS
        self.store(range(before_ms, self.now_ms, 5 * HOUR_MS))

    def store(self, times_ms: Iterable[int] = ()) -> None:
        """Ticks of now, of these times, and from both sides of where floors are, were and will be."""
        floors = [
            (self.now_ms + days * DAY_MS - KEEP_MS[tier]) // tier.span_ms * tier.span_ms
            for days in (-1, 0, 1)
            for tier in TIERS
        ]
        around = {floor + side for floor in floors for side in (-2 * MINUTE_MS, 2 * MINUTE_MS)}
        times = [
            time_ms
            for time_ms in sorted({self.now_ms, self.now_ms - HOUR_MS, *around, *times_ms})
            if self.now_ms - KEEP_MS[DAY] < time_ms <= self.now_ms
        ]
        seqs = list(range(self._next_seq, self._next_seq + len(times)))
        self._next_seq += len(times)
        block = Block(
            message=Message("", b""),
            site="plant",
            device="pump",
            stream=self._stream,
            low=1,
            keys=("a",),
            seqs=seqs,
            times_ms=np.array(times, np.int64),
            samples=np.array([[float(seq)] for seq in seqs]),
        )
        with closing(BatchWriter(self.url)) as writer:
            assert writer.write([block], []).rejections == []
        self.sent += [Sent("pump", time_ms, {"a": float(seq)}) for seq, time_ms in zip(seqs, times, strict=True)]

    def round(self) -> None:
        with connect(self.url, "rival") as connection:
            finish(TierKeeper(connection, KEEP_MS).round(self.now_ms))


class Disturbance:
    """What happens before a statement, and what must be over when the round is."""

    def __init__(self, world: World, worker: Connection, clean_up: ExitStack) -> None:
        self.world = world
        self.worker = worker
        self.clean_up = clean_up

    def death(self) -> None:
        """The worker's connection ends, as it does when the worker is killed."""
        self.world.connection.execute("select pg_terminate_backend(%s, 5000)", [self.worker.info.backend_pid])

    def late_ticks(self) -> None:
        """Ticks come from all times."""
        self._meanwhile("cloud-ingest", self.world.store)

    def rival(self) -> None:
        """Another worker does a whole round."""
        self._meanwhile("rival", self.world.round)

    def lease(self) -> None:
        """Another worker has the lease, until the statement after the next."""
        rival = self.clean_up.enter_context(connect(self.world.url, "rival"))
        self.clean_up.enter_context(rival.transaction())
        take_lease(rival)

    def _meanwhile(self, name: str, action: Callable[[], None]) -> None:
        """Returns when it is done or has to wait for the worker."""
        pool = self.clean_up.enter_context(ThreadPoolExecutor(1))
        future: Future[None] = pool.submit(action)
        self.clean_up.callback(lambda: future.result(20))
        until(lambda: future.done() or waits_for_a_lock(self.world.connection, name), 20, f"{name} done or waiting")


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    migrate(database_url)
    with connect(database_url, "test") as connection:
        yield connection


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["death", "late_ticks", "rival", "lease"])
def test_tiers_are_right_whatever_happens_before_a_statement(
    connection: Connection, database_url: str, kind: str
) -> None:
    world = World(database_url, connection)
    number = random.randrange(STRIDE) + 1  # noqa: S311 - nothing secret
    happened = True
    while happened:
        world.pass_a_day()
        with ExitStack() as clean_up, connect(database_url, "worker") as worker:
            disturbance = Disturbance(world, worker, clean_up)
            later = {number + 2: clean_up.close} if kind == "lease" else {}
            fuse = Fuse(worker, {number: getattr(disturbance, kind), **later})
            with suppress(psycopg.OperationalError):
                finish(TierKeeper(worker, KEEP_MS).round(world.now_ms))
        happened = fuse.statements >= number
        world.round()
        try:
            compare_tiers(connection, world.sent)
            assert connection.execute("select count(*) from telemetry.rollup_mark").fetchone() == (0,)
        except AssertionError as error:
            error.add_note(f"{kind} before statement {number}")
            raise
        number += STRIDE
    assert number > 100  # there was something to disturb
