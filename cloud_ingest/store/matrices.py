"""All readings of series over a time, as they lie in the database: a matrix a device and layout.

A row is read once, whichever of its samples are wanted: for the sixty series of a device that is a sixtieth of the work
of reading them one by one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple

import numpy as np
from psycopg import sql

from cloud_ingest.errors import DataRejected
from cloud_ingest.store.columns import elements, integer
from cloud_ingest.store.database import Connection, translated
from cloud_ingest.store.history import Series, Window
from cloud_ingest.store.readings import Floats, Integers

# The samples of one device and layout that are held at once: 160 MB.
MAX_SAMPLES: Final = 20_000_000
# So few are cheaper to pick from each row at the server than whole rows are to send.
_PICKED: Final = 8


class Matrix(NamedTuple):
    """The readings of one layout of a device, in no order.

    `series`: the indexes of those that lie in it. `times_ms` has shape (n,), `samples` (len(series), n); NaN where a
    reading has no value.
    """

    series: list[int]
    times_ms: Integers
    samples: Floats


class _Place(NamedTuple):
    """A layout of a device, and which of the wanted series lie at which positions of it."""

    device_id: int
    layout_id: int
    series: list[int]
    positions: list[int]


@contextmanager
def matrices(connection: Connection, series: Sequence[Series], window: Window) -> Iterator[Iterator[list[Matrix]]]:
    """The matrices of each device that has readings in the window, one device after the other.

    They are read while they are asked for, and the connection is not free before the end of the block. Asking raises
    DataRejected where a device has more than MAX_SAMPLES in one layout.
    """
    places = _places(series)
    if not places:
        yield iter(())
        return
    most = max(len(place.positions) for place in places)
    picked = most <= _PICKED
    parameters = {
        "devices": [place.device_id for place in places],
        "layouts": [place.layout_id for place in places],
        # All of one length: what is short gives its last once more
        "positions": [place.positions + place.positions[-1:] * (most - len(place.positions)) for place in places],
        "start": window.start,
        "end": window.end,
        "most": MAX_SAMPLES,
    }
    statement = _ROWS.format(samples=_picked(most) if picked else sql.SQL("samples"))
    with translated(), connection.cursor() as cursor, cursor.copy(statement, parameters) as copy:
        found = ((places[integer(number) - 1], times, samples) for number, times, samples in copy.rows())
        yield (
            [_matrix(place, times, samples, picked=picked) for place, times, samples in of_device]
            for _, of_device in groupby(found, lambda row: row[0].device_id)
        )


# Of each place its times and the samples of all its rows, in two arrays; a row more than is allowed shows that
_ROWS: Final = sql.SQL(
    "copy (select wanted.number::int4, found.times, found.samples"
    " from unnest(%(devices)s::int4[], %(layouts)s::int4[]) with ordinality as wanted (device_id, layout_id, number)"
    " cross join lateral (select array_agg(time) as times, array_agg({samples}) as samples from ("
    "  select time, samples from telemetry.reading"
    "  where reading.device_id = wanted.device_id and reading.layout_id = wanted.layout_id"
    "   and reading.time >= %(start)s and reading.time < %(end)s"
    "  limit (select %(most)s / greatest(count(*), 1) + 1 from telemetry.layout_position"
    "   where layout_position.layout_id = wanted.layout_id)) as reading) as found"
    " where found.times is not null order by wanted.number) to stdout (format binary)"
)


def _picked(count: int) -> sql.Composed:
    return sql.SQL("array[{}]").format(
        sql.SQL(", ").join(
            sql.SQL("samples[(%(positions)s::int4[])[wanted.number][{}]]").format(sql.Literal(number))
            for number in range(1, count + 1)
        )
    )


def _matrix(place: _Place, times: bytes, samples: bytes, *, picked: bool) -> Matrix:
    times_ms = elements(times, "timestamptz")
    table = elements(samples, "float8").reshape(len(times_ms), -1)
    if table.size > MAX_SAMPLES:
        raise DataRejected(f"a device has more than {MAX_SAMPLES} samples in this time")
    columns = range(len(place.positions)) if picked else [position - 1 for position in place.positions]
    return Matrix(place.series, times_ms, np.ascontiguousarray(table.T[list(columns)]))


def _places(series: Sequence[Series]) -> list[_Place]:
    """Those of a device follow each other."""
    places: dict[tuple[int, int], _Place] = {}
    for index, one in enumerate(series):
        for device_id, layout_id, position in one.places:
            place = places.setdefault((device_id, layout_id), _Place(device_id, layout_id, [], []))
            place.series.append(index)
            place.positions.append(position)
    return sorted(places.values(), key=attrgetter("device_id"))
