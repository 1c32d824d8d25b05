"""The MQTT connections of many simulated devices in one thread: real clients, one selector for all their sockets."""

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from telemetry_bridge.errors import CannotStart
from telemetry_bridge.load.device import LoadDevice, Outgoing

KEEPALIVE_SECONDS: Final = 60
_CONNECT_SECONDS: Final = 30.0
_UPKEEP_SECONDS: Final = 1.0
_RECONNECT_SECONDS: Final = 2.0
_GOODBYE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class BrokerAddress:
    """Where the broker is and as whom; `ca_file` turns TLS on ("" trusts the system's authorities)."""

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    ca_file: str | None = None


@dataclass
class Tally:
    """What the broker answered: PUBACKs that took a message, and what it refused, by its reason."""

    acknowledged: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str) -> None:
        """Counts one more."""
        self.refused[reason] = self.refused.get(reason, 0) + 1


OnAck = Callable[[LoadDevice, bytes], None]


class Connections:
    """A connection a device. For one thread; what is heard of a commit goes to `on_ack` (device, payload)."""

    def __init__(self, broker: BrokerAddress, devices: Iterable[LoadDevice], on_ack: OnAck) -> None:
        self.tally = Tally()
        self._broker = broker
        self._selector = selectors.DefaultSelector()
        self._clients = [_Connection(device, broker, self._selector, self.tally, on_ack) for device in devices]
        self._by_name = {each.device.name: each for each in self._clients}
        self._upkeep_due = 0.0

    def open(self) -> None:
        """Connects all of them.

        Raises CannotStart where the broker can't be reached, refuses them, or leaves the last one waiting for long.
        """
        for each in self._clients:
            try:
                each.connect()
            except (OSError, ValueError) as exc:
                at = f"{self._broker.host}:{self._broker.port}"
                raise CannotStart(f"no broker at {at}: {str(exc) or type(exc).__name__}") from exc
        deadline = time.monotonic() + _CONNECT_SECONDS
        while not all(each.device.connected for each in self._clients):
            self.serve(0.1)
            if self.tally.refused:
                raise CannotStart(f"the broker refused a connection: {', '.join(self.tally.refused)}")
            if time.monotonic() > deadline:
                missing = sum(not each.device.connected for each in self._clients)
                raise CannotStart(f"{missing} of {len(self._clients)} connections were not answered in time")

    def publish(self, device: LoadDevice, message: Outgoing) -> None:
        """Sends it, as far as the device is connected: what is lost is not confirmed, and comes again."""
        self._by_name[device.name].publish(message)

    def serve(self, seconds: float) -> None:
        """Reads and writes for so long at most, and at least once what is possible now."""
        for key, events in self._selector.select(max(0.0, seconds)):
            connection: _Connection = key.data
            connection.work(events)
        now = time.monotonic()
        if now >= self._upkeep_due:
            self._upkeep_due = now + _UPKEEP_SECONDS
            for each in self._clients:
                each.look_after(now)

    def close(self) -> None:
        """Says goodbye on every connection."""
        for each in self._clients:
            each.client.disconnect()
        deadline = time.monotonic() + _GOODBYE_SECONDS
        while self._selector.get_map() and time.monotonic() < deadline:
            self.serve(0.1)
        self._selector.close()


class _Connection:
    """The client of one device."""

    def __init__(
        self,
        device: LoadDevice,
        broker: BrokerAddress,
        selector: selectors.BaseSelector,
        tally: Tally,
        on_ack: OnAck,
    ) -> None:
        self.device = device
        self._broker = broker
        self._selector = selector
        self._tally = tally
        self._on_ack = on_ack
        self._properties: dict[str, Properties] = {}
        self._reconnect_at: float | None = None
        self._socket: socket.socket | None = None
        self.client = client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"load-{device.name}", protocol=MQTTProtocolVersion.MQTTv5
        )
        client.max_inflight_messages_set(0)
        if broker.username is not None:
            client.username_pw_set(broker.username, broker.password)
        if broker.ca_file is not None:
            client.tls_set(ca_certs=broker.ca_file or None)
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        client.on_publish = self._published
        client.on_socket_open = self._opened
        client.on_socket_close = self._closed
        client.on_socket_register_write = lambda *_: self._watch(selectors.EVENT_READ | selectors.EVENT_WRITE)
        client.on_socket_unregister_write = lambda *_: self._watch(selectors.EVENT_READ)

    def connect(self) -> None:
        """Raises OSError."""
        self.client.connect(self._broker.host, self._broker.port, KEEPALIVE_SECONDS)

    def publish(self, message: Outgoing) -> None:
        if self.device.connected:
            self.client.publish(message.topic, message.payload, 1, properties=self._content_type(message.content_type))

    def work(self, events: int) -> None:
        if events & selectors.EVENT_READ:
            self.client.loop_read()
            while self._socket is not None and getattr(self._socket, "pending", lambda: 0)():  # read ahead by TLS
                self.client.loop_read()
        if events & selectors.EVENT_WRITE and self._socket is not None:
            self.client.loop_write()

    def look_after(self, now: float) -> None:
        self.client.loop_misc()
        if self._reconnect_at is not None and now >= self._reconnect_at:
            self._reconnect_at = now + _RECONNECT_SECONDS
            with contextlib.suppress(OSError):
                self.client.reconnect()

    def _content_type(self, name: str) -> Properties:
        if name not in self._properties:
            self._properties[name] = Properties(PacketTypes.PUBLISH)
            self._properties[name].ContentType = name
        return self._properties[name]

    def _connected(self, client: paho.Client, _data: object, _flags: object, reason: ReasonCode, _p: object) -> None:
        if reason.is_failure:
            self._tally.refuse(str(reason))
            return
        self._reconnect_at = None
        client.subscribe(self.device.ack_topic, 0)

    def _subscribed(
        self, _client: paho.Client, _data: object, _mid: int, reasons: list[ReasonCode], _p: object
    ) -> None:
        if reasons[0].is_failure:
            self._tally.refuse(str(reasons[0]))
        self.device.connected = not reasons[0].is_failure

    def _disconnected(self, *_: object) -> None:
        self.device.connected = False
        self._reconnect_at = time.monotonic() + _RECONNECT_SECONDS

    def _message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self._on_ack(self.device, bytes(message.payload))

    def _published(self, _client: paho.Client, _data: object, _mid: int, reason: ReasonCode, _p: object) -> None:
        if reason.is_failure:
            self._tally.refuse(str(reason))
        else:
            self._tally.acknowledged += 1

    def _opened(self, _client: paho.Client, _data: object, sock: Any) -> None:
        self._socket = sock
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, self)

    def _closed(self, _client: paho.Client, _data: object, sock: Any) -> None:
        self._socket = None
        self._selector.unregister(sock)

    def _watch(self, events: int) -> None:
        if self._socket is not None:
            self._selector.modify(self._socket, events, self)
