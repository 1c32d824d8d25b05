"""How TimescaleDB is told to keep old chunks in columns, which its community edition alone can.

Version 2.18 gave the statements new names and made procedures of the functions. The old names still work, but are
deprecated, so the server is asked which it has. The Apache edition has the procedures too, and refuses to run them:
https://www.tigerdata.com/docs/reference/timescaledb/hypercore/convert_to_columnstore
"""

from enum import Enum
from typing import Final

from psycopg import sql

from cloud_ingest.store.database import Connection

# All rows of a device and layout have arrays of one length with values that are like those before
_SEGMENT_BY: Final = sql.SQL("'device_id, layout_id'")
_ORDER_BY: Final = sql.SQL("'time'")


class Wording(Enum):
    """The statements of a version: to allow it for a table, and to move one chunk that is given as `%(chunk)s`.

    To move a chunk that is moved already does nothing, or moves what came late into it.
    """

    COLUMNSTORE = (
        (
            "alter table {table} set (timescaledb.enable_columnstore,"
            " timescaledb.segmentby = {segment_by}, timescaledb.orderby = {order_by})"
        ),
        "call convert_to_columnstore(%(chunk)s::regclass, if_not_columnstore => true)",
    )
    COMPRESSION = (
        (
            "alter table {table} set (timescaledb.compress,"
            " timescaledb.compress_segmentby = {segment_by}, timescaledb.compress_orderby = {order_by})"
        ),
        "select compress_chunk(%(chunk)s::regclass, if_not_compressed => true)",
    )

    def enabling(self, table: sql.Composable) -> sql.Composed:
        """Allows it for a table, once and for all."""
        return sql.SQL(self.value[0]).format(table=table, segment_by=_SEGMENT_BY, order_by=_ORDER_BY)

    @property
    def moving(self) -> sql.SQL:
        """Moves one chunk."""
        return sql.SQL(self.value[1])


def wording(license_name: str | None, *, has_procedure: bool) -> Wording | None:
    """What a server understands, by its license and whether it has `convert_to_columnstore`; None: no columnstore."""
    if license_name != "timescale":
        return None
    return Wording.COLUMNSTORE if has_procedure else Wording.COMPRESSION


def wording_of(connection: Connection) -> Wording | None:
    """The server is asked."""
    ((license_name, has_procedure),) = connection.execute(
        "select current_setting('timescaledb.license', true),"
        " exists (select from pg_proc where proname = 'convert_to_columnstore' and prokind = 'p')"
    ).fetchall()
    return wording(license_name, has_procedure=has_procedure)
