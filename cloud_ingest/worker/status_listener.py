"""Reads the retained `status` of every device, records it, and answers a birth with the current commit ack.

It also holds the worker's connection to the broker, over which desired configurations are published.

Retained messages don't reach shared subscriptions, so this is a plain one: every worker records the same, which does
no harm. The answer to a birth spares an agent that was away from sending again what the database has long committed.
"""

import logging
import os
import secrets
import socket
import threading
from datetime import UTC, datetime
from functools import partial

from cloud_ingest.commit_ack import commit_ack
from cloud_ingest.config import Broker
from cloud_ingest.errors import DataRejected
from cloud_ingest.message import Message
from cloud_ingest.mqtt import Connection as BrokerConnection
from cloud_ingest.mqtt import Token
from cloud_ingest.store.batch import Settlement
from cloud_ingest.store.database import Connection
from cloud_ingest.store.ledger import held
from cloud_ingest.store.status import record_status
from cloud_ingest.worker.desired_publisher import DesiredPublisher
from telemetry_contract.codec import decode_status
from telemetry_contract.errors import ContractError
from telemetry_contract.topics import Kind, Topic, topic_filter

log = logging.getLogger(__name__)


class StatusListener:
    """Collects statuses in the broker's thread; `work` records them in the worker's."""

    def __init__(self, broker: Broker) -> None:
        """Raises ConfigError where a password or certificate file can't be read."""
        self._changed = threading.Condition()
        # The newest status of each topic that is not recorded yet, guarded by `_changed`.
        self._waiting: dict[str, tuple[Message, datetime]] = {}
        self._broker = BrokerConnection(
            broker,
            client_id=f"cloud-worker-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            filters=[topic_filter(Kind.STATUS)],
            receiver=self._arrive,
            on_subscribed=self._subscribed,
        )
        self._desired = DesiredPublisher(partial(self._broker.publish, retain=True))

    def start(self) -> None:
        """Begins to listen."""
        self._broker.start()

    def close(self) -> None:
        """Stops listening."""
        self._broker.close()

    def is_listening(self) -> bool:
        """Whether statuses come in now. From any thread."""
        return self._broker.connected.is_set()

    def wait(self, timeout: float) -> None:
        """Returns when there is something to record, or after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting, timeout)

    def work(self, connection: Connection) -> None:
        """Records what came, answers births, and publishes what is newly wanted of devices.

        Raises StoreUnavailable, after which what was not recorded still waits.
        """
        while True:
            self._desired.work(connection)
            with self._changed:
                if not self._waiting:
                    return
                topic = next(iter(self._waiting))
                message, received_at = self._waiting[topic]
            self._record(connection, message, received_at)
            with self._changed:
                if self._waiting.get(topic) == (message, received_at):
                    del self._waiting[topic]

    def _record(self, connection: Connection, message: Message, received_at: datetime) -> None:
        try:
            topic = Topic.parse(message.topic)
            status = decode_status(message.payload)
            record_status(connection, topic.site, topic.device, status, received_at)
        except (ContractError, DataRejected) as exc:
            log.warning("ignored a status on %s: %s", message.topic, str(exc)[:300])
            return
        ranges = held(connection, status.stream, topic.device) if status.online else None
        if ranges is not None:
            answer, encoded = commit_ack(Settlement(topic.site, topic.device, status.stream, ranges))
            self._broker.publish(answer, encoded.payload, encoded.content_type)
        if status.online:
            self._desired.answer(connection, topic.device, status.desired)

    def _subscribed(self) -> None:
        self._desired.begin_anew()

    def _arrive(self, message: Message, token: Token) -> None:
        """In the broker's thread. An empty payload is the retained status being cleared: it says nothing."""
        if message.payload:
            with self._changed:
                self._waiting[message.topic] = (message, datetime.now(UTC))
                self._changed.notify()
        # A lost status is healed by the agent's next one, so it need not stay with the broker until it is recorded.
        self._broker.acknowledge([token])
