"""Receive, decode, batch, commit, acknowledge: one thread, in that order, for ever."""

import logging
import random
import threading
import time
from typing import Final

from cloud_ingest.commit_ack import commit_ack
from cloud_ingest.errors import DataRejected, StoreUnavailable
from cloud_ingest.ingest.acks import AckSchedule
from cloud_ingest.ingest.batcher import Batch, Cut
from cloud_ingest.ingest.decode import Limits, decode
from cloud_ingest.ingest.metrics import IngestMetrics
from cloud_ingest.ingest.source import Source
from cloud_ingest.store.batch import BatchWriter, Block, Outcome
from cloud_ingest.store.rejected import Rejection

_IDLE_SECONDS: Final = 0.5  # how soon a stop is noticed
_FIRST_RETRY_SECONDS: Final = 0.1
_LONGEST_RETRY_SECONDS: Final = 5.0
_LEAVE_SECONDS: Final = 5.0
_REJECTION_LOG_SECONDS: Final = 10.0

log = logging.getLogger(__name__)


class Pipeline:
    """Moves messages from a source into the store and tells their senders.

    A message is acknowledged to the broker, and its ticks to the edge, only after the transaction that stored or
    parked them has committed. While the database is away nothing is acknowledged, and the broker stops sending at its
    receive maximum.
    """

    def __init__(
        self,
        source: Source,
        writer: BatchWriter,
        *,
        cut: Cut,
        limits: Limits,
        ack_interval: float,
        metrics: IngestMetrics,
    ) -> None:
        self._source = source
        self._writer = writer
        self._cut = cut
        self._limits = limits
        self._acks = AckSchedule(ack_interval)
        self._metrics = metrics
        self._database_down = False
        self._unlogged: dict[str, int] = {}
        self._rejections_logged = -_REJECTION_LOG_SECONDS

    def run(self, stop: threading.Event) -> None:
        """Works until `stop` is set, then takes no more, writes what came and leaves.

        Raises SchemaNotReady where the database has not the schema of this version.
        """
        self._source.start()
        try:
            while not stop.is_set():
                self._work(stop)
            self._source.leave(_LEAVE_SECONDS)
            while (batch := self._gather(stop)).received and self._commit(batch, stop):
                pass
            self._tell(float("inf"))
        finally:
            self._source.close()
            self._writer.close()

    def _work(self, stop: threading.Event) -> None:
        batch = self._gather(stop)
        if batch.received:
            self._commit(batch, stop)
        self._tell(time.monotonic())

    def _gather(self, stop: threading.Event) -> Batch:
        """A batch that is due, or an empty one when nothing came for a while or an ack is due.

        Once stopping, what is there and nothing more.
        """
        batch = Batch()
        started = time.monotonic()
        ack_wait = self._acks.wait_seconds(started)
        wait = _IDLE_SECONDS if ack_wait is None else min(_IDLE_SECONDS, ack_wait)
        while True:
            arrived = self._source.receive(
                self._cut.max_messages - len(batch.received), 0.0 if stop.is_set() else min(wait, _IDLE_SECONDS)
            )
            now = time.monotonic()
            if not batch.received:
                if not arrived:
                    return batch
                started = now
            now_ms = time.time_ns() // 1_000_000
            for received in arrived:
                batch.add(received, decode(received.message, self._limits, now_ms))
            self._metrics.messages.inc(len(arrived))
            wait = self._cut.wait_seconds(batch, started, now)
            if wait <= 0 or (stop.is_set() and not arrived):
                return batch

    def _commit(self, batch: Batch, stop: threading.Event) -> bool:
        """Writes the batch, however long the database is away; False where `stop` came first and nothing is known.

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
                    return False
                retry = min(2 * retry, _LONGEST_RETRY_SECONDS)
                continue
            self._report_database(None)
            self._source.acknowledge(batch.received)
            for outcome in outcomes:
                self._acks.add(outcome.settlements)
            self._count(batch, outcomes, time.monotonic() - started)
            return True

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

    def _count(self, batch: Batch, outcomes: list[Outcome], seconds: float) -> None:
        metrics = self._metrics
        metrics.commit_seconds.observe(seconds)
        metrics.batch_ticks.observe(batch.ticks)
        metrics.ticks.inc(sum(outcome.stored_ticks for outcome in outcomes))
        metrics.samples.inc(sum(outcome.stored_samples for outcome in outcomes))
        metrics.duplicates.inc(sum(outcome.duplicate_ticks for outcome in outcomes))
        newest = max((int(block.times_ms.max()) for block in batch.blocks if block.rejection is None), default=None)
        if newest is not None:
            metrics.lag_seconds.set(max(0.0, time.time() - newest / 1000))
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
        """One line a change of state."""
        down = failure is not None
        self._metrics.database_up.set(not down)
        if down and not self._database_down:
            log.warning("the database is away: %s; nothing is acknowledged until it is back", failure)
        if not down and self._database_down:
            log.info("the database is back")
        self._database_down = down
