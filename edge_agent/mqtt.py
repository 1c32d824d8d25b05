"""The link to the broker, on paho-mqtt: it comes back by itself, and tells what happens as events.

Each connection has a fresh paho client, run by one thread of ours through paho's interface for external loops. So
nothing of an earlier connection is sent again behind the window's back, packet ids of two connections never mix, and
password and certificate files are read anew each time; changed certificates end a connection that goes on. (Facts about
paho 2 that this rests on: `publish` may be called from any thread; it only queues, never writes, while
`on_socket_register_write` is set; with a maximum of 0 in-flight messages it never holds one back.)
"""

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.config import Broker
from edge_agent.errors import ConfigError
from edge_agent.window import full_jitter

SESSION_EXPIRY_SECONDS: Final = 3_600
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0
CONNECT_TIMEOUT_SECONDS: Final = 10.0
_STABLE_SECONDS: Final = 10.0
_SUSPICIOUS_CONNECTIONS: Final = 4
# How often certificate files are looked at, and in which part of a keepalive whether paho is to ping.
_LOOK_SECONDS: Final = 1.0
_LOOK_KEEPALIVES: Final = 1 / 8
# paho pings after one keepalive without a packet. No answer for another half of one: nobody is there any more.
_SILENT_KEEPALIVES: Final = 1.5
_GOODBYE_SECONDS: Final = 2.0
_MQTT_5: Final = 5
_NO_LIMIT: Final = 65_535  # MQTT 5, section 3.2.2.3.3: the receive maximum where the broker names none

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Connected:
    """Publishing is possible; the numbers are what the broker allows."""

    connection: int
    receive_maximum: int
    maximum_packet_bytes: int | None


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The end of a connection that was told as Connected."""

    connection: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The PUBACK of a message; `failure` is its reason code where the broker did not take it."""

    connection: int
    packet_id: int
    failure: ReasonCode | None


@dataclass(frozen=True, slots=True)
class Received:
    """A message of a subscription; `retained` where the broker had kept it for who subscribes."""

    topic: str
    payload: bytes
    retained: bool = False


