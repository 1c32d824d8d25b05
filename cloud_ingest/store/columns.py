"""Results of numbers as numpy arrays, through COPY: a point costs nanoseconds rather than a Python object."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString

import numpy as np
import numpy.typing as npt
from psycopg import sql

from cloud_ingest.store.database import Connection, translated

# PostgreSQL documentation, COPY, "Binary Format": signature, flags and the length of a header extension; a row is a
# field count and length-prefixed fields, big endian; -1 instead of a row ends the stream.
_HEADER_BYTES: Final = 11 + 4 + 4
_TRAILER_BYTES: Final = 2
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
    statement = sql.SQL("copy ({}) to stdout (format binary)").format(
        query if isinstance(query, sql.Composed) else sql.SQL(query)
    )
    with translated(), connection.cursor() as cursor, cursor.copy(statement, parameters) as copy:
        data = b"".join(copy)
    rows = np.frombuffer(data[_HEADER_BYTES:-_TRAILER_BYTES], _row_type(types))
    return {name: _native(rows[name], type_) for name, type_ in types}


def _row_type(types: Sequence[tuple[str, str]]) -> np.dtype[np.void]:
    fields: list[tuple[str, str]] = [("", ">i2")]
    for name, type_ in types:
        fields += [(f"{name} length", ">i4"), (name, _TYPES[type_])]
    return np.dtype(fields)


def _native(column: npt.NDArray[Any], type_: str) -> npt.NDArray[Any]:
    native = column.astype(column.dtype.newbyteorder("="))
    return native // 1000 + _POSTGRES_EPOCH_MS if type_ == "timestamptz" else native
