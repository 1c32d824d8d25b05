"""Composition root of the ingest role."""

import threading
from contextlib import ExitStack

from prometheus_client import start_http_server

from cloud_ingest.config import Config
from cloud_ingest.errors import ConfigError
from cloud_ingest.ingest.batcher import Cut
from cloud_ingest.ingest.decode import Limits
from cloud_ingest.ingest.metrics import IngestMetrics
from cloud_ingest.ingest.mqtt_source import MqttSource
from cloud_ingest.ingest.pipeline import Pipeline
from cloud_ingest.store.batch import BatchWriter


def run(config: Config, stop: threading.Event) -> int:
    """Ingests until `stop` is set; returns the exit code.

    Raises ConfigError or SchemaNotReady. A broker or a database that is away is waited for.
    """
    metrics = IngestMetrics()
    source = MqttSource(config)
    metrics.broker_up.set_function(lambda: float(source.is_connected))
    pipeline = Pipeline(
        source,
        BatchWriter(config.database_url.get_secret_value()),
        cut=Cut(
            max_ticks=config.ingest.batch_rows,
            max_messages=config.ingest.receive_maximum,
            max_age_seconds=config.ingest.batch_age_ms / 1000,
        ),
        limits=Limits(
            max_message_bytes=config.ingest.max_message_bytes,
            max_decompressed_bytes=config.ingest.max_decompressed_bytes,
            max_future_ms=config.ingest.max_future_seconds * 1000,
            max_age_ms=config.retention.tiers_ms[-1],
        ),
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
        pipeline.run(stop)
    return 0