Event = Connected | Disconnected | Acknowledged | Received


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained and with QoS 1, when the connection is lost."""

    topic: str
    payload: bytes


class Link:
    """A connection to the broker, and after it the next, with full-jitter pauses between attempts.

    `listener` is called with each event in the link's thread: it must return at once and not raise. All methods may
    be called from any thread. `subscriptions` are made with QoS 0, those `at_least_once` with 1.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        client_id: str,
        will: Will | None = None,
        subscriptions: Sequence[str],
        at_least_once: Sequence[str] = (),
        listener: Callable[[Event], None],
        pause: Callable[[float], float] = full_jitter,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._will = will
        self._subscriptions = [*((topic, 0) for topic in subscriptions), *((topic, 1) for topic in at_least_once)]
        self._listener = listener
        self._pause = pause
        self._address = f"{broker.host}:{broker.port}"
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        # Shared between threads. `_ready` is replaced as a whole; the rest are flags.
        self._ready: tuple[int, paho.Client] | None = None
        self._closing = threading.Event()
        self._dropping = threading.Event()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.settimeout(0)
        self._wake_writer.settimeout(0)
        # The thread's own.
        self._connection = 0
        self._short_connections = 0
        self._refused = False
        self._heard_at = 0.0
        self._tls_state: tuple[tuple[int, ...] | None, ...] = ()  # of the files that the present connection uses
        self._tls_refused: tuple[tuple[int, ...] | None, ...] = ()
        self._told: set[str] = set()  # why there is no connection, as far as it was logged

    def start(self) -> None:
        """Begins to connect."""
        self._thread.start()

    def set_will(self, will: Will) -> None:
        """The last will from the next connection on."""
        self._will = will

    def publish(
        self, connection: int, topic: str, payload: bytes, *, retain: bool = False, content_type: str | None = None
    ) -> int | None:
        """Sends a message with QoS 1; its packet id, or None where this connection has ended.

        Returns at once; whoever publishes bounds how much is on its way.
        """
        ready = self._ready
        if ready is None or ready[0] != connection:
            return None
        info = ready[1].publish(topic, payload, 1, retain, self._publish_properties(content_type))
        self._wake()
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def drop(self) -> None:
        """Gives the present connection up, for the next one."""
        self._dropping.set()
        self._wake()

    def close(self, timeout_seconds: float = 2 * _GOODBYE_SECONDS) -> None:
        """Disconnects, so that the broker does not publish the last will, and ends the thread."""
        self._closing.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        if not self._thread.is_alive():  # else it hangs in the resolver, and may still use them
            self._wake_reader.close()
            self._wake_writer.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: the thread wakes anyway; closed: it has ended
            self._wake_writer.send(b"w")

    def _run(self) -> None:
        attempt = 0
        while not self._closing.is_set():
            self._connection += 1
            began = time.monotonic()
            try:
                client = self._new_client()
                client.connect(
                    self._broker.host, self._broker.port, self._broker.keepalive_seconds, **self._connect_options()
                )
                self._serve(client)
            except (OSError, ConfigError, ValueError) as exc:  # ValueError: a host name that can't be one
                self._report_down(str(exc) or type(exc).__name__)
            stable = time.monotonic() - began >= _STABLE_SECONDS
            self._end_connection(stable=stable)
            attempt = 0 if stable else attempt + 1
            longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(max(0, attempt - 1), 16))
            self._closing.wait(self._pause(longest))

    def _serve(self, client: paho.Client) -> None:
        """Works for one connection until it ends."""
        self._dropping.clear()
        self._refused = False
        closing_until = None
        self._heard_at = time.monotonic()
        look_seconds = _LOOK_KEEPALIVES * self._broker.keepalive_seconds
        if self._broker.tls is not None:
            look_seconds = min(look_seconds, _LOOK_SECONDS)
        look_due = self._heard_at + look_seconds
        while (sock := client.socket()) is not None:
            now = time.monotonic()
            if closing_until is None and (self._closing.is_set() or self._dropping.is_set()):
                client.disconnect()
                closing_until = now + _GOODBYE_SECONDS
            if closing_until is not None and now >= closing_until:
                sock.close()
                return
            due = min(look_due, self._silent_at, closing_until or look_due)
            failed = self._step(client, sock, max(0.0, due - now))
            now = time.monotonic()
            if not failed and now >= look_due:
                look_due = now + look_seconds
                failed = client.loop_misc()
                self._renew_certificates()
            if failed or self._is_silent(now):
                return

    @property
    def _silent_at(self) -> float:
        """When the other end will have been silent for too long."""
        return self._heard_at + _SILENT_KEEPALIVES * self._broker.keepalive_seconds

    def _is_silent(self, now: float) -> bool:
        """Whether the other end has been silent for too long; then it says so."""
        silent = now >= self._silent_at
        if silent:
            self._report_down(f"it has been silent for {_SILENT_KEEPALIVES:g} keepalives")
        return silent

    def _renew_certificates(self) -> None:
        """Gives the connection up for one with the files that are there now, as soon as these can be used."""
        if self._broker.tls is None or self._dropping.is_set() or self._ready is None:
            return
        state = self._broker.tls.state()
        if state == self._tls_state:
            return
        try:
            self._broker.tls.context()
        except ConfigError as exc:  # perhaps only one of two is written yet
            if state != self._tls_refused:
                log.warning("%s; the connection stays as it is", exc)
            self._tls_refused = state
            return
        log.info("the files of broker.tls have changed: connecting anew")
        self._dropping.set()

    def _step(self, client: paho.Client, sock: Any, timeout_seconds: float) -> MQTTErrorCode:
        """Waits for the socket or for other threads, so long at most, then reads and writes what is possible."""
        pending = getattr(sock, "pending", lambda: 0)() > 0  # what TLS has read ahead of select
        writers = [sock] if client.want_write() else []
        readable, writable, _ = select.select(
            [sock, self._wake_reader], writers, [], 0.0 if pending else timeout_seconds
        )
        if self._wake_reader in readable:
            with contextlib.suppress(BlockingIOError):
                self._wake_reader.recv(65_536)
        failed = MQTTErrorCode.MQTT_ERR_SUCCESS
        if pending or sock in readable:
            self._heard_at = time.monotonic()
            failed = client.loop_read()
        if not failed and (writable or client.want_write()):
            failed = client.loop_write()
        return failed

    def _end_connection(self, *, stable: bool) -> None:
        ready, self._ready = self._ready, None
        if ready is None:
            return
        self._listener(Disconnected(ready[0]))
        self._short_connections = 0 if stable or self._closing.is_set() else self._short_connections + 1
        if self._short_connections == _SUSPICIOUS_CONNECTIONS:
            log.error(
                "the broker at %s ends one connection after another: does another client use the client id %s,"
                " because a device id is used twice?",
                self._address,
                self._client_id,
            )

    def _new_client(self) -> paho.Client:
        version_5 = self._broker.protocol == _MQTT_5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if version_5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if version_5 else MQTTProtocolVersion.MQTTv311,
        )
        client.connect_timeout = CONNECT_TIMEOUT_SECONDS
        client.max_inflight_messages_set(0)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._broker.password())
        if self._broker.tls is not None:
            self._tls_state = self._broker.tls.state()
            client.tls_set_context(self._broker.tls.context())
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_socket_open = _without_delay
        client.on_socket_register_write = lambda *_: None
        return client

    def _connect_options(self) -> dict[str, Any]:
        if self._broker.protocol != _MQTT_5:
            return {}
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = SESSION_EXPIRY_SECONDS
        return {"clean_start": False, "properties": properties}

    def _publish_properties(self, content_type: str | None) -> Properties | None:
        if content_type is None or self._broker.protocol != _MQTT_5:
            return None
        properties = Properties(PacketTypes.PUBLISH)
        properties.ContentType = content_type
        return properties

    def _on_connect(
        self, client: paho.Client, _userdata: object, _flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._report_down(f"it refused the connection: {reason}")
            self._refused = True
            return
        log.info("connected to the broker at %s", self._address)
        self._told.clear()
        client.subscribe(self._subscriptions)
        self._ready = (self._connection, client)
        self._listener(
            Connected(
                self._connection,
                getattr(properties, "ReceiveMaximum", _NO_LIMIT),
                getattr(properties, "MaximumPacketSize", None),
            )
        )

    def _on_subscribe(
        self, _client: paho.Client, _userdata: object, _packet_id: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        for (topic, _), reason in zip(self._subscriptions, reasons, strict=False):
            if reason.is_failure:
                log.error("the broker at %s refused the subscription to %s: %s", self._address, topic, reason)

    def _on_disconnect(
        self, _client: paho.Client, _userdata: object, flags: Any, reason: ReasonCode, _properties: object
    ) -> None:
        if self._closing.is_set() or self._refused:
            return
        if self._ready is None and not flags.is_disconnect_packet_from_server:
            hint = "" if self._broker.protocol != _MQTT_5 else "; does it speak MQTT 5? (else broker.protocol: 3.1.1)"
            self._report_down(f"it closed the connection before it answered{hint}")
        elif flags.is_disconnect_packet_from_server:
            self._report_down(f"it ended the connection: {reason}")
        else:
            self._report_down("the connection was lost")

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        with contextlib.suppress(UnicodeDecodeError):  # a topic that is not UTF-8 is none of ours
            self._listener(Received(message.topic, bytes(message.payload), message.retain))

    def _on_publish(
        self, _client: paho.Client, _userdata: object, packet_id: int, reason: ReasonCode, _properties: object
    ) -> None:
        self._listener(Acknowledged(self._connection, packet_id, reason if reason.is_failure else None))

    def _report_down(self, why: str) -> None:
        """One line for each reason, not for each attempt."""
        if why not in self._told:
            self._told.add(why)
            log.warning("no broker at %s: %s; trying again", self._address, why)


def _without_delay(_client: paho.Client, _userdata: object, sock: Any) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
