"""The one module that knows the servers apart: how `reading` is cut by time, and how old pieces are dropped.

TimescaleDB makes chunks of its hypertable by itself. On plain PostgreSQL the same pieces are native range partitions,
which must exist before a row can go in. Which of the two a database has is asked from it, never configured.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Protocol

from psycopg import sql

from cloud_ingest.store.database import Connection

SPAN_MS: Final = 6 * 3_600_000  # as 0002_reading.timescaledb.sql has it
_LOCK_KEY: Final = 0x7465_6C65_0001  # advisory lock: one process at a time makes or drops partitions


class ServerKind(StrEnum):
    """What keeps `reading`; also the infix of the migrations that differ."""

    TIMESCALEDB = "timescaledb"
    POSTGRESQL = "postgresql"


class Partitions(Protocol):
    """The pieces of `reading`. Both methods run in transactions of their own on an autocommit connection."""

    def cover(self, connection: Connection, times_ms: Iterable[int]) -> None:
        """Rows of these times can be stored once this returned."""

    def drop_before(self, connection: Connection, time_ms: int) -> list[str]:
        """Drops the pieces that lie wholly before the time, and names them."""


def available_kind(connection: Connection) -> ServerKind:
    """What a new database on this server should be made with."""
    row = connection.execute(
        "select exists (select from pg_available_extensions where name = 'timescaledb')"
        " and position('timescaledb' in current_setting('shared_preload_libraries')) > 0"
    ).fetchone()
    return ServerKind.TIMESCALEDB if row and row[0] else ServerKind.POSTGRESQL


def partitions_of(connection: Connection) -> Partitions:
    """The pieces of `reading` as this database was migrated."""
    # relkind 'p' is a partitioned table; a hypertable is an ordinary one
    row = connection.execute("select relkind from pg_class where oid = 'telemetry.reading'::regclass").fetchone()
    return NativePartitions() if row and row[0] in ("p", b"p") else Hypertable()


class Hypertable:
    """TimescaleDB's chunks."""

    def cover(self, connection: Connection, times_ms: Iterable[int]) -> None:
        """Nothing to do: the server makes chunks as rows come."""

    def drop_before(self, connection: Connection, time_ms: int) -> list[str]:
        """Drops the chunks that lie wholly before the time, and names them."""
        rows = connection.execute(
            "select drop_chunks('telemetry.reading', older_than => %s::timestamptz)", [_time(time_ms)]
        ).fetchall()
        return [row[0] for row in rows]


class NativePartitions:
    """PostgreSQL's range partitions, one for each SPAN_MS since the epoch, made when first needed."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    def cover(self, connection: Connection, times_ms: Iterable[int]) -> None:
        """Makes the partitions that these times lack."""
        missing = {time_ms // SPAN_MS for time_ms in times_ms} - self._known
        if not missing:
            return
        with connection.transaction():
            connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK_KEY])
            present = {number for number, _ in self._partitions(connection)}
            for number in sorted(missing - present):
                self._create(connection, number)
        self._known = present | missing

    def drop_before(self, connection: Connection, time_ms: int) -> list[str]:
        """Drops the partitions that lie wholly before the time, and names them."""
        dropped = []
        with connection.transaction():
            connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK_KEY])
            for number, name in self._partitions(connection):
                if (number + 1) * SPAN_MS <= time_ms:
                    connection.execute(sql.SQL("drop table {}").format(sql.Identifier("telemetry", name)))
                    self._known.discard(number)
                    dropped.append(f"telemetry.{name}")
        return dropped

    @staticmethod
    def _partitions(connection: Connection) -> list[tuple[int, str]]:
        rows = connection.execute(
            "select relname from pg_inherits join pg_class on pg_class.oid = inhrelid"
            " where inhparent = 'telemetry.reading'::regclass order by relname"
        ).fetchall()
        return [(_number(name), name) for (name,) in rows]

    @staticmethod
    def _create(connection: Connection, number: int) -> None:
        """Made aside and then attached: attaching does not lock readers and writers of `reading` out."""
        start, end = _time(number * SPAN_MS), _time((number + 1) * SPAN_MS)
        name = sql.Identifier("telemetry", _name(start))
        connection.execute(sql.SQL("create table {} (like telemetry.reading including constraints)").format(name))
        connection.execute(
            sql.SQL("alter table telemetry.reading attach partition {} for values from ({}) to ({})").format(
                name, sql.Literal(start), sql.Literal(end)
            )
        )


def _name(start: datetime) -> str:
    return f"reading_{start:%Y%m%d_%H}"


def _number(name: str) -> int:
    start = datetime.strptime(name, "reading_%Y%m%d_%H").replace(tzinfo=UTC)
    return int(start.timestamp() * 1000) // SPAN_MS


def _time(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)
