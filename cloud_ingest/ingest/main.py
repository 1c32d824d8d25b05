"""Composition root of the ingest role."""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, Protocol

from prometheus_client import start_http_server

from cloud_ingest.config import Config
from cloud_ingest.errors import ConfigError
from cloud_ingest.ingest import decoders
from cloud_ingest.ingest.batcher import Cut
from cloud_ingest.ingest.foreign import ForeignIngest
from cloud_ingest.ingest.heartbeat import Heartbeat
from cloud_ingest.ingest.lanes import Lanes
from cloud_ingest.ingest.metrics import IngestMetrics
from cloud_ingest.ingest.mqtt_source import MqttSource
from cloud_ingest.ingest.pipeline import Pipeline
from cloud_ingest.ingest.source import Source
from cloud_ingest.store import hearing
from cloud_ingest.writer import writer_of

_MAX_BATCH_BYTES: Final = 64 * 1024 * 1024
# While one thread decodes, the one that commits wants a turn after each answer of the database, and by default waits
# 5 ms for it. Measured: a fifth more live messages a second.
_SWITCH_SECONDS: Final = 0.001


class BrokerSource(Source, Protocol):
    """A source that can say whether it is subscribed."""

    @property
    def is_connected(self) -> bool:
        """Whether it is subscribed now."""


def source_of(config: Config) -> BrokerSource:
    """The source for the protocol that the broker speaks.

    Raises ConfigError where a password or certificate file can't be read.
    """
    return Lanes(config) if config.broker.protocol == 5 else MqttSource(config)  # noqa: PLR2004 - its name


def run(config: Config, stop: threading.Event, make_source: Callable[[Config], BrokerSource] = source_of) -> int:
    """Ingests until `stop` is set; returns the exit code.

    Raises ConfigError or SchemaNotReady. A broker or a database that is away is waited for.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    metrics = IngestMetrics()
    source = make_source(config)
    metrics.broker_up.set_function(lambda: float(source.is_connected))
    cut = Cut(
        max_ticks=config.ingest.batch_rows,
        max_messages=max(1, config.ingest.receive_maximum // 2),
        max_bytes=_MAX_BATCH_BYTES,
        max_age_seconds=config.ingest.batch_age_ms / 1000,
    )
    pipeline = Pipeline(
        source,
        writer_of(config),
        cut=cut,
        decode=decoders.agents(config),
        ack_interval=config.ingest.ack_interval_seconds,
        metrics=metrics,
    )
    with ExitStack() as cleanup:
        if (listen := config.ingest.metrics_listen) is not None:
            try:
                server, _ = start_http_server(listen.port, listen.host, metrics.registry)
            except OSError as exc:
                raise ConfigError(f"ingest.metrics_listen {listen}: {exc.strerror}") from exc
            cleanup.callback(server.server_close)
            cleanup.callback(server.shutdown)
        others = {name: ForeignIngest(name, config, cut, metrics) for name in config.sources}
        heartbeat = Heartbeat(
            config.database_url.get_secret_value(),
            {
                hearing.READINGS: lambda: source.is_connected,
                **{hearing.source(name): each.is_connected for name, each in others.items()},
            },
        )
        with ThreadPoolExecutor(1 + len(others), "source") as threads:
            running = [threads.submit(run, stop) for run in (heartbeat.run, *(each.run for each in others.values()))]
            try:
                pipeline.run(stop)
            finally:
                stop.set()
        for each in running:
            each.result()
    return 0
