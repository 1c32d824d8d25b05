"""The one module that knows the servers apart: how a tier is cut by time, and how old pieces are dropped.

TimescaleDB makes chunks of its hypertables by itself. On plain PostgreSQL the same pieces are native range partitions,
which must exist before a row can go in. Which of the two a database has is asked from it, never configured.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Protocol

from psycopg import errors as pg
from psycopg import sql

from cloud_ingest.store.columnstore import wording_of
from cloud_ingest.store.database import Connection
from cloud_ingest.store.tiers import RAW, Tier

SPAN_MS: Final = RAW.span_ms
_LOCK_KEY: Final = 0x7465_6C65_0001  # advisory lock: one process at a time makes or drops partitions
# A drop waits for those who read the table, and whoever comes later waits for the drop. It gives up before that hurts.
_DROP_WAIT: Final = "set local lock_timeout = '1s'"


class ServerKind(StrEnum):
    """What keeps the tiers; also the infix of the migrations that differ."""

    TIMESCALEDB = "timescaledb"
    POSTGRESQL = "postgresql"


class Partitions(Protocol):
    """The pieces of a tier. Methods run in transactions of their own on an autocommit connection, or say so."""

    def cover(self, connection: Connection, times_ms: Iterable[int]) -> None:
        """Rows of these times can be stored once this returned."""

    def spans(self, connection: Connection) -> list[tuple[int, int]]:
        """From when (inclusive) to when (exclusive) each piece is, ascending, in ms."""

    def drop_before(self, connection: Connection, time_ms: int) -> list[str]:
        """Drops the pieces that lie wholly before the time, and names them.

        One that others are busy with for a while is left for the next time.
        """

    def compress_before(self, connection: Connection, time_ms: int) -> None:
        """Moves pieces that lie wholly before the time to a columnstore, where the server has one.

        What came late into one that was moved before is moved too.
        """

    def allow_changes(self, connection: Connection) -> None:
        """Until the transaction ends, which the caller has begun, any number of rows may be changed in any piece."""


def available_kind(connection: Connection) -> ServerKind:
    """What a new database on this server should be made with."""
    row = connection.execute(
        "select exists (select from pg_available_extensions where name = 'timescaledb')"
        " and position('timescaledb' in current_setting('shared_preload_libraries')) > 0"
    ).fetchone()
    return ServerKind.TIMESCALEDB if row and row[0] else ServerKind.POSTGRESQL


def partitions_of(connection: Connection, tier: Tier = RAW) -> Partitions:
    """The pieces of a tier as this database was migrated."""
    # relkind 'p' is a partitioned table; a hypertable is an ordinary one
    row = connection.execute("select relkind from pg_class where oid = 'telemetry.reading'::regclass").fetchone()
    return NativePartitions(tier) if row and row[0] in ("p", b"p") else Hypertable(tier)


class Hypertable:
    """TimescaleDB's chunks."""

    def __init__(self, tier: Tier) -> None:
        self._table = f"telemetry.{tier.table}"

    def cover(self, connection: Connection, times_ms: Iterable[int]) -> None:
        """Nothing to do: the server makes chunks as rows come."""

    def spans(self, connection: Connection) -> list[tuple[int, int]]:
        """From when to when each chunk is, ascending."""
        return connection.execute(
            "select (extract(epoch from range_start) * 1000)::bigint, (extract(epoch from range_end) * 1000)::bigint"
            " from timescaledb_information.chunks"
            " where format('%%I.%%I', hypertable_schema, hypertable_name)::regclass = %s::regclass order by 1",
            [self._table],
        ).fetchall()

    def drop_before(self, connection: Connection, time_ms: int) -> list[str]:
        """Drops the chunks that lie wholly before the time, and names them."""
        try:
            with connection.transaction():
                connection.execute(_DROP_WAIT)
                rows = connection.execute(
                    "select drop_chunks(%s, older_than => %s::timestamptz)", [self._table, _time(time_ms)]
                ).fetchall()
        except pg.LockNotAvailable:
            return []
        return [row[0] for row in rows]

    def compress_before(self, connection: Connection, time_ms: int) -> None:
        """Moves the chunks that lie wholly before the time to the columnstore, where the edition has one."""
        wording = wording_of(connection)
        if wording is None:
            return
        ((enabled,),) = connection.execute(
            "select compression_enabled from timescaledb_information.hypertables"
            " where format('%%I.%%I', hypertable_schema, hypertable_name)::regclass = %s::regclass",
            [self._table],
        ).fetchall()
        if not enabled:
            connection.execute(wording.enabling(sql.SQL(self._table)))
        chunks = connection.execute(
            "select chunk::text from show_chunks(%s, older_than => %s::timestamptz) as chunk",
            [self._table, _time(time_ms)],
        ).fetchall()
        for (chunk,) in chunks:
            connection.execute(wording.moving, {"chunk": chunk})

    def allow_changes(self, connection: Connection) -> None:
        """Lifts the bound on how many rows of the columnstore a statement may change, where the server has one."""
        connection.execute(
            "select set_config(name, '0', true) from pg_settings"
            " where name = 'timescaledb.max_tuples_decompressed_per_dml_transaction'"
        )


