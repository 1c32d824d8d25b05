"""The way to a server through a place where a test can cut it or make it silent."""

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import NamedTuple, Self


class _Trap(NamedTuple):
    """What ends a connection, and how; see `Link.cut_at`."""

    text: bytes
    reaches_server: bool
    sprung: threading.Event


class Link:
    """Listens on a port of its own and passes all bytes to and from the server's, while entered."""

    host = "127.0.0.1"

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]
        # Each end of a connection -> the other; touched by the thread alone.
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._cut = threading.Event()
        self._silent = threading.Event()
        self._clients: set[socket.socket] = set()
        self._trap: _Trap | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    def cut(self) -> None:
        """End all connections of now, without a word to either side; new ones pass as before."""
        self._cut.set()
        self._wake_writer.send(b"w")

    def silence(self) -> None:
        """From now on nothing passes, while connections stay open and new ones are accepted."""
        self._silent.set()
        self._wake_writer.send(b"w")

    def cut_at(self, text: bytes, *, reaches_server: bool) -> threading.Event:
        """End the connection on which a client next sends this text; the event is set when that is done.

        Either the server never gets the text, or it has answered it, which the client does not hear.
        """
        trap = _Trap(text, reaches_server, threading.Event())
        self._trap = trap
        return trap.sprung

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._wake_writer.send(b"w")
        self._thread.join()
        self._drop_all()
        for each in (self._listener, self._wake_reader, self._wake_writer):
            each.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            sources = [] if self._silent.is_set() else list(self._pairs)
            readable, _, _ = select.select([self._listener, self._wake_reader, *sources], [], [])
            if self._wake_reader in readable:
                self._wake_reader.recv(100)
            if self._cut.is_set():
                self._cut.clear()
                self._drop_all()
                continue
            if self._listener in readable:
                self._accept()
            for source in readable:
                if source in self._pairs and not self._silent.is_set():
                    self._pass_on(source)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection((self.host, self._server_port))
        except OSError:  # the server is down
            client.close()
            return
        self._pairs[client], self._pairs[server] = server, client
        self._clients.add(client)

    def _pass_on(self, source: socket.socket) -> None:
        target = self._pairs[source]
        data = b""
        with contextlib.suppress(OSError):
            data = source.recv(65_536)
            trap = self._trap
            if trap is not None and source in self._clients and trap.text in data:
                self._trap = None
                if trap.reaches_server:
                    target.sendall(data)
                    target.recv(65_536)
                self._drop(source, target)
                trap.sprung.set()
                return
            target.sendall(data)
        if not data:
            self._drop(source, target)

    def _drop(self, *pair: socket.socket) -> None:
        for each in pair:
            del self._pairs[each]
            self._clients.discard(each)
            each.close()

    def _drop_all(self) -> None:
        self._drop(*list(self._pairs))
