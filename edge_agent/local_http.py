"""A small HTTP server for this machine and its neighbours, which can't be made to take much of anything.

One request a connection, few connections at a time, each with a deadline, and bounds on the sizes of head and body.
What is answered is decided by a function of the request, which knows nothing of sockets.
"""

import contextlib
import logging
import math
import selectors
import socket
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from socketserver import TCPServer
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

from edge_agent.address import Address, is_loopback
from edge_agent.errors import ConfigError

MAX_CONNECTIONS: Final = 8
MAX_HEAD_BYTES: Final = 16_384
DEADLINE_SECONDS: Final = 10.0
_HEAR_OUT_SECONDS: Final = 1.0
_HEAR_OUT_BYTES: Final = 262_144
_BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_GZIP: Final = 16 + zlib.MAX_WBITS

TEXT: Final = "text/plain; charset=utf-8"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What was asked for. `path` is without the query; of a query parameter given twice the later counts."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: Message = field(default_factory=Message)
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    """The answer. `headers` are those beside type and length."""

    status: HTTPStatus
    body: str
    content_type: str = TEXT
    headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[Request], Response]


@dataclass(frozen=True)
class Bounds:
    """How much a server takes, and how long it waits for it."""

    connections: int = MAX_CONNECTIONS
    deadline_seconds: float = DEADLINE_SECONDS
    body_bytes: int = 0


