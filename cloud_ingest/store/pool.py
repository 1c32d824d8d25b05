"""The connections of the API: few, checked before use, read-only unless asked, quick to say that there is none."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from cloud_ingest.errors import StoreUnavailable
from cloud_ingest.store.database import Connection, parameters, translated

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 8
WAIT_SECONDS: Final = 2.0
STATEMENT_SECONDS: Final = 30


class ReadPool:
    """A pool of connections. `connection()` and `writing()` may be called from any thread while it is entered."""

    def __init__(self, url: str, application_name: str) -> None:
        wanted = parameters(application_name)
        wanted["options"] += f" -c default_transaction_read_only=on -c statement_timeout={STATEMENT_SECONDS}s"
        # A plan made for the values at hand leaves out the chunks that a plan for any values would visit.
        wanted |= {"autocommit": True, "prepare_threshold": None}
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url,
            kwargs=wanted,
            min_size=1,
            max_size=MAX_CONNECTIONS,
            open=False,
            timeout=WAIT_SECONDS,
            # Given up early, a connection is tried again by the next request; a longer try would back off and miss
            # the moment in which the database returns.
            reconnect_timeout=WAIT_SECONDS,
            check=ConnectionPool.check_connection,
            name=application_name,
        )
        self._was_available = True
        # How many connections are in use; the pool's own count holds those that it fails to make too.
        self._used = 0
        self._used_lock = threading.Lock()

    def __enter__(self) -> Self:
        self._pool.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for a few reads.

        Raises StoreUnavailable after WAIT_SECONDS without one, which says whether others have them all, where a
        statement takes longer than STATEMENT_SECONDS, and where the database goes away meanwhile; DataRejected and
        SchemaNotReady as `translated` says.
        """
        try:
            with translated(), self._pool.connection() as connection, self._counted():
                self._note(available=True)
                yield connection
        except StoreUnavailable as exc:
            if isinstance(exc.__cause__, psycopg.errors.QueryCanceled):
                raise StoreUnavailable(
                    f"the database did not answer within {STATEMENT_SECONDS} s: ask for less at once"
                ) from exc
            if isinstance(exc.__cause__, PoolTimeout) and self._used >= MAX_CONNECTIONS:
                raise StoreUnavailable(
                    f"all {MAX_CONNECTIONS} connections to the database are busy: ask again, or for less at once"
                ) from exc
            self._note(available=False, why=str(exc))
            if isinstance(exc.__cause__, PoolTimeout):
                raise StoreUnavailable("the database can't be reached") from exc
            raise

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection in a transaction that may write, committed when the block ends.

        Raises as `connection` does, and what the block raises, after which nothing was written.
        """
        with self.connection() as connection, connection.transaction():
            connection.execute("set transaction read write")
            yield connection

    def statistics(self) -> dict[str, Any]:
        """Counts of the pool, as psycopg_pool's `get_stats` names them."""
        return dict(self._pool.get_stats())

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._used_lock:
            self._used += 1
        try:
            yield
        finally:
            with self._used_lock:
                self._used -= 1

    def _note(self, *, available: bool, why: str = "") -> None:
        """Logs a change. Two threads may both log one; none is missed."""
        if available != self._was_available:
            self._was_available = available
            if available:
                logger.info("the database is back")
            else:
                logger.warning("the database is away: %s", why)
