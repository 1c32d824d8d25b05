"""Results of numbers as numpy arrays: one row of arrays through COPY, so that no point is a message or an object."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString

import numpy as np
import numpy.typing as npt
from psycopg import sql

from cloud_ingest.store.database import Connection, translated

# PostgreSQL documentation, COPY, "Binary Format": signature, flags and the length of a header extension; a row is a
# field count and length-prefixed fields, big endian; a length of -1 is null. A field that is an array of one dimension
# is that number, flags, the type, its length and lower bound, then length-prefixed elements (`array_send`).
_HEADER_BYTES: Final = 11 + 4 + 4
_FIELD_COUNT_BYTES: Final = 2
_LENGTH_BYTES: Final = 4
_ARRAY_HEADER_BYTES: Final = 5 * 4
_TYPES: Final = {"int4": ">i4", "int8": ">i8", "float8": ">f8", "timestamptz": ">i8"}
_POSTGRES_EPOCH_MS: Final = 946_684_800_000  # 2000-01-01; a timestamptz is microseconds since then

Columns = dict[str, npt.NDArray[Any]]


def fetch_columns(
    connection: Connection,
    query: LiteralString | sql.Composed,
    parameters: Mapping[str, Any],
    types: Sequence[tuple[str, str]],
) -> Columns:
    """The columns of `query`, which must return exactly `types` (name, PostgreSQL type) and never null.

    A timestamptz becomes milliseconds since the epoch. Raises StoreError, as `translated` says.
    """
    names = [sql.Identifier(name) for name, _ in types]
    statement = sql.SQL("copy (select {arrays} from ({query}) as answer ({names})) to stdout (format binary)").format(
        arrays=sql.SQL(", ").join(sql.SQL("array_agg({})").format(name) for name in names),
        query=query if isinstance(query, sql.Composed) else sql.SQL(query),
        names=sql.SQL(", ").join(names),
    )
    with translated(), connection.cursor() as cursor, cursor.copy(statement, parameters) as copy:
        data = b"".join(copy)
    columns = {}
    at = _HEADER_BYTES + _FIELD_COUNT_BYTES
    for name, type_ in types:
        length = int.from_bytes(data[at : at + _LENGTH_BYTES], signed=True)  # -1: no row, hence no array
        field = data[at + _LENGTH_BYTES : at + _LENGTH_BYTES + max(length, 0)]
        at += _LENGTH_BYTES + max(length, 0)
        elements = np.frombuffer(field[_ARRAY_HEADER_BYTES:], np.dtype([("length", ">i4"), ("value", _TYPES[type_])]))
        columns[name] = _native(elements["value"], type_)
    return columns


def _native(column: npt.NDArray[Any], type_: str) -> npt.NDArray[Any]:
    native = column.astype(column.dtype.newbyteorder("="))
    return native // 1000 + _POSTGRES_EPOCH_MS if type_ == "timestamptz" else native