class NativePartitions:
    """PostgreSQL's range partitions, one for each span of the tier since the epoch, made when first needed."""

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self._known: set[int] = set()

    def cover(self, connection: Connection, times_ms: Iterable[int]) -> None:
        """Makes the partitions that these times lack."""
        missing = {time_ms // self._tier.span_ms for time_ms in times_ms} - self._known
        if not missing:
            return
        with connection.transaction():
            connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK_KEY])
            present = {number for number, _ in self._partitions(connection)}
            for number in sorted(missing - present):
                self._create(connection, number)
        self._known = present | missing

    def spans(self, connection: Connection) -> list[tuple[int, int]]:
        """From when to when each partition is, ascending."""
        span_ms = self._tier.span_ms
        return [(number * span_ms, (number + 1) * span_ms) for number, _ in self._partitions(connection)]

    def drop_before(self, connection: Connection, time_ms: int) -> list[str]:
        """Drops the partitions that lie wholly before the time, and names them."""
        dropped: list[str] = []
        for number, name in self._partitions(connection):
            if (number + 1) * self._tier.span_ms <= time_ms:
                try:
                    with connection.transaction():
                        connection.execute(_DROP_WAIT)
                        connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK_KEY])
                        identifier = sql.Identifier("telemetry", name)
                        connection.execute(sql.SQL("drop table if exists {}").format(identifier))
                except pg.LockNotAvailable:
                    break
                self._known.discard(number)
                dropped.append(f"telemetry.{name}")
        return dropped

    def compress_before(self, connection: Connection, time_ms: int) -> None:
        """Nothing to do: there is no columnstore."""

    def allow_changes(self, connection: Connection) -> None:
        """Nothing to do: all pieces are alike."""

    def _partitions(self, connection: Connection) -> list[tuple[int, str]]:
        rows = connection.execute(
            "select relname from pg_inherits join pg_class on pg_class.oid = inhrelid"
            " where inhparent = %s::regclass order by relname",
            [f"telemetry.{self._tier.table}"],
        ).fetchall()
        return [(self._number(name), name) for (name,) in rows]

    def _create(self, connection: Connection, number: int) -> None:
        """Made aside and then attached: attaching does not lock readers and writers of the tier out."""
        start, end = _time(number * self._tier.span_ms), _time((number + 1) * self._tier.span_ms)
        table = sql.Identifier("telemetry", self._tier.table)
        name = sql.Identifier("telemetry", f"{self._tier.table}_{start:%Y%m%d_%H}")
        connection.execute(sql.SQL("create table {} (like {} including constraints)").format(name, table))
        connection.execute(
            sql.SQL("alter table {} attach partition {} for values from ({}) to ({})").format(
                table, name, sql.Literal(start), sql.Literal(end)
            )
        )

    def _number(self, name: str) -> int:
        start = datetime.strptime(name, f"{self._tier.table}_%Y%m%d_%H").replace(tzinfo=UTC)
        return int(start.timestamp() * 1000) // self._tier.span_ms


def _time(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)
