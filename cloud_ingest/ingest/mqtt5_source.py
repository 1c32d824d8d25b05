"""The source that speaks MQTT 5 on a socket of its own: the fast one.

One thread has the connection. It hands over what came in one piece each time it reads, and what other threads want
sent it sends in one piece too, so that a message costs microseconds and no switch between threads.
"""

import logging
import os
import queue
import random
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import Final, NamedTuple

from cloud_ingest.config import Config
from cloud_ingest.errors import ConfigError
from cloud_ingest.ingest import mqtt5
from cloud_ingest.ingest.link_report import LinkReport
from cloud_ingest.ingest.session import Ended, Phase, Session, Terms
from cloud_ingest.ingest.source import Received
from cloud_ingest.ingest.transport import ReceiveBuffer, Transport
from cloud_ingest.message import Message
from telemetry_contract.topics import Kind, topic_filter

_LONGEST_WAIT_SECONDS: Final = 30.0
_FIRST_WAIT_SECONDS: Final = 0.5
_FINISH_SECONDS: Final = 2.0

# Bytes that may wait to be received before no more are read, whatever the number of messages.
_MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
# Larger than any message that is stored, so that the cause of a refusal can be seen in `rejected`.
_MAX_PACKET_FACTOR: Final = 4

log = logging.getLogger(__name__)


class Token(NamedTuple):
    """Which packet of which connection: an acknowledgement never reaches another connection's packet."""

    connection: int
    packet_id: int  # 0: needs no acknowledgement


class _Arrival(NamedTuple):
    """What one reading of the socket brought."""

    received: list[Received]
    bytes: int


