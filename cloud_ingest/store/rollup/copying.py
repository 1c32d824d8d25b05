"""Rollups and readings out of the database and rollups into it, by COPY BINARY and numpy.

Rows of layouts of one width have one size, so many are read and written at once. Formats: as in `store.readings`.

Most rollups have a value of each series in each tick. Their `counts` would all be `ticks` and their `lasts_times` all
`last_time`, so both columns are null: a fifth of the space.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from psycopg import sql

from cloud_ingest.errors import StoreError
from cloud_ingest.store.database import Connection
from cloud_ingest.store.readings import COPY_HEADER, COPY_TRAILER, Integers, copy_stream
from cloud_ingest.store.rollup.rows import Rollups
from cloud_ingest.store.tiers import Tier

_POSTGRES_EPOCH_MS: Final = 946_684_800_000  # 2000-01-01; a timestamptz is microseconds since then
_FETCH_BYTES: Final = 16 * 1024 * 1024


class _Fields(NamedTuple):
    """What a row is made of: name and numpy type of the scalars, of the arrays also the OID of their elements."""

    scalars: tuple[tuple[str, str], ...]
    arrays: tuple[tuple[str, str, int], ...]
    nulls: int = 0  # behind the others

    @property
    def number(self) -> int:
        return len(self.scalars) + len(self.arrays) + self.nulls


_READING: Final = _Fields(
    scalars=(("time", ">i8"), ("device_id", ">i4"), ("layout_id", ">i4")),
    arrays=(("samples", ">f8", 701),),
)
_DENSE: Final = _Fields(
    scalars=(*_READING.scalars, ("ticks", ">i4"), ("first_time", ">i8"), ("last_time", ">i8")),
    arrays=(("sums", ">f8", 701), ("mins", ">f8", 701), ("maxs", ">f8", 701), ("lasts", ">f8", 701)),
    nulls=2,
)
_SPARSE: Final = _Fields(
    scalars=_DENSE.scalars,
    arrays=(*_DENSE.arrays, ("counts", ">i4", 23), ("lasts_times", ">i8", 1184)),
)

_COLUMNS: Final = sql.SQL(", ").join(
    [sql.Identifier(name) for name, _ in _SPARSE.scalars] + [sql.Identifier(name) for name, _, _ in _SPARSE.arrays]
)
# What a query must select, in this order and without nulls. `time`, `device_id` and `layout_id` must be unambiguous.
READING_COLUMNS: Final = sql.SQL("time, device_id, layout_id, samples")
ROLLUP_COLUMNS: Final = sql.SQL(
    "time, device_id, layout_id, ticks, first_time, last_time, sums, mins, maxs, lasts,"
    " coalesce(counts, array_fill(ticks, array[cardinality(sums)])),"
    " coalesce(lasts_times, array_fill(last_time, array[cardinality(sums)]))"
)


def write_rollups(connection: Connection, tier: Tier, parts: Iterable[Rollups]) -> None:
    """Adds the rollups, each part of one width, to the tier."""
    packed = [pack(part) for part in parts if len(part)]
    if not packed:
        return
    statement = sql.SQL("copy {} ({}) from stdin (format binary)").format(
        sql.Identifier("telemetry", tier.table), _COLUMNS
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(copy_stream(packed))


def pack(rollups: Rollups) -> bytes:
    """Rollups as COPY rows, without header and trailer."""
    full = rollups.counts == rollups.ticks[:, np.newaxis]
    together = rollups.lasts_ms == rollups.last_ms[:, np.newaxis]
    dense: npt.NDArray[np.bool_] = (full & together).all(axis=1)
    return _pack_dense(rollups.rows(dense)) + _pack_sparse(rollups.rows(~dense))


def fetch_readings(
    connection: Connection, query: sql.Composable, parameters: Mapping[str, Any], width: int
) -> Iterator[Rollups]:
    """The readings that a query for READING_COLUMNS finds, some megabytes at a time, each as a rollup of its own.

    All must be of layouts with `width` series.
    """
    for rows in _fetch(connection, query, parameters, _template(_READING, width)):
        yield Rollups.of_readings(
            _milliseconds(rows["time"]),
            rows["device_id"].astype(np.int64),
            rows["layout_id"].astype(np.int64),
            rows["samples"]["value"].astype(np.float64),
        )


class Samples(NamedTuple):
    """n readings of one layout: `times_ms` of shape (n,), `samples` of (n, width)."""

    times_ms: Integers
    samples: npt.NDArray[np.float64]


def fetch_samples(
    connection: Connection, query: sql.Composable, parameters: Mapping[str, Any], width: int
) -> Iterator[Samples]:
    """The readings that a query for READING_COLUMNS finds, some megabytes at a time, as they are."""
    for rows in _fetch(connection, query, parameters, _template(_READING, width)):
        yield Samples(_milliseconds(rows["time"]), rows["samples"]["value"].astype(np.float64))


def fetch_rollups(
    connection: Connection, query: sql.Composable, parameters: Mapping[str, Any], width: int
) -> Iterator[Rollups]:
    """The rollups that a query for ROLLUP_COLUMNS finds, some megabytes at a time.

    All must be of layouts with `width` series.
    """
    for rows in _fetch(connection, query, parameters, _template(_SPARSE, width)):
        yield Rollups(
            starts_ms=_milliseconds(rows["time"]),
            device_ids=rows["device_id"].astype(np.int64),
            layout_ids=rows["layout_id"].astype(np.int64),
            ticks=rows["ticks"].astype(np.int64),
            first_ms=_milliseconds(rows["first_time"]),
            last_ms=_milliseconds(rows["last_time"]),
            counts=rows["counts"]["value"].astype(np.int64),
            sums=rows["sums"]["value"].astype(np.float64),
            mins=rows["mins"]["value"].astype(np.float64),
            maxs=rows["maxs"]["value"].astype(np.float64),
            lasts=rows["lasts"]["value"].astype(np.float64),
            lasts_ms=_milliseconds(rows["lasts_times"]["value"]),
        )


def _fetch(
    connection: Connection, query: sql.Composable, parameters: Mapping[str, Any], template: npt.NDArray[np.void]
) -> Iterator[npt.NDArray[Any]]:
    size = template.itemsize
    statement = sql.SQL("copy ({}) to stdout (format binary)").format(query)
    with connection.cursor() as cursor, cursor.copy(statement, parameters) as copy:
        held = bytearray()
        start = len(COPY_HEADER)
        for block in copy:
            held += block
            if len(held) - start >= _FETCH_BYTES + len(COPY_TRAILER):
                end = start + (len(held) - start - len(COPY_TRAILER)) // size * size
                yield _rows(bytes(held[start:end]), template)
                del held[:end]
                start = 0
        if len(held) - start > len(COPY_TRAILER):
            yield _rows(bytes(held[start : -len(COPY_TRAILER)]), template)


def _rows(data: bytes, template: npt.NDArray[np.void]) -> npt.NDArray[Any]:
    """Raises StoreError where the rows are not like the template: somebody else has written one."""
    whole = len(data) // template.itemsize * template.itemsize
    rows: npt.NDArray[Any] = np.frombuffer(data[:whole], template.dtype)
    heads = [name for name in template.dtype.names or () if name.endswith(" head")]
    if whole != len(data) or any((rows[name] != template[name]).any() for name in heads):
        raise StoreError("a row in the tiers does not hold as many values as its layout has series: delete it")
    return rows


def _pack_dense(rollups: Rollups) -> bytes:
    rows = np.repeat(_template(_DENSE, rollups.width), len(rollups))
    _fill(rows, rollups)
    return rows.tobytes()


def _pack_sparse(rollups: Rollups) -> bytes:
    rows = np.repeat(_template(_SPARSE, rollups.width), len(rollups))
    _fill(rows, rollups)
    rows["counts"]["value"] = rollups.counts
    # A time that means nothing must still be one that the database can hold
    lasts_ms = np.where(rollups.counts > 0, rollups.lasts_ms, rollups.last_ms[:, np.newaxis])
    rows["lasts_times"]["value"] = _microseconds(lasts_ms)
    return rows.tobytes()


def _fill(rows: npt.NDArray[Any], rollups: Rollups) -> None:
    rows["time"] = _microseconds(rollups.starts_ms)
    rows["device_id"] = rollups.device_ids
    rows["layout_id"] = rollups.layout_ids
    rows["ticks"] = rollups.ticks
    rows["first_time"] = _microseconds(rollups.first_ms)
    rows["last_time"] = _microseconds(rollups.last_ms)
    for name, _, _ in _DENSE.arrays:
        rows[name]["value"] = getattr(rollups, name)


@lru_cache(maxsize=256)
def _template(fields: _Fields, width: int) -> npt.NDArray[np.void]:
    """One row with all that is the same in each row filled in."""
    parts: list[Any] = [("fields", ">i2")]
    for name, type_ in fields.scalars:
        parts += [(f"{name} size", ">i4"), (name, type_)]
    for name, type_, _ in fields.arrays:
        parts += [(f"{name} size", ">i4"), (f"{name} head", ">i4", (5,))]
        parts += [(name, [("size", ">i4"), ("value", type_)], (width,))]
    parts += [("nulls", ">i4", (fields.nulls,))]
    row = np.zeros(1, parts)
    row["fields"] = fields.number
    for name, type_ in fields.scalars:
        row[f"{name} size"] = np.dtype(type_).itemsize
    for name, type_, element in fields.arrays:
        row[f"{name} size"] = 20 + width * (4 + np.dtype(type_).itemsize)
        row[f"{name} head"] = (1, 0, element, width, 1)  # dimensions, has nulls, type, length, lower bound
        row[name]["size"] = np.dtype(type_).itemsize
    row["nulls"] = -1
    return row


def _milliseconds(times: npt.NDArray[Any]) -> Integers:
    return times.astype(np.int64) // 1000 + _POSTGRES_EPOCH_MS


def _microseconds(times_ms: Integers) -> Integers:
    return (times_ms - _POSTGRES_EPOCH_MS) * 1000
