"""A publisher that is no agent of ours: sends whatever a test wants to whatever topic."""

import threading
from types import TracebackType
from typing import Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from harness.broker import Mosquitto


class Publisher:
    """Connected on entry. Keeps what arrives on the topics that it `listens` to."""

    def __init__(self, broker: Mosquitto) -> None:
        self.arrived: list[tuple[str, bytes]] = []
        self._broker = broker
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._subscribed.set()

    def __enter__(self) -> Self:
        self._client.connect(self._broker.host, self._broker.port)
        self._client.loop_start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def listen(self, topic_filter: str) -> None:
        """Returns once subscribed."""
        self._client.subscribe(topic_filter, qos=1)
        assert self._subscribed.wait(10)

    def send(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, and wait until the broker has it."""
        self._client.publish(topic, payload, qos=qos, retain=retain).wait_for_publish(10)

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        self.arrived.append((message.topic, bytes(message.payload)))
