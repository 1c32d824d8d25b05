"""Keeps what the broker retains of open alerts the same as the database: one worker at a time, by a lease.

It subscribes to what it publishes. So it knows what the broker holds: what a worker before it left, nothing where the
broker forgot, and what somebody else wrote there, all of which it sets right.
"""

import logging
import os
import secrets
import socket
import threading
from typing import Final

from cloud_ingest.config import Config
from cloud_ingest.errors import StoreUnavailable
from cloud_ingest.message import Message
from cloud_ingest.mqtt import Connection as BrokerConnection
from cloud_ingest.mqtt import Token
from cloud_ingest.store.alerts import AlertFilter, AlertState, open_alerts
from cloud_ingest.store.database import Connection, connect, translated
from cloud_ingest.store.lease import Lease
from cloud_ingest.worker.alert_topics import differences, payloads
from telemetry_contract.alerts import FILTER
from telemetry_contract.codec import CONTENT_TYPE

_LOOK_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 2.0
_MOST: Final = 100_000
_LEASE: Final = "alert-topics"

log = logging.getLogger(__name__)


class AlertPublisher:
    """Works until it is stopped; waits for a broker or a database that is away."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._url = config.database_url.get_secret_value()
        # Shared with the broker's thread, guarded by `_lock`: what the broker holds, and what it said that it holds
        # before it confirmed the subscription.
        self._lock = threading.Lock()
        self._held: dict[str, bytes] = {}
        self._early: dict[str, bytes] = {}
        self._broker: BrokerConnection | None = None

    def run(self, stop: threading.Event) -> None:
        """Returns once `stop` is set; what is published stays. Raises ConfigError where a file can't be read."""
        lease = Lease(self._url, _LEASE)
        try:
            while not stop.is_set():
                try:
                    if lease.take():
                        self._publish(lease, stop)
                except StoreUnavailable as exc:
                    log.debug("no database to publish alerts from: %s", exc)  # the worker's main thread says it
                finally:
                    lease.release()
                stop.wait(_RETRY_SECONDS)
        finally:
            lease.release()

    def _publish(self, lease: Lease, stop: threading.Event) -> None:
        """For as long as the lease is ours."""
        broker = BrokerConnection(
            self._config.broker,
            client_id=f"cloud-alerts-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            filters=[FILTER],
            receiver=self._arrive,
            on_subscribed=self._subscribed,
        )
        self._broker = broker
        broker.start()
        try:
            with connect(self._url, "cloud-ingest-alert-topics") as connection:
                while not stop.is_set() and lease.is_held():
                    if broker.connected.is_set():
                        self._set_right(connection, broker)
                    stop.wait(_LOOK_SECONDS)
        finally:
            broker.close()

    def _set_right(self, connection: Connection, broker: BrokerConnection) -> None:
        with translated():
            rows = open_alerts(connection, AlertFilter(), states=[AlertState.FIRING, AlertState.UNKNOWN], limit=_MOST)
        wanted = payloads(rows)
        with self._lock:
            changed = differences(wanted, self._held)
            self._held = dict(wanted)
        for topic, payload in changed.items():
            broker.publish(topic, payload, CONTENT_TYPE, retain=True)

    def _arrive(self, message: Message, token: Token) -> None:
        """In the broker's thread."""
        broker = self._broker
        if broker is None:
            return
        with self._lock:
            held = self._held if broker.connected.is_set() else self._early
            if message.payload:
                held[message.topic] = message.payload
            else:
                held.pop(message.topic, None)
        broker.acknowledge([token])

    def _subscribed(self) -> None:
        """In the broker's thread: a connection began, and what the broker holds is told anew."""
        with self._lock:
            self._held, self._early = self._early, {}
