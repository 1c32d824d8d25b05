"""A TCP connection, plain or encrypted, that never blocks, and the buffer that it reads into."""

import select
import socket
import ssl
import time
from contextlib import suppress
from typing import Final

from cloud_ingest.config import Broker

_CONNECT_TIMEOUT_SECONDS: Final = 5.0
_USUAL_BUFFER_BYTES: Final = 256 * 1024

_WOULD_BLOCK: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class ReceiveBuffer:
    """Bytes that came and are not yet used, in one piece, so that packets are read where they lie.

    It is as large as its content needs: a packet that does not fit doubles it, and once empty it has its usual size.
    """

    def __init__(self, usual_bytes: int = _USUAL_BUFFER_BYTES) -> None:
        self._usual_bytes = usual_bytes
        self._memory = memoryview(bytearray(usual_bytes))
        self._filled = 0

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._filled == len(self._memory):
            larger = memoryview(bytearray(2 * len(self._memory)))
            larger[: self._filled] = self._memory
            self._memory = larger
        return self._memory[self._filled :]

    def add(self, count: int) -> None:
        """So many bytes were put into `room`."""
        self._filled += count

    def content(self) -> memoryview:
        """The bytes that are not used; valid until the next call of another method."""
        return self._memory[: self._filled]

    def use(self, count: int) -> None:
        """Forgets so many bytes at the beginning."""
        rest = self._filled - count
        if count and rest:
            self._memory[:rest] = bytes(self._memory[count : self._filled])
        elif not rest and len(self._memory) > self._usual_bytes:
            self._memory = memoryview(bytearray(self._usual_bytes))
        self._filled = rest


class Transport:
    """A connection to the broker. Used by one thread; raises OSError where it fails or has ended."""

    def __init__(self, broker: Broker) -> None:
        """Connects within a few seconds. Raises OSError, or ConfigError where a certificate file can't be read."""
        context = None if broker.tls is None else broker.tls.context()
        self._socket = socket.create_connection((broker.host, broker.port), _CONNECT_TIMEOUT_SECONDS)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self._socket = context.wrap_socket(self._socket, server_hostname=broker.host)
            self._socket.settimeout(0)
        except BaseException:
            self._socket.close()
            raise
        self._unsent = bytearray()

    @property
    def unsent(self) -> int:
        """How many bytes wait to be taken by the other side."""
        return len(self._unsent)

    def wait(self, wake: socket.socket, timeout: float, *, reading: bool) -> bool:
        """Until there may be something to read (if `reading`) or to send, until `wake` can be read, or `timeout`.

        Whether `wake` can be read.
        """
        if reading and isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            timeout = 0.0  # bytes that were read and decrypted already make no socket readable
        readers = [wake, self._socket] if reading else [wake]
        readable, _, _ = select.select(readers, [self._socket] if self._unsent else [], [], timeout)
        return wake in readable

    def receive(self, buffer: ReceiveBuffer) -> int:
        """Puts what is there, or a good part of it, into `buffer`; how many bytes that was."""
        total = 0
        room = buffer.room()
        try:
            while total < len(room):  # more than once only where encryption cuts the stream into small records
                count = self._socket.recv_into(room[total:])
                if not count and not total:
                    raise ConnectionResetError("the broker closed the connection")
                if not count:
                    break
                total += count
        except _WOULD_BLOCK:
            pass
        buffer.add(total)
        return total

    def send(self, data: bytes = b"") -> None:
        """Sends as much as can be sent now of what waits and of `data`; the rest waits for the next call."""
        self._unsent += data
        with suppress(*_WOULD_BLOCK):
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]

    def close(self) -> None:
        """Ends the connection at once; what waits is not sent."""
        self._socket.close()

    def finish(self, timeout: float) -> None:
        """Ends the connection when the other side has taken all, or after `timeout` seconds.

        Closing with bytes that came and were not read would reset the connection, and the other side might never see
        the last that was sent: so this reads on until the other side closes.
        """
        deadline = time.monotonic() + timeout
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(self._unsent)
            self._socket.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(_USUAL_BUFFER_BYTES):
                    break
        except OSError:
            pass  # the other side went first
        finally:
            self._socket.close()
