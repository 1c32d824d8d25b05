"""Composition root of the worker role."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final

from prometheus_client import start_http_server

from cloud_ingest.config import Config
from cloud_ingest.errors import ConfigError, StoreUnavailable
from cloud_ingest.store.database import Connection, connect, server_time_ms
from cloud_ingest.store.migrate import require_current
from cloud_ingest.worker.alert_publisher import AlertPublisher
from cloud_ingest.worker.dispatcher import Dispatcher
from cloud_ingest.worker.late_judge import LateJudge
from cloud_ingest.worker.liveness_watch import LivenessWatch
from cloud_ingest.worker.metrics import WorkerMetrics
from cloud_ingest.worker.resender import resenders_of
from cloud_ingest.worker.status_listener import StatusListener
from cloud_ingest.worker.telling import Telling
from cloud_ingest.worker.upkeep import Upkeep

_STOP_NOTICED_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 2.0
_DONE: Final = object()

log = logging.getLogger(__name__)


def run(config: Config, stop: threading.Event) -> int:
    """Works until `stop` is set; returns the exit code.

    Raises ConfigError or SchemaNotReady. A broker or a database that is away is waited for.
    """
    metrics = WorkerMetrics()
    telling = Telling(config, Dispatcher(config.notifications, metrics))
    listener = StatusListener(config.broker)
    watch = LivenessWatch(config, listener.is_listening)
    with ExitStack() as cleanup:
        if (listen := config.worker.metrics_listen) is not None:
            try:
                server, _ = start_http_server(listen.port, listen.host, metrics.registry)
            except OSError as exc:
                raise ConfigError(f"worker.metrics_listen {listen}: {exc.strerror}") from exc
            cleanup.callback(server.server_close)
            cleanup.callback(server.shutdown)
        listener.start()
        cleanup.callback(listener.close)
        parts = [watch.run, telling.run]
        parts += [each.run for each in resenders_of(config)]
        if config.notifications.mqtt_topics:
            parts.append(AlertPublisher(config).run)
        threads = cleanup.enter_context(ThreadPoolExecutor(len(parts), "worker"))
        others = [threads.submit(_until_it_fails, each, stop) for each in parts]
        try:
            _work_on(listener, config, stop)
        finally:
            stop.set()
        for each in others:
            each.result()
    return 0


def _until_it_fails(run: Callable[[threading.Event], None], stop: threading.Event) -> None:
    """In a thread of the worker's: where this ends with an error, so does the worker."""
    try:
        run(stop)
    finally:
        stop.set()


def _work_on(listener: StatusListener, config: Config, stop: threading.Event) -> None:
    """Works until `stop` is set, however often the database is away."""
    down = False
    while not stop.is_set():
        try:
            with connect(config.database_url.get_secret_value(), "cloud-ingest-worker") as connection:
                require_current(connection)
                if down:
                    log.info("the database is back")
                down = False
                with LateJudge(config.database_url.get_secret_value(), config.worker.late_quiet_seconds):
                    _work(connection, listener, config, stop)
        except StoreUnavailable as exc:
            if not down:
                log.warning("the database is away: %s; trying again", exc)
            down = True
            stop.wait(_RETRY_SECONDS)


def _work(connection: Connection, listener: StatusListener, config: Config, stop: threading.Event) -> None:
    upkeep = Upkeep(connection, config.retention)
    upkeep_due = time.monotonic()
    round_: Iterator[None] = iter(())
    while not stop.is_set():
        unfinished = next(round_, _DONE) is not _DONE
        if not unfinished and time.monotonic() >= upkeep_due:
            round_ = upkeep.round(_now_ms(connection))
            upkeep_due = time.monotonic() + config.worker.interval_seconds
            unfinished = True
        listener.work(connection)
        listener.wait(0 if unfinished else min(_STOP_NOTICED_SECONDS, max(0.0, upkeep_due - time.monotonic())))


def _now_ms(connection: Connection) -> int:
    """The earlier of two clocks: what is dropped because one of them ran ahead does not come back."""
    return min(time.time_ns() // 1_000_000, server_time_ms(connection))
