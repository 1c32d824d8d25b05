"""A client of event streams that notes what it gets, and how the stream ends."""

import http.client
import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self


class Received(NamedTuple):
    """An event of a stream."""

    id: str
    kind: str
    data: Any


class EventReader:
    """Follows `address` in a thread of its own from the constructor on, until the stream or the block ends.

    `ended` is None while it is open, then "clean" or "broken". `last_id` is what a browser would come back with.
    """

    def __init__(self, port: int, address: str, last_id: str | None = None) -> None:
        self.events: list[Received] = []
        self.comments: list[str] = []
        self.last_id = last_id
        self.ended: str | None = None
        headers: Mapping[str, str] = {} if last_id is None else {"Last-Event-ID": last_id}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.request("GET", address, headers=dict(headers))
        assert self._connection.sock is not None
        self._socket = self._connection.sock
        self._response = self._connection.getresponse()
        self.status = self._response.status
        assert self.status == 200, self._response.read()
        self.content_type = self._response.headers["content-type"]
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave, as a client does whose machine is switched off."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._connection.close()
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            while line := self._response.readline():
                self._take(line.decode().rstrip("\n"), fields)
        except (OSError, http.client.HTTPException, ValueError):
            self.ended = "broken"
        else:
            self.ended = "clean" if self._response.chunk_left is None and self._response.isclosed() else "broken"

    def _take(self, line: str, fields: dict[str, str]) -> None:
        if line.startswith(":"):
            self.comments.append(line)
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            self.last_id = fields.get("id", self.last_id)
            if "data" in fields:
                self.events.append(Received(self.last_id or "", fields.get("event", ""), json.loads(fields["data"])))
            fields.clear()
