"""One source of other publishers: its own session with the broker, its own pipeline, in one process at a time.

They send everything once and wait for nobody, so the broker must keep it: a session under a fixed client id, whose
messages are acknowledged when they are committed. A broker lets one connection have such a session; among several
ingesters a lease decides which, and another takes over when that one is gone.
"""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from cloud_ingest.config import Config
from cloud_ingest.foreign.sparkplug_payload import rebirth_command
from cloud_ingest.ingest import decoders
from cloud_ingest.ingest.batcher import Cut
from cloud_ingest.ingest.metrics import IngestMetrics
from cloud_ingest.ingest.mqtt_source import KeptSession, MqttSource
from cloud_ingest.ingest.pipeline import Pipeline
from cloud_ingest.store.lease import Lease
from cloud_ingest.writer import writer_of

_LEASE_SECONDS: Final = 2.0  # how often the lease is asked for or about

log = logging.getLogger(__name__)


class ForeignIngest:
    """Stores what one source of the configuration brings, while it has the lease."""

    def __init__(self, name: str, config: Config, cut: Cut, metrics: IngestMetrics) -> None:
        self._name = name
        self._config = config
        self._settings = config.sources[name]
        self._cut = cut
        self._metrics = metrics
        self._lease = Lease(config.database_url.get_secret_value(), f"source {self._client_id}")
        self._source: MqttSource | None = None  # while it is this process's
        metrics.source_up.labels(name).set(0)

    def is_connected(self) -> bool:
        """Whether this process hears it now. From any thread."""
        source = self._source
        return source is not None and source.is_connected

    @property
    def _client_id(self) -> str:
        return self._settings.client_id or f"cloud-ingest-{self._name}"

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Sets it where this can't go on, and raises why."""
        try:
            while not stop.is_set():
                if self._lease.take():
                    log.info("source %s is this process's", self._name)
                    self._serve(stop)
                else:
                    stop.wait(_LEASE_SECONDS)
        finally:
            stop.set()
            self._lease.release()

    def _serve(self, stop: threading.Event) -> None:
        """Until `stop` is set, the lease is lost or the pipeline ends."""
        session = KeptSession(self._client_id, self._settings.topics, self._settings.session_expiry_seconds)
        source = MqttSource(self._config, session)
        pipeline = self._pipeline(source)
        self._source = source
        self._metrics.source_up.labels(self._name).set_function(lambda: float(source.is_connected))
        ending = threading.Event()
        try:
            with ThreadPoolExecutor(1, f"source {self._name}") as thread:
                running = thread.submit(pipeline.run, ending)
                try:
                    while not running.done() and self._lease.is_held() and not stop.wait(_LEASE_SECONDS):
                        pass
                finally:
                    ending.set()
                running.result()
        finally:
            self._source = None
            self._metrics.source_up.labels(self._name).set_function(lambda: 0.0)

    def _pipeline(self, source: MqttSource) -> Pipeline:

        def request_rebirth(group: str, node: str) -> None:
            command = rebirth_command(time.time_ns() // 1_000_000)
            source.publish(f"spBv1.0/{group}/NCMD/{node}", command, "application/octet-stream")

        return Pipeline(
            source,
            writer_of(self._config),
            cut=self._cut,
            decode=decoders.source(
                self._name, self._config, request_rebirth, self._metrics.texts.labels(self._name).inc
            ),
            ack_interval=self._config.ingest.ack_interval_seconds,
            metrics=self._metrics,
        )
