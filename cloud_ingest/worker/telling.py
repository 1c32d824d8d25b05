"""The part of the worker that tells people and programs, in a thread and over a connection of its own."""

import logging
import threading
import time
from typing import Final

from cloud_ingest.config import Config
from cloud_ingest.errors import StoreUnavailable
from cloud_ingest.store import deliveries
from cloud_ingest.store.database import Connection, connect
from cloud_ingest.worker.dispatcher import Dispatcher

_LOOK_SECONDS: Final = 0.5
_COUNT_SECONDS: Final = 5.0
_PRUNE_SECONDS: Final = 3_600.0
_RETRY_SECONDS: Final = 2.0

log = logging.getLogger(__name__)


class Telling:
    """Keeps a dispatcher at work until it is stopped."""

    def __init__(self, config: Config, dispatcher: Dispatcher) -> None:
        self._url = config.database_url.get_secret_value()
        self._kept_days = config.notifications.kept_days
        self._dispatcher = dispatcher

    def run(self, stop: threading.Event) -> None:
        """Returns once `stop` is set and what was on its way is recorded, if the database is there."""
        try:
            while not stop.is_set():
                try:
                    with connect(self._url, "cloud-ingest-notifications") as connection:
                        self._work(connection, stop)
                except StoreUnavailable as exc:
                    log.debug("no database to tell notifications from: %s", exc)  # the worker's main thread says it
                    stop.wait(_RETRY_SECONDS)
        finally:
            self._dispatcher.close()
        try:
            with connect(self._url, "cloud-ingest-notifications") as connection:
                self._dispatcher.record(connection)
        except StoreUnavailable as exc:
            log.warning("what was told last could not be recorded and is told again: %s", exc)

    def _work(self, connection: Connection, stop: threading.Event) -> None:
        self._dispatcher.begin(connection)
        count_due = prune_due = time.monotonic()
        while not stop.is_set():
            self._dispatcher.work(connection)
            now = time.monotonic()
            if now >= count_due:
                count_due = now + _COUNT_SECONDS
                self._dispatcher.count(connection)
            if now >= prune_due:
                prune_due = now + _PRUNE_SECONDS
                deliveries.prune(connection, self._kept_days)
            self._dispatcher.wait(_LOOK_SECONDS)
