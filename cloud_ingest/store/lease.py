"""The right to be the only process that does something: an advisory lock that a connection holds."""

import hashlib
from contextlib import suppress
from typing import Final

import psycopg

from cloud_ingest.errors import StoreError
from cloud_ingest.store.database import Connection, connect, translated

_CLASS: Final = 0x7465_6C66  # the first of the two numbers of these locks; the second tells the name


class Lease:
    """Ends with its process at the latest, and with the database. Used by one thread.

    Two holders are possible for as long as one has not noticed that its connection is gone; what is leased must bear
    that.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big", signed=True)
        self._connection: Connection | None = None

    def take(self) -> bool:
        """Whether it is ours now. False too where the database is away."""
        try:
            connection = connect(self._url, "cloud-ingest-lease")
        except StoreError:
            return False
        try:
            with translated():
                row = connection.execute("select pg_try_advisory_lock(%s, %s)", [_CLASS, self._number]).fetchone()
        except StoreError:
            row = None
        if row is None or not row[0]:
            connection.close()
            return False
        self._connection = connection
        return True

    def is_held(self) -> bool:
        """Whether it is still ours, asked of the database."""
        if self._connection is None:
            return False
        try:
            self._connection.execute("select")
        except psycopg.Error:
            self.release()
        return self._connection is not None

    def release(self) -> None:
        """Lets another have it."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None
