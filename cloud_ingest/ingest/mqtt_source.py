"""The source that subscribes over MQTT with paho: to our own agents' samples, or to what other publishers send."""

import os
import queue
import secrets
import socket
import threading
from collections.abc import Sequence
from typing import NamedTuple

from cloud_ingest.config import Config
from cloud_ingest.ingest.source import Received
from cloud_ingest.message import Message
from cloud_ingest.mqtt import Connection, Token
from telemetry_contract.topics import Kind, topic_filter


class KeptSession(NamedTuple):
    """A session that the broker keeps while nobody is connected, for those who send everything only once."""

    client_id: str
    filters: Sequence[str]
    expiry_seconds: int


class MqttSource:
    """Live and backlog messages of every device; a member of the shared subscription where there is a group.

    With a `kept` session what its filters match instead. Then leaving does not unsubscribe: it stops taking, and what
    is not acknowledged the broker keeps.
    """

    def __init__(self, config: Config, kept: KeptSession | None = None) -> None:
        """Raises ConfigError where a password or certificate file can't be read."""
        group = config.ingest.group
        self._kept = kept
        self._left = threading.Event()
        # Bounded by the broker: it sends no more than `receive_maximum` messages that are not acknowledged.
        self._arrived: queue.SimpleQueue[Received] = queue.SimpleQueue()
        self._connection = Connection(
            config.broker,
            client_id=f"cloud-ingest-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
            if kept is None
            else kept.client_id,
            filters=[topic_filter(Kind.SAMPLES, group=group), topic_filter(Kind.BACKLOG, group=group)]
            if kept is None
            else kept.filters,
            receiver=self._arrive,
            receive_maximum=config.ingest.receive_maximum,
            session_expiry_seconds=0 if kept is None else kept.expiry_seconds,
        )

    @property
    def is_connected(self) -> bool:
        """Whether it is subscribed now."""
        return self._connection.connected.is_set()

    def start(self) -> None:
        """See Source."""
        self._connection.start()

    def receive(self, max_messages: int, timeout: float) -> list[Received]:
        """See Source."""
        received: list[Received] = []
        try:
            received.append(self._arrived.get(timeout=max(timeout, 0)))
            while len(received) < max_messages:
                received.append(self._arrived.get_nowait())
        except queue.Empty:
            pass
        return received

    def acknowledge(self, received: Sequence[Received]) -> None:
        """See Source."""
        self._connection.acknowledge([each.token for each in received if isinstance(each.token, Token)])

    def publish(self, topic: str, payload: bytes, content_type: str) -> None:
        """See Source."""
        self._connection.publish(topic, payload, content_type)

    def leave(self, timeout: float) -> None:
        """See Source."""
        if self._kept is None:
            self._connection.unsubscribe(timeout)
        else:
            self._left.set()

    def close(self) -> None:
        """See Source."""
        self._connection.close()

    def _arrive(self, message: Message, token: Token) -> None:
        if not self._left.is_set():
            self._arrived.put(Received(message, token))
