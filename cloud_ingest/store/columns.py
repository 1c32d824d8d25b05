"""Results of numbers as numpy arrays: one row of arrays through COPY, so that no point is a message or an object."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString

import numpy as np
import numpy.typing as npt
from psycopg import sql

from cloud_ingest.store.database import Connection, translated

# PostgreSQL documentation, COPY, "Binary Format": signature, flags and the length of a header extension; a row is a
# field count and length-prefixed fields, big endian; a length of -1 is null. A field that is an array is the number of
# its dimensions, flags, the type, length and lower bound of each dimension, then length-prefixed elements
# (`array_send`).
_HEADER_BYTES: Final = 11 + 4 + 4
_FIELD_COUNT_BYTES: Final = 2
_LENGTH_BYTES: Final = 4
_ARRAY_HEADER_BYTES: Final = 3 * 4
_DIMENSION_BYTES: Final = 2 * 4
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
        length = max(integer(data[at : at + _LENGTH_BYTES]), 0)  # -1: no row, hence no array
        at += _LENGTH_BYTES
        columns[name] = elements(data[at : at + length], type_)
        at += length
    return columns


def integer(field: bytes) -> int:
    """An int4, as COPY has it in binary."""
    return int.from_bytes(field, signed=True)


def elements(field: bytes, type_: str) -> npt.NDArray[Any]:
    """The elements of an array without nulls, of any dimensions, as COPY has it in binary; none of an empty field.

    A timestamptz becomes milliseconds since the epoch.
    """
    header = _ARRAY_HEADER_BYTES + _DIMENSION_BYTES * integer(field[:_LENGTH_BYTES])
    values = np.frombuffer(field[header:], np.dtype([("length", ">i4"), ("value", _TYPES[type_])]))["value"]
    native = values.astype(values.dtype.newbyteorder("="))
    return native // 1000 + _POSTGRES_EPOCH_MS if type_ == "timestamptz" else native
