"""Says in the database that this process hears readings, so that nobody is taken for silent whom no ingester heard."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final

from cloud_ingest.errors import StoreUnavailable
from cloud_ingest.store.database import connect
from cloud_ingest.store.hearing import BEAT_SECONDS, beat

_RETRY_SECONDS: Final = 2.0

log = logging.getLogger(__name__)


class Heartbeat:
    """`parts`: by the name of what is heard (see `store.hearing`), whether it is heard now."""

    def __init__(self, url: str, parts: Mapping[str, Callable[[], bool]]) -> None:
        self._url = url
        self._parts = parts

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. A database that is away is waited for.

        Sets `stop` where this can't go on, and raises why.
        """
        try:
            while not stop.is_set():
                try:
                    self._beat(stop)
                except StoreUnavailable as exc:
                    log.debug("the database is away: %s", exc)  # the pipeline says so
                    stop.wait(_RETRY_SECONDS)
        finally:
            stop.set()

    def _beat(self, stop: threading.Event) -> None:
        with connect(self._url, "cloud-ingest-heartbeat") as connection:
            while not stop.wait(BEAT_SECONDS):
                for part, is_heard in self._parts.items():
                    if is_heard():
                        beat(connection, part)
