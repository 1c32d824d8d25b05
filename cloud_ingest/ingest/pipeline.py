"""Receive, decode and batch in one thread; commit and acknowledge in another, a batch behind."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final, NamedTuple, TypeAlias

from cloud_ingest.commit_ack import commit_ack
from cloud_ingest.errors import DataRejected, StoreUnavailable
from cloud_ingest.ingest.acks import AckSchedule
from cloud_ingest.ingest.batcher import Batch, Cut
from cloud_ingest.ingest.metrics import IngestMetrics
from cloud_ingest.ingest.source import Received, Source
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block, Outcome
from cloud_ingest.store.rejected import Rejection

_IDLE_SECONDS: Final = 0.5  # how soon a stop is noticed
_COMMIT_CHECK_SECONDS: Final = 0.01  # how soon the end of a commit is noticed
_FIRST_RETRY_SECONDS: Final = 0.1
_LONGEST_RETRY_SECONDS: Final = 5.0
_LEAVE_SECONDS: Final = 5.0
_DRAIN_SECONDS: Final = 10.0
_QUIET_SECONDS: Final = 0.2  # without a message for so long, the broker has no more for who has unsubscribed
_REJECTION_LOG_SECONDS: Final = 10.0
_MAX_TOLD_CAUSES: Final = 10

# A message and the time of its arrival in milliseconds -> what of it is to be stored and what to be parked.
Decoder: TypeAlias = Callable[[Message, int], Sequence[Block | Rejection] | Rejection]

log = logging.getLogger(__name__)


class _Committed(NamedTuple):
    """A batch that was committed, and how long that took."""

    batch: Batch
    outcomes: list[Outcome]
    seconds: float


class Pipeline:
    """Moves messages from a source into the store and tells their senders.

    A message is acknowledged to the broker, and its ticks to the edge, only after the transaction that stored or
    parked them has committed. While the database is away nothing is acknowledged, and the broker stops sending at its
    receive maximum.

    While one batch is committed, the next is received and decoded: what the two threads share is the batch that one
    hands the other, and its outcome. The committing thread has the writer and the retries; the other has the rest.
    """

    def __init__(
        self,
        source: Source,
        writer: BatchWriter,
        *,
        cut: Cut,
        decode: Decoder,
        ack_interval: float,
        metrics: IngestMetrics,
    ) -> None:
        self._source = source
        self._writer = writer
        self._cut = cut
        self._decode = decode
        self._acks = AckSchedule(ack_interval)
        self._metrics = metrics
        self._arrived: deque[Received] = deque()
        self._queued = 0
        self._at_work: Future[_Committed | None] | None = None
        self._told_causes: set[str] = set()  # why the database is away; the committing thread's
        self._unlogged: dict[str, int] = {}
        self._rejections_logged = -_REJECTION_LOG_SECONDS

    def run(self, stop: threading.Event) -> None:
        """Works until `stop` is set, then takes no more, writes what came and leaves.

        Raises SchemaNotReady where the database has not the schema of this version; `stop` is then set.
        """
        self._source.start()
        try:
            with ThreadPoolExecutor(1, "commit") as committer:
                self._work(committer, stop)
        finally:
            self._source.close()
            self._writer.close()
            self._count_queue(-self._queued)  # what is left the broker has again; others share the gauge

    def _work(self, committer: ThreadPoolExecutor, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                self._hand_over(self._gather(stop), committer, stop)
            self._finish_commit()
            self._drain(committer, stop)
            self._tell(float("inf"))
        except BaseException:
            stop.set()  # so that a commit that waits for the database gives up
            raise

    def _gather(self, stop: threading.Event) -> Batch:
        """A batch that is due, or at a stop what has come.

        While a commit is at work a batch may grow older than it should: it could not be written yet.
        """
        batch = Batch()
        due = float("inf")
        while not stop.is_set():
            now = time.monotonic()
            self._look_after_commit(now)
            full = self._cut.is_full(batch)
            if self._at_work is None and (full or now >= due):
                return batch
            if self._at_work is not None and full:
                wait([self._at_work], _COMMIT_CHECK_SECONDS)
            elif self._receive_into(batch, self._wait_seconds(now, due)) and due == float("inf"):
                due = time.monotonic() + self._cut.max_age_seconds
        return batch

    def _wait_seconds(self, now: float, due: float) -> float:
        """How long nothing needs to be done unless a message comes."""
        if self._at_work is not None:
            return _COMMIT_CHECK_SECONDS
        ack_wait = self._acks.wait_seconds(now)
        return max(0.0, min(_IDLE_SECONDS, due - now, _IDLE_SECONDS if ack_wait is None else ack_wait))

    def _receive_into(self, batch: Batch, timeout: float) -> bool:
        """Whether there was anything. What does not fit stays for the next batch."""
        if not self._arrived:
            self._arrived.extend(self._source.receive(self._cut.max_messages, timeout))
            self._metrics.messages.inc(len(self._arrived))
            self._count_queue(len(self._arrived))
        was_there = bool(self._arrived)
        now_ms = time.time_ns() // 1_000_000
        while self._arrived and not self._cut.is_full(batch):
            received = self._arrived.popleft()
            batch.add(received, self._decode(received.message, now_ms))
        return was_there

    def _hand_over(self, batch: Batch, committer: ThreadPoolExecutor, stop: threading.Event) -> None:
        """Begins to commit the batch once the one before is committed."""
        self._finish_commit()
        if batch.received:
            self._at_work = committer.submit(self._commit, batch, stop)

    def _look_after_commit(self, now: float) -> None:
        """Counts a commit that has ended, and tells who is to be told by now."""
        if self._at_work is not None and self._at_work.done():
            self._finish_commit()
        self._tell(now)

    def _finish_commit(self) -> None:
        """Waits for the commit that is at work, if there is one; raises what it raised."""
        if self._at_work is None:
            return
        future, self._at_work = self._at_work, None
        if (committed := future.result()) is not None:
            for outcome in committed.outcomes:
                self._acks.add(outcome.settlements)
            self._count(committed)

    def _drain(self, committer: ThreadPoolExecutor, stop: threading.Event) -> None:
        """Takes no more, and writes what the broker had already given to us."""
        self._source.leave(_LEAVE_SECONDS)
        deadline = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < deadline:
            batch = Batch()
            while not self._cut.is_full(batch) and self._receive_into(batch, _QUIET_SECONDS):
                pass
            if not batch.received:
                return
            self._hand_over(batch, committer, stop)
            self._finish_commit()

    def _commit(self, batch: Batch, stop: threading.Event) -> _Committed | None:
        """Writes the batch, however long the database is away; None where `stop` came first and nothing is known.

        Once stopping, one attempt is made: what is not written is not acknowledged, and its edge will send it again.
        """
        retry = _FIRST_RETRY_SECONDS
        while True:
            started = time.monotonic()
            try:
                outcomes = self._write(batch.blocks, batch.rejections)
            except StoreUnavailable as exc:
                self._report_database(exc)
                if stop.wait(random.uniform(retry / 2, retry)):  # noqa: S311 - not a secret
                    return None
                retry = min(2 * retry, _LONGEST_RETRY_SECONDS)
                continue
            self._report_database(None)
            self._source.acknowledge(batch.received)
            return _Committed(batch, outcomes, time.monotonic() - started)

    def _write(self, blocks: list[Block], rejections: list[Rejection]) -> list[Outcome]:
        """Writes all of it, cutting in halves until what the database refuses stands alone, and parking that."""
        try:
            return [self._writer.write(blocks, rejections)]
        except DataRejected as exc:
            if blocks and rejections:
                return [*self._write(blocks, []), *self._write([], rejections)]
            if len(blocks) > 1:
                half = len(blocks) // 2
                return [*self._write(blocks[:half], []), *self._write(blocks[half:], [])]
            if not blocks or blocks[0].rejection is not None:
                raise  # a message that can't even be parked: stop loudly rather than lose it or spin on it
            return [self._writer.write([blocks[0].refused("refused_by_database", str(exc))], [])]

    def _tell(self, now: float) -> None:
        for settlement in self._acks.due(now):
            topic, encoded = commit_ack(settlement)
            self._source.publish(topic, encoded.payload, encoded.content_type)

    def _count_queue(self, change: int) -> None:
        self._queued += change
        self._metrics.queue.inc(change)

    def _count(self, committed: _Committed) -> None:
        batch, outcomes, seconds = committed
        metrics = self._metrics
        metrics.commit_seconds.observe(seconds)
        metrics.batch_ticks.observe(batch.ticks)
        metrics.ticks.inc(sum(outcome.stored_ticks for outcome in outcomes))
        metrics.samples.inc(sum(outcome.stored_samples for outcome in outcomes))
        metrics.clones.inc(sum(outcome.cloned_messages for outcome in outcomes))
        metrics.duplicates.inc(sum(outcome.duplicate_ticks for outcome in outcomes))
        metrics.late.inc(sum(outcome.late_ticks for outcome in outcomes))
        self._count_queue(-len(batch.received))
        now = time.time()
        lags = [max(0.0, now - block.newest_ms / 1000) for block in batch.blocks if block.rejection is None]
        for lag in lags:
            metrics.message_lag_seconds.observe(lag)
        if lags:
            metrics.lag_seconds.set(min(lags))
        for outcome in outcomes:
            for rejection in outcome.rejections:
                metrics.rejected.labels(rejection.reason).inc()
                self._unlogged[rejection.reason] = self._unlogged.get(rejection.reason, 0) + 1
        if self._unlogged and time.monotonic() - self._rejections_logged >= _REJECTION_LOG_SECONDS:
            counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self._unlogged.items()))
            log.warning("messages rejected: %s; see `cloud-ingest rejected list`", counts)
            self._rejections_logged = time.monotonic()
            self._unlogged.clear()

    def _report_database(self, failure: StoreUnavailable | None) -> None:
        """One line a change of state, and one for each further cause."""
        self._metrics.database_up.set(failure is None)
        if failure is not None and str(failure) not in self._told_causes and len(self._told_causes) < _MAX_TOLD_CAUSES:
            log.warning("the database is away: %s; nothing is acknowledged until it is back", failure)
            self._told_causes.add(str(failure))
        if failure is None and self._told_causes:
            log.info("the database is back")
            self._told_causes.clear()
