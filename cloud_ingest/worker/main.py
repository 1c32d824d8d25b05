"""Composition root of the worker role."""

import logging
import threading
import time
from typing import Final

from cloud_ingest.config import Config
from cloud_ingest.errors import StoreUnavailable
from cloud_ingest.store.database import Connection, connect
from cloud_ingest.store.migrate import require_current
from cloud_ingest.worker.status_listener import StatusListener
from cloud_ingest.worker.upkeep import upkeep

_STOP_NOTICED_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 2.0

log = logging.getLogger(__name__)


def run(config: Config, stop: threading.Event) -> int:
    """Works until `stop` is set; returns the exit code.

    Raises ConfigError or SchemaNotReady. A broker or a database that is away is waited for.
    """
    listener = StatusListener(config.broker)
    listener.start()
    down = False
    try:
        while not stop.is_set():
            try:
                with connect(config.database_url.get_secret_value(), "cloud-ingest-worker") as connection:
                    require_current(connection)
                    if down:
                        log.info("the database is back")
                    down = False
                    _work(connection, listener, config, stop)
            except StoreUnavailable as exc:
                if not down:
                    log.warning("the database is away: %s; trying again", exc)
                down = True
                stop.wait(_RETRY_SECONDS)
    finally:
        listener.close()
    return 0


def _work(connection: Connection, listener: StatusListener, config: Config, stop: threading.Event) -> None:
    upkeep_due = time.monotonic()
    while not stop.is_set():
        if time.monotonic() >= upkeep_due:
            upkeep(connection, config.retention, time.time_ns() // 1_000_000)
            upkeep_due = time.monotonic() + config.worker.interval_seconds
        listener.work(connection)
        listener.wait(min(_STOP_NOTICED_SECONDS, max(0.0, upkeep_due - time.monotonic())))
