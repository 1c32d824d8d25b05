"""Makes messages of what is to be told, and takes them to their receivers.

One thread talks to the database; each receiver has a thread of its own, so that a slow one delays no other. What a
receiver has confirmed is recorded also where the database is away meanwhile: it is kept until then.
"""

import logging
import threading
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

from cloud_ingest.alerts.notify.backoff import delay_seconds
from cloud_ingest.alerts.notify.change import Change
from cloud_ingest.alerts.notify.notifier import DeliveryError, DeliveryFailed, DeliveryRefused
from cloud_ingest.alerts.notify.routing import Route, routes
from cloud_ingest.alerts.notify.sender import Sender, senders_of
from cloud_ingest.alerts.notify.settings import Notifications, RateLimit
from cloud_ingest.store import deliveries
from cloud_ingest.store.database import Connection
from cloud_ingest.store.deliveries import Claimed, Limit
from cloud_ingest.worker.metrics import WorkerMetrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a message; `error` None: it was taken."""

    claimed: Claimed
    error: DeliveryError | None


class Dispatcher:
    """`work` is called by one thread, again and again."""

    def __init__(self, settings: Notifications, metrics: WorkerMetrics) -> None:
        """Raises ConfigError where a file can't be read, or a package is missing."""
        self._settings = settings
        self._metrics = metrics
        self._senders = senders_of(settings.receivers)
        self._threads = {name: ThreadPoolExecutor(1, f"to {name}") for name in self._senders}
        # Receivers that a message is on its way to: only the thread of `work` touches them.
        self._busy: set[str] = set()
        # What is not recorded yet, put there by the threads of the receivers.
        self._outcomes: deque[_Outcome] = deque()
        self._wake = threading.Event()
        self._down: set[str] = set()

    def close(self) -> None:
        """Waits for what is on its way, each step of which has a timeout; `record` then tells what became of it."""
        with ExitStack() as ending:
            for threads in self._threads.values():
                ending.callback(threads.shutdown)

    def wait(self, timeout: float) -> None:
        """Returns when there is something to record, or after `timeout` seconds."""
        self._wake.wait(timeout)
        self._wake.clear()

    def work(self, connection: Connection) -> None:
        """Records what was sent, makes new messages and sends what is due. Raises StoreUnavailable."""
        self.record(connection)
        while deliveries.fan_out(connection, self._route, self._waits()):
            pass
        for name, sender in self._senders.items():
            if name in self._busy:
                continue
            limit = self._settings.receivers[name].rate_limit
            claimed = deliveries.claim(
                connection,
                name,
                None if limit is None else _limit(limit),
                timedelta(seconds=self._settings.claim_seconds),
            )
            if claimed is not None:
                self._busy.add(name)
                self._threads[name].submit(self._send, sender, claimed)

    def record(self, connection: Connection) -> None:
        """Records what became of messages. Raises StoreUnavailable, after which the rest still waits."""
        while self._outcomes:
            outcome = self._outcomes[0]
            self._record(connection, outcome)
            self._outcomes.popleft()
            self._busy.discard(outcome.claimed.receiver)

    def begin(self, connection: Connection) -> None:
        """Makes the receivers known to the database. Raises StoreUnavailable."""
        deliveries.register(connection, self._senders)

    def count(self, connection: Connection) -> None:
        """Brings the metrics of what waits up to date. Raises StoreUnavailable."""
        for backlog in deliveries.backlogs(connection):
            self._metrics.notifications_waiting.labels(backlog.receiver).set(backlog.waiting)
            self._metrics.notifications_oldest_seconds.labels(backlog.receiver).set(backlog.oldest_seconds)
            self._metrics.notifications_dead.labels(backlog.receiver).set(backlog.dead)

    def _route(self, changes: Sequence[Change], told: Collection[tuple[str, int]]) -> Sequence[Route]:
        return routes(self._settings.receivers, changes, told)

    def _waits(self) -> dict[str, timedelta]:
        return {name: timedelta(seconds=it.group_wait_seconds) for name, it in self._settings.receivers.items()}

    def _send(self, sender: Sender, claimed: Claimed) -> None:
        """In the thread of the receiver."""
        error: DeliveryError | None = None
        try:
            sender.send(claimed.delivery_id, claimed.changes, digest=claimed.digest)
        except DeliveryError as exc:
            error = exc
        except Exception:  # a library's, or ours: other messages must go on
            log.exception("an error of this program while it told %s", claimed.receiver)
            error = DeliveryFailed("an error of this program; see the log of the worker")
        self._outcomes.append(_Outcome(claimed, error))
        self._wake.set()

    def _record(self, connection: Connection, outcome: _Outcome) -> None:
        claimed, error = outcome.claimed, outcome.error
        name = claimed.receiver
        dead = False
        if error is None:
            deliveries.sent(connection, claimed)
            self._metrics.notifications_sent.labels(name).inc()
            if name in self._down:
                log.info("%s takes notifications again", name)
                self._down.discard(name)
        elif isinstance(error, DeliveryRefused):
            deliveries.refused(connection, claimed, str(error))
            dead = True
        else:
            asked = error.retry_after_seconds if isinstance(error, DeliveryFailed) else None
            dead = deliveries.failed(
                connection,
                claimed,
                str(error),
                delay=timedelta(seconds=delay_seconds(claimed.attempts, asked)),
                pause=timedelta(seconds=delay_seconds(claimed.failures + 1, asked)),
                give_up=timedelta(seconds=self._settings.give_up_after_seconds),
            )
            if name not in self._down:
                log.warning("%s does not take notifications: %s; trying again", name, error)
            self._down.add(name)
        if error is not None:
            self._metrics.notifications_failed.labels(name).inc()
        if dead:
            log.error("gave up notification %d to %s: %s", claimed.number, name, error)


def _limit(limit: RateLimit) -> Limit:
    return Limit(limit.messages, timedelta(seconds=limit.seconds))