class LocalServer:
    """Answers requests in threads of its own from `start` until `close`.

    While it listens on loopback it refuses requests for another host name: a page of any website can point its own
    name at 127.0.0.1 (DNS rebinding). `answer` is called from several threads at once.
    """

    def __init__(self, key: str, listen: Address, answer: Answer, bounds: Bounds = Bounds()) -> None:
        """Begins to listen. Raises ConfigError, which names `key`, where that is not possible."""
        try:
            self._server = _Server(listen, answer, bounds)
        except OSError as exc:
            raise ConfigError(f"{key} {listen}: {exc.strerror or exc}; choose another address") from exc
        except UnicodeError as exc:
            raise ConfigError(f"{key} {listen}: not a host name") from exc
        self._thread = threading.Thread(target=self._server.serve, name=f"http {key}", daemon=True)

    @property
    def address(self) -> Address:
        """Where it listens, with the port that it got."""
        host, port = self._server.server_address[:2]
        return Address(str(host), port)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Listen no more, and cut off who is still connected; also a second time."""
        if self._thread.is_alive():
            self._server.end()
            self._thread.join()
        self._server.server_close()
        self._server.cut_off(all_of_them=True)


class _Server(ThreadingHTTPServer):
    """Sleeps until there is something to do, where the base class would look for the order to end twice a second."""

    timeout = 0  # `handle_request` is called when there is one
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, listen: Address, answer: Answer, bounds: Bounds) -> None:
        self.answer = answer
        self.bounds = bounds
        self.only_for_this_machine = listen.is_loopback
        self._lock = threading.Lock()  # guards _deadlines
        self._deadlines: dict[socket.socket, float] = {}
        self._ending = threading.Event()
        (self.address_family, *_, address), *_ = socket.getaddrinfo(*listen, type=socket.SOCK_STREAM)
        self._wake_reader, self._wake_writer = socket.socketpair()
        super().__init__(cast("tuple[str, int]", address), _Handler)  # which calls `server_close` where it fails

    def server_bind(self) -> None:
        """Without the base class's question for the full host name, which may hang where there is no network."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve it in a thread, or turn it away."""
        with self._lock:
            busy = len(self._deadlines) >= self.bounds.connections
            if not busy:
                self._deadlines[request] = time.monotonic() + self.bounds.deadline_seconds
        if not busy:
            super().process_request(request, client_address)
            return
        request.settimeout(0)
        with contextlib.suppress(OSError):
            request.send(_BUSY)
        self.shutdown_request(request)

    def serve(self) -> None:
        """Take connections, and cut off each whose deadline comes, until `end`."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while not self._ending.is_set():
                if any(key.fileobj is self for key, _ in selector.select(self._seconds_left())):
                    self.handle_request()
                self.cut_off()

    def end(self) -> None:
        self._ending.set()
        self._wake_writer.send(b"e")

    def server_close(self) -> None:
        super().server_close()
        self._wake_reader.close()
        self._wake_writer.close()

    def cut_off(self, *, all_of_them: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            for connection, deadline in self._deadlines.items():
                if all_of_them or now >= deadline:
                    _shut(connection)
                    self._deadlines[connection] = math.inf

    def _seconds_left(self) -> float | None:
        """Until the next deadline, if there is one."""
        with self._lock:
            first = min(self._deadlines.values(), default=math.inf)
        return None if first == math.inf else max(0.0, first - time.monotonic())

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """The client is gone, or was cut off."""
        log.debug("a connection from %s ended early", client_address[0])


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.bounds.deadline_seconds)
        self._unread = self.rfile
        self.rfile = cast("Any", _Head(self._unread, MAX_HEAD_BYTES))
        self._heard_out = False

    def finish(self) -> None:
        """Hear out, within reason, who was refused while sending: else it is cut off and never sees the answer."""
        super().finish()
        if not self._heard_out:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_HEAR_OUT_SECONDS)
            left = _HEAR_OUT_BYTES
            while left > 0 and (piece := self.connection.recv(min(left, MAX_HEAD_BYTES))):
                left -= len(piece)

    def do_GET(self) -> None:
        """And what else there is to answer."""
        try:
            response = self._answered()
        except _Refused as refused:
            response = refused.response
        self._send(response)

    do_HEAD = do_POST = do_GET  # noqa: N815 - what the base class looks for

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What the base class finds wrong with the head."""
        status = HTTPStatus(code)
        self._send(Response(status, f"{message or status.phrase}\n"))

    def version_string(self) -> str:
        """Who answers, and no more of it."""
        return "edge-agent"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: who reads what is no news."""

    def _answered(self) -> Response:
        if self.server.only_for_this_machine and not _names_this_machine(self.headers.get_all("Host", [])):
            raise _Refused(HTTPStatus.FORBIDDEN, "the Host header must name this machine (localhost, 127.0.0.1)")
        split = urlsplit(self.path)
        request = Request(
            self.command, split.path, dict(parse_qsl(split.query, keep_blank_values=True)), self.headers, self._body()
        )
        try:
            return self.server.answer(request)
        except Exception:
            log.exception("an error of this program while answering %s", split.path)
            return Response(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of this program; its log has more\n")

    def _body(self) -> bytes:
        """Raises _Refused."""
        limit = self.server.bounds.body_bytes
        if "Transfer-Encoding" in self.headers:
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "a body must come with a Content-Length, not in chunks")
        text = self.headers.get("Content-Length")
        if text is None:
            if self.command == "POST":
                raise _Refused(HTTPStatus.LENGTH_REQUIRED, "a body must come with a Content-Length")
            self._heard_out = True
            return b""
        if not (text.isascii() and text.isdigit()) or len(text) > 18:  # noqa: PLR2004 - digits of a 64 bit number
            raise _Refused(HTTPStatus.BAD_REQUEST, "Content-Length must be a number")
        length = int(text)
        if length > limit:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body may have {limit} bytes, this one has {length}")
        body = self._unread.read(length)
        self._heard_out = True
        if len(body) < length:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"the body ended after {len(body)} of {length} bytes")
        return _decoded(body, self.headers.get("Content-Encoding", "identity").lower(), limit)

    def _send(self, response: Response) -> None:
        content = response.body.encode()
        self.close_connection = True
        self.send_response(response.status)
        if response.status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", response.content_type)
            self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.response = Response(status, f"{why}\n")


class _Head:
    """The head of a request, of which so many bytes are read and no more."""

    def __init__(self, stream: BufferedIOBase, left: int) -> None:
        self._stream = stream
        self._left = left

    def readline(self, limit: int = -1) -> bytes:
        if self._left <= 0:
            raise HTTPException("it is too large")  # which the base class answers
        line = self._stream.readline(self._left if limit < 0 else min(limit, self._left))
        self._left -= len(line)
        return line

    def close(self) -> None:
        self._stream.close()


def _names_this_machine(hosts: list[str]) -> bool:
    if len(hosts) != 1:
        return False
    host = hosts[0].strip()
    return is_loopback(host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0])


def _decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """Raises _Refused."""
    if encoding == "identity":
        return body
    if encoding != "gzip":
        raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding must be gzip or absent")
    inflater = zlib.decompressobj(_GZIP)
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise _Refused(HTTPStatus.BAD_REQUEST, "the body is not in gzip format") from None
    if len(content) > limit:
        raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body may have {limit} bytes, unpacked too")
    if not inflater.eof:
        raise _Refused(HTTPStatus.BAD_REQUEST, "the body ends before its gzip data do")
    return content


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        connection.shutdown(socket.SHUT_RDWR)
