"""A container engine's Unix socket, for the part of Docker's API that lists containers."""

import json
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from types import TracebackType
from typing import Any, Self


class Engine:
    """Answers from entry to exit. `containers` is what it lists, `asked` the requests it was sent.

    `answer` replaces the list by any bytes, and nothing is answered while `answering` is cleared.
    """

    def __init__(self, socket: Path, containers: list[dict[str, Any]]) -> None:
        self.socket = socket
        self.containers = containers
        self.answer: bytes | None = None
        self.status = HTTPStatus.OK
        self.asked: list[str] = []
        self.answering = threading.Event()
        self.answering.set()

    def __enter__(self) -> Self:
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.answering.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.socket.unlink()


class _Server(ThreadingMixIn, UnixStreamServer):
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        super().__init__(str(engine.socket), _Request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error of the engine."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Request(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        engine = self.server.engine
        engine.asked.append(self.path)
        engine.answering.wait(30)
        answer = json.dumps(engine.containers).encode() if engine.answer is None else engine.answer
        self.send_response(engine.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Quiet; `client_address`, which it would print, is empty here."""