class Mqtt5Source:
    """Messages of some kinds of every device; a member of the shared subscription where there is a group.

    Sessions end with the connection: our own agents resend until the commit ack, so nothing is stranded in a broker
    for a client that does not return.

    Shared between the thread and its users, all without a lock: `_arrived` and `_outgoing`, a queue and a deque with
    one direction each; `_connection` (the number of the connection that is subscribed now, or 0),
    `_max_publish_bytes` and `_paused`, written by the thread; `_arrived_bytes` and `_taken_bytes`, counters with one
    writer each; the events.
    """

    def __init__(
        self,
        config: Config,
        kinds: Sequence[Kind] = (Kind.SAMPLES, Kind.BACKLOG),
        *,
        receive_maximum: int | None = None,
        connections: Iterator[int] | None = None,
        announce: Callable[[], None] = lambda: None,
        report: LinkReport | None = None,
    ) -> None:
        """`receive_maximum` is the configuration's unless given, `connections` gives each connection its number.

        Sources that share the latter never take one's token for the other's. `announce` is called, in the thread,
        whenever there is something to receive; `report` is told of the connection.

        Raises ConfigError where a password or certificate file can't be read.
        """
        self._broker = config.broker
        self._filters = [topic_filter(kind, group=config.ingest.group) for kind in kinds]
        self._receive_maximum = receive_maximum or config.ingest.receive_maximum
        self._numbers = count(1) if connections is None else connections
        self._announce = announce
        self._report = report or LinkReport(address(config))
        self._max_packet_bytes = min(_MAX_PACKET_FACTOR * config.ingest.max_message_bytes, mqtt5.MAX_PACKET_BYTES)
        self._client_id = f"cloud-ingest-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._terms()  # so that unreadable files are found now
        if self._broker.tls is not None:
            self._broker.tls.context()
        self._arrived: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        self._outgoing: deque[tuple[int, bytes]] = deque()
        self._rest: list[Received] = []
        self._present = 0  # the number of the connection that is there or being made; the thread's
        self._connection = 0
        self._max_publish_bytes = 0
        self._arrived_bytes = self._taken_bytes = 0
        self._paused = False
        self._leaving = threading.Event()
        self._left = threading.Event()
        self._closing = threading.Event()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.settimeout(0)
        self._wake_writer.settimeout(0)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    @property
    def is_connected(self) -> bool:
        """Whether it is subscribed now."""
        return self._connection > 0

    def start(self) -> None:
        """See Source."""
        self._thread.start()

    def receive(self, max_messages: int, timeout: float) -> list[Received]:
        """See Source."""
        received = self._rest
        try:
            if not received:
                received = self._take(max(timeout, 0.0))
            while len(received) < max_messages:
                received += self._take(None)
        except queue.Empty:
            pass
        received, self._rest = received[:max_messages], received[max_messages:]
        return received

    def acknowledge(self, received: Sequence[Received]) -> None:
        """See Source."""
        tokens = [each.token for each in received if isinstance(each.token, Token)]
        connection = self._connection
        packets = mqtt5.pubacks(it.packet_id for it in tokens if it.connection == connection and it.packet_id)
        self._send(connection, packets)

    def publish(self, topic: str, payload: bytes, content_type: str) -> None:
        """See Source. Dropped too where it is larger than the broker takes."""
        packet = mqtt5.publish(topic, payload, content_type)
        if len(packet) <= self._max_publish_bytes:
            self._send(self._connection, packet)

    def leave(self, timeout: float) -> None:
        """See Source."""
        self._leaving.set()
        self._wake()
        if self.is_connected:
            self._left.wait(timeout)

    def close(self) -> None:
        """See Source."""
        self._closing.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(2 * _FINISH_SECONDS)
        self._wake_reader.close()
        self._wake_writer.close()

    def _take(self, timeout: float | None) -> list[Received]:
        """The oldest arrival; raises queue.Empty. None does not wait."""
        arrival = self._arrived.get(block=timeout is not None, timeout=timeout)
        self._taken_bytes += arrival.bytes
        if self._paused and not self._is_full():
            self._wake()
        return arrival.received

    def _may_read(self) -> bool:
        """Whether there is room for more; where not, whoever makes room wakes the thread."""
        self._paused = self._is_full()
        return not (self._paused and self._is_full())  # asked again: room made before `_paused` was seen wakes nobody

    def _is_full(self) -> bool:
        return self._arrived_bytes - self._taken_bytes >= _MAX_WAITING_BYTES

    def _send(self, connection: int, data: bytes) -> None:
        if connection and data:
            self._outgoing.append((connection, data))
            if len(self._outgoing) <= 1:  # else the thread has not yet taken what it was woken for, and takes all
                self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # its buffer is full, so that the thread will wake anyway; or it is closed
            self._wake_writer.send(b"w")

    def _run(self) -> None:
        attempt = 0
        while not self._closing.is_set() and not self._leaving.is_set():
            self._present = next(self._numbers)
            try:
                self._connect_and_serve()
            except (OSError, ConfigError, Ended) as exc:
                if not self._closing.is_set():
                    self._report.down(self, str(exc))
            except Exception:
                log.exception("a defect ended the connection to the broker")
            if self._connection:
                self._connection = 0
                attempt = 0
            self._left.set()
            # Full jitter: many clients that lost one broker don't come back at one moment.
            limit = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**attempt)
            self._closing.wait(random.uniform(0, limit))  # noqa: S311 - not a secret
            attempt = min(attempt + 1, 16)

    def _connect_and_serve(self) -> None:
        """One connection from its beginning to its end. Raises OSError, ConfigError or Ended unless it was `close`."""
        terms = self._terms()
        transport = Transport(self._broker)
        try:
            self._serve(transport, Session(terms, time.monotonic()))
        except Ended as exc:
            transport.send(exc.goodbye)
            raise
        finally:
            transport.close()

    def _serve(self, transport: Transport, session: Session) -> None:
        buffer = ReceiveBuffer()
        while True:
            closing = self._closing.is_set()
            listening = self._may_read()
            now = time.monotonic()
            if self._leaving.is_set() and session.phase is Phase.SUBSCRIBED:
                session.unsubscribe()
            session.keep_alive(now, listening=listening)
            transport.send(session.outgoing() + self._collect(session, now))
            if closing:
                transport.send(mqtt5.disconnect())
                transport.finish(_FINISH_SECONDS)
                return
            if transport.wait(self._wake_reader, session.wait_seconds(now), reading=listening):
                self._drain_wakes()
            if listening and transport.receive(buffer):
                messages, used = session.receive(buffer.content(), time.monotonic())
                buffer.use(used)
                self._note_phase(session)
                self._deliver(messages, used)

    def _collect(self, session: Session, now: float) -> bytes:
        """What others want sent on this connection."""
        parts = []
        while self._outgoing:
            connection, data = self._outgoing.popleft()
            if connection == self._present:
                parts.append(data)
        if parts:
            session.note_sent(now)
        return b"".join(parts)

    def _note_phase(self, session: Session) -> None:
        if session.phase is Phase.SUBSCRIBED and not self._connection:
            self._report.up(self)
            self._left.clear()
            self._max_publish_bytes = session.max_publish_bytes
            self._connection = self._present
        elif session.phase is Phase.UNSUBSCRIBED:
            self._left.set()

    def _deliver(self, messages: list[tuple[Message, int]], size: int) -> None:
        if messages:
            connection = self._present
            self._arrived_bytes += size
            self._arrived.put(_Arrival([Received(message, Token(connection, it)) for message, it in messages], size))
            self._announce()

    def _drain_wakes(self) -> None:
        with suppress(BlockingIOError):
            while self._wake_reader.recv(4_096):
                pass

    def _terms(self) -> Terms:
        return Terms(
            client_id=self._client_id,
            username=self._broker.username,
            password=self._broker.password(),
            filters=self._filters,
            keepalive_seconds=self._broker.keepalive_seconds,
            receive_maximum=self._receive_maximum,
            max_packet_bytes=self._max_packet_bytes,
        )


def address(config: Config) -> str:
    """Where the broker is, for people."""
    return f"{config.broker.host}:{config.broker.port}"
