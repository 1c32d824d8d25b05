"""One connection to the broker after another, on paho-mqtt, with all of the client's work in one thread of ours.

paho's own thread would write each acknowledgement with a wake-up of its own, resend what we don't want resent, and
mix the packet ids of one connection with those of the next. Here each connection has a fresh client, other threads
only queue commands, and the thread does them in bulk. (Facts about paho that this rests on: `_packet_queue` writes
at once unless `on_socket_register_write` is set; `ack` does nothing unless `manual_ack` is on.)
"""

import logging
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from cloud_ingest.config import Broker
from cloud_ingest.errors import ConfigError
from cloud_ingest.message import Message

_LONGEST_WAIT_SECONDS: Final = 30.0
_FIRST_WAIT_SECONDS: Final = 0.5
_CONNECT_TIMEOUT_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Token:
    """Which packet of which connection: an acknowledgement never reaches another connection's packet."""

    client: paho.Client
    packet_id: int


class Connection:
    """Subscribes with QoS 1 and manual acknowledgement, and comes back by itself when the link breaks.

    Sessions end with the connection, unless `session_expiry_seconds` lets the broker keep what comes while this is
    away. All methods may be called from any thread and return at once.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        client_id: str,
        filters: Sequence[str],
        receiver: Callable[[Message, Token], None],
        receive_maximum: int = 65_535,
        on_subscribed: Callable[[], None] = lambda: None,
        session_expiry_seconds: int = 0,
    ) -> None:
        """`receiver` is called in the connection's thread with each message; it must return soon and not raise.

        `on_subscribed` is called there too, each time all filters are subscribed.

        Raises ConfigError where a password or certificate file can't be read.
        """
        self._broker = broker
        self._client_id = client_id
        self._filters = list(filters)
        self._receiver = receiver
        self._receive_maximum = receive_maximum
        self._on_subscribed = on_subscribed
        self._session_expiry_seconds = (
            session_expiry_seconds  # a broker of 3.1.1 keeps a session for as long as it likes
        )
        self._new_client()  # so that unreadable files are found now
        # Shared with other threads: the commands (a deque, whose ends are atomic) and the events.
        self._commands: deque[Callable[[paho.Client], object]] = deque()
        self._closing = threading.Event()
        self._unsubscribed = threading.Event()
        self.connected = threading.Event()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.settimeout(0)
        self._wake_writer.settimeout(0)
        self._thread = threading.Thread(target=self._run, name=f"mqtt {client_id}", daemon=True)
        self._reported_down = False

    def start(self) -> None:
        """Begins to connect."""
        self._thread.start()

    def acknowledge(self, tokens: Sequence[Token]) -> None:
        """Sends PUBACKs, in this order, for those tokens whose connection still stands."""

        def send(client: paho.Client) -> None:
            for token in tokens:
                if token.client is client and token.packet_id:  # a message with QoS 0 has none
                    client.ack(token.packet_id, 1)

        # Whether subscribed or not: a session that goes on brings messages before the subscription is confirmed
        self._commands.append(send)
        self._wake()

    def publish(self, topic: str, payload: bytes, content_type: str, *, retain: bool = False) -> None:
        """Publishes with QoS 0, or with 1 what the broker is to retain; dropped where there is no connection."""
        properties = None
        if self._broker.protocol == 5:  # noqa: PLR2004 - the protocol's name
            properties = Properties(PacketTypes.PUBLISH)
            properties.ContentType = content_type
        self._do(lambda client: client.publish(topic, payload, int(retain), retain, properties))

    def unsubscribe(self, timeout: float) -> None:
        """Asks for no more messages; returns once the broker agreed, the link is down, or after `timeout` seconds."""
        if not self.connected.is_set():
            return
        self._do(lambda client: client.unsubscribe(self._filters))
        self._unsubscribed.wait(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Sends what was asked for, disconnects and ends the thread."""
        self._closing.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._wake_reader.close()
        self._wake_writer.close()

    def _do(self, command: Callable[[paho.Client], object]) -> None:
        if self.connected.is_set():
            self._commands.append(command)
            self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # its buffer is full, so that the thread will wake anyway; or it is closed
            self._wake_writer.send(b"w")

    def _run(self) -> None:
        attempt = 0
        while not self._closing.is_set():
            try:
                client = self._new_client()
                client.connect(
                    self._broker.host,
                    self._broker.port,
                    self._broker.keepalive_seconds,
                    **self._connect_options(),
                )
                self._serve(client)
            except (OSError, ConfigError) as exc:  # refused, unreachable, unknown host, TLS failure, a file gone
                self._report_down(str(exc))
            if self.connected.is_set():
                attempt = 0
                self.connected.clear()
                self._unsubscribed.set()
            self._commands.clear()
            if not self._closing.is_set():
                # Full jitter: many clients that lost one broker don't come back at one moment.
                limit = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**attempt)
                self._closing.wait(random.uniform(0, limit))  # noqa: S311 - not a secret
                attempt = min(attempt + 1, 16)

    def _serve(self, client: paho.Client) -> None:
        """Works for one connection until it ends."""
        misc_due = time.monotonic() + 1
        while (sock := client.socket()) is not None:
            while self._commands:
                self._commands.popleft()(client)
            closing = self._closing.is_set()
            if closing:
                client.disconnect()
            pending = getattr(sock, "pending", lambda: 0)()  # bytes that TLS has read ahead of select
            writers = [sock] if client.want_write() else []
            timeout = 0.0 if pending else 1.0
            readable, writable, _ = select.select([sock, self._wake_reader], writers, [], timeout)
            if self._wake_reader in readable:
                self._drain_wakes()
            failed = MQTTErrorCode.MQTT_ERR_SUCCESS
            if pending or sock in readable:
                failed = client.loop_read()
            if not failed and writable:
                failed = client.loop_write()
            if not failed and time.monotonic() >= misc_due:
                misc_due = time.monotonic() + 1
                failed = client.loop_misc()
            if failed or (closing and not client.want_write()):
                return

    def _drain_wakes(self) -> None:
        with suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                pass

    def _new_client(self) -> paho.Client:
        version_5 = self._broker.protocol == 5  # noqa: PLR2004 - the protocol's name
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if version_5 else self._session_expiry_seconds == 0,
            protocol=MQTTProtocolVersion.MQTTv5 if version_5 else MQTTProtocolVersion.MQTTv311,
            manual_ack=True,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_SECONDS
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._broker.password())
        if self._broker.tls is not None:
            client.tls_set_context(self._broker.tls.context())
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = lambda *_: self._unsubscribed.set()
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_socket_register_write = lambda *_: None  # makes paho queue packets for our loop to write
        return client

    def _connect_options(self) -> dict[str, Any]:
        if self._broker.protocol != 5:  # noqa: PLR2004 - the protocol's name
            return {}
        properties = Properties(PacketTypes.CONNECT)
        properties.ReceiveMaximum = self._receive_maximum
        properties.SessionExpiryInterval = self._session_expiry_seconds
        return {"clean_start": self._session_expiry_seconds == 0, "properties": properties}

    def _on_connect(
        self, client: paho.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        if reason.is_failure:
            self._report_down(f"the broker refused: {reason}")
            return
        if self._broker.protocol == 5:  # noqa: PLR2004 - the protocol's name
            client.subscribe([(each, SubscribeOptions(qos=1)) for each in self._filters])
        else:
            client.subscribe([(each, 1) for each in self._filters])

    def _on_subscribe(
        self, client: paho.Client, _userdata: object, _packet_id: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        refused = [
            f"{each} ({reason})" for each, reason in zip(self._filters, reasons, strict=False) if reason.is_failure
        ]
        if refused:
            self._report_down(f"the broker refused the subscription to {', '.join(refused)}")
            client.disconnect()
            return
        log.info("connected to the broker at %s:%s", self._broker.host, self._broker.port)
        self._reported_down = False
        self._unsubscribed.clear()
        self.connected.set()
        self._on_subscribed()

    def _on_disconnect(
        self, _client: paho.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        if not self._closing.is_set() and self.connected.is_set():
            self._report_down(f"connection ended: {reason}")

    def _on_message(self, client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        content_type = getattr(message.properties, "ContentType", None)
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = repr(message._topic)  # noqa: SLF001 - the only way to the bytes of a topic that is not UTF-8
        self._receiver(Message(topic, bytes(message.payload), content_type, message.retain), Token(client, message.mid))

    def _report_down(self, why: str) -> None:
        """One line a change of state, not one an attempt."""
        if not self._reported_down:
            log.warning("no broker at %s:%s: %s; trying again", self._broker.host, self._broker.port, why)
        self._reported_down = True
