"""An answer that goes on: events as they happen, until the client leaves, is too slow, or the program stops."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final

from fastapi import Response
from starlette.types import Receive, Scope, Send

from cloud_ingest.api.streams.event import Event
from cloud_ingest.api.streams.follower import Follower
from cloud_ingest.store.feed import Position

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "text/event-stream"
HEARTBEAT_SECONDS: Final = 15.0
# A client that takes nothing for so long is cut off. What is on its way to it is all that is kept for it.
SEND_SECONDS: Final = 20.0
_ABORT_SECONDS: Final = 1.0  # for the server to notice that the connection is gone
_RETRY_MS: Final = 2_000
_CHUNK_BYTES: Final = 65_536


class EventStream(Response):
    """The events behind `start` that `chosen` lets through, each as it makes it.

    `opened` is entered while the stream is open.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        follower: Follower,
        start: Position,
        chosen: Callable[[Event], Event | None],
        opened: AbstractContextManager[None],
        *,
        greeting: bytes = b"",
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._follower = follower
        self._start = start
        self._chosen = chosen
        self._opened = opened
        self._greeting = greeting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        with self._opened:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope.get("state", {}).get("is_head"):
                await send({"type": "http.response.body", "body": b""})
                return
            with self._follower.following():
                sending = asyncio.create_task(self._send_all(send))
                leaving = asyncio.create_task(_gone(receive))
                try:
                    await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
                    if sending.done() and isinstance(sending.exception(), TimeoutError):
                        logger.warning("a client of %s took nothing for %g s: cut off", scope["path"], SEND_SECONDS)
                        scope.get("state", {}).get("abort", _nothing)()
                        await asyncio.wait({leaving}, timeout=_ABORT_SECONDS)
                    elif sending.done():
                        sending.result()
                finally:
                    sending.cancel()
                    leaving.cancel()
                    await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        position = self._start
        await _send(send, b"retry: %d\n" % _RETRY_MS + _id(position) + self._greeting)
        loop = asyncio.get_running_loop()
        quiet_until = loop.time() + HEARTBEAT_SECONDS
        while not self._follower.closed:
            events, position = await self._follower.after(position, max(quiet_until - loop.time(), 0.0))
            chosen = [it for it in map(self._chosen, events) if it is not None]
            for chunk in _chunks(it.encoded for it in chosen):
                await _send(send, chunk)
            if chosen:
                quiet_until = loop.time() + HEARTBEAT_SECONDS
            elif loop.time() >= quiet_until:
                # The id keeps a client that nothing concerned for long from having to look at all that again
                await _send(send, b": alive\n" + _id(position))
                quiet_until = loop.time() + HEARTBEAT_SECONDS
        await send({"type": "http.response.body", "body": b""})


def _id(position: Position) -> bytes:
    """Sets a client's Last-Event-ID, and is no event."""
    return f"id: {position}\n\n".encode()


def _chunks(parts: Iterable[bytes]) -> Iterable[bytes]:
    """The parts joined, none larger than it must be."""
    chunk = bytearray()
    for part in parts:
        chunk += part
        if len(chunk) >= _CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)


async def _send(send: Send, body: bytes) -> None:
    await asyncio.wait_for(send({"type": "http.response.body", "body": body, "more_body": True}), SEND_SECONDS)


def _nothing() -> None:
    """Where the server lets nobody end a connection, it ends with the server's own patience."""


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
