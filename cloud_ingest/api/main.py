"""The role `api`: serves REST and pages until it is told to stop."""

import asyncio
import logging
import socket
import threading
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from cloud_ingest.api.app import create_app
from cloud_ingest.api.listening import listen, require_loopback
from cloud_ingest.api.streams.streams import Streams
from cloud_ingest.api.writers import Writers
from cloud_ingest.config import Address, Config
from cloud_ingest.store.pool import ReadPool

logger = logging.getLogger(__name__)

# A request that takes longer than this after a stop is cut off.
_GRACE_SECONDS: Final = 5


def run(config: Config, stop: threading.Event, *, insecure: bool = False) -> int:
    """Serves until `stop` is set, then lets running requests end; the exit code.

    Needs no database to start: without one it answers 503. Raises ConfigError for an address that others can reach
    unless `insecure`, CloudError where the address can't be had.
    """
    require_loopback(config.api.listen, insecure=insecure)
    listener = listen(config.api.listen)
    url = config.database_url.get_secret_value()
    with listener, ReadPool(url, "cloud-ingest-api") as pool, Writers(config) as writers:
        address = Address(*listener.getsockname()[:2])
        logger.info("listening on http://%s", address)
        streams = Streams(pool, limit=config.api.max_streams, raw_kept=timedelta(hours=config.retention.raw_hours))
        asyncio.run(_serve(create_app(config, pool, writers, streams), streams, listener, stop))
    return 0


class _Server(uvicorn.Server):
    """Leaves signals to the program."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Captures none."""
        return nullcontext()


class _Connection(H11Protocol):
    """Lets an answer end its connection with what is still on its way: `abort` in the state of its scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort}


async def _serve(app: ASGIApp, streams: Streams, listener: socket.socket, stop: threading.Event) -> None:
    server = _Server(
        uvicorn.Config(
            app,
            http=_Connection,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(asyncio.to_thread(stop.wait))
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    streams.close()  # no request ends by itself that is one
    server.should_exit = True
    stop.set()  # where the server ended by itself, the thread that waits for this must end too
    await serving
