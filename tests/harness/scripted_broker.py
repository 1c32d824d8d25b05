"""A broker that does what a test tells it to, also what no broker should."""

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import BinaryIO, Self

from harness.wait import until

CONNECT, PUBACK, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT = 0x10, 0x40, 0x82, 0xA2, 0xC0, 0xE0


def packet(first_byte: int, body: bytes) -> bytes:
    """Any packet: MQTT 5, section 2.1."""
    return bytes([first_byte]) + _length(len(body)) + body


def publish(topic: bytes, payload: bytes, packet_id: int, properties: bytes = b"") -> bytes:
    """A PUBLISH with QoS 1, its topic and properties as they are: MQTT 5, section 3.3."""
    head = struct.pack(">H", len(topic)) + topic + struct.pack(">H", packet_id)
    return packet(0x32, head + _length(len(properties)) + properties + payload)


class ScriptedBroker:
    """Speaks MQTT 5 to one client at a time while entered, and keeps what it was sent.

    It accepts connections and subscriptions with the reason codes `connack` and `suback`, and answers pings unless
    told not to.
    """

    host = "127.0.0.1"

    def __init__(self, *, connack: int = 0, suback: int = 1, answer_pings: bool = True) -> None:
        self.connack = connack
        self.suback = suback
        self.answer_pings = answer_pings
        self.connections = 0
        # What the client of the latest connection sent: first byte and body of each packet.
        self.packets: list[tuple[int, bytes]] = []
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._client: socket.socket | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="scripted broker", daemon=True)

    def send(self, data: bytes) -> None:
        """Send these bytes to the client that is connected."""
        assert self._client is not None, "nobody is connected"
        self._client.sendall(data)

    def bodies(self, first_byte: int) -> list[bytes]:
        """The bodies of the packets of one kind that the client of the latest connection sent."""
        return [body for first, body in list(self.packets) if first == first_byte]

    def wait_for(self, first_byte: int, count: int = 1, timeout: float = 10) -> list[bytes]:
        """The bodies of these packets, once there are so many."""
        until(lambda: len(self.bodies(first_byte)) >= count, timeout, f"{count} packets of kind 0x{first_byte:02x}")
        return self.bodies(first_byte)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._drop()
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while not self._ending:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.packets = []
            self.connections += 1
            self._client = client
            with client, contextlib.suppress(OSError, EOFError), client.makefile("rb") as stream:
                self._serve(client, stream)

    def _drop(self) -> None:
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)

    def _serve(self, client: socket.socket, stream: BinaryIO) -> None:
        while True:
            first, body = _read_packet(stream)
            self.packets.append((first, body))
            if first == CONNECT:
                client.sendall(packet(0x20, bytes([0, self.connack, 0])))
            elif first == SUBSCRIBE:
                client.sendall(packet(0x90, body[:2] + b"\x00" + bytes([self.suback]) * _filters(body, option_bytes=1)))
            elif first == UNSUBSCRIBE:
                client.sendall(packet(0xB0, body[:2] + b"\x00" + bytes(_filters(body, option_bytes=0))))
            elif first == PINGREQ and self.answer_pings:
                client.sendall(packet(0xD0, b""))
            elif first == DISCONNECT:
                return


def _length(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, digit = divmod(value, 128)
        encoded.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def _read_packet(stream: BinaryIO) -> tuple[int, bytes]:
    first = _exactly(stream, 1)[0]
    length = shift = 0
    while True:
        digit = _exactly(stream, 1)[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if digit < 0x80:
            return first, _exactly(stream, length)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _filters(body: bytes, *, option_bytes: int) -> int:
    """How many topic filters a SUBSCRIBE or UNSUBSCRIBE has."""
    at = 3 + body[2]
    count = 0
    while at < len(body):
        at += 2 + int.from_bytes(body[at : at + 2], "big") + option_bytes
        count += 1
    return count
