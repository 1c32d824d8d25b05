"""The readings of series over time, raw or in buckets.

A series of a device lies at one position of each layout that holds its key. All reads here go through the index
(device, layout, time), bounded in time on both sides, so that only the chunks of that time are visited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple

from psycopg import sql
from psycopg.types.json import Jsonb

from cloud_ingest.store.columns import Columns, fetch_columns
from cloud_ingest.store.database import Connection

# How far before its window a rate looks for the reading that its first difference starts from.
_RATE_LOOKBACK: Final = timedelta(minutes=5)


class Aggregate(StrEnum):
    """What is made of the values in a bucket. `rate` is the increase of a counter per second, across resets."""

    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    SUM = "sum"
    COUNT = "count"
    LAST = "last"
    RATE = "rate"


class Place(NamedTuple):
    """Where some readings of a series lie."""

    device_id: int
    layout_id: int
    position: int


@dataclass(frozen=True, slots=True)
class Series:
    """One series of one device. `labels` is a JSON object as text."""

    device: str
    metric: str
    labels: str
    unit: str
    places: list[Place] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Window:
    """From `start`, inclusive, to `end`, exclusive; both aware."""

    start: datetime
    end: datetime


def find_series(
    connection: Connection,
    *,
    metric: str,
    devices: Sequence[str],
    site: str | None,
    labels: Mapping[str, str],
    limit: int,
) -> list[Series]:
    """The series of a metric that have all these labels, of the named devices or of all; by device and key."""
    rows = connection.execute(
        "select device.name, series_key.key, series_key.labels::text, series_key.unit,"
        " array_agg(device.device_id), array_agg(layout_position.layout_id), array_agg(layout_position.position)"
        " from telemetry.series_key"
        " join telemetry.layout_position using (key_id)"
        " join telemetry.device_layout using (layout_id)"
        " join telemetry.device using (device_id)"
        " where series_key.metric = %(metric)s and series_key.labels @> %(labels)s"
        "  and (%(devices)s::text[] is null or device.name = any (%(devices)s::text[]))"
        "  and (%(site)s::text is null or device.site = %(site)s)"
        " group by device.name, series_key.key_id"
        " order by device.name, series_key.key limit %(limit)s",
        {
            "metric": metric,
            "labels": Jsonb(dict(labels)),
            "devices": list(devices) or None,
            "site": site,
            "limit": limit,
        },
    ).fetchall()
    return [
        Series(device, metric, labels_text, unit, [Place(*place) for place in zip(*places, strict=True)])
        for device, _, labels_text, unit, *places in rows
    ]


def raw_points(connection: Connection, series: Sequence[Series], window: Window, limit: int) -> Columns:
    """At most `limit` points in no order: `series` (index), `time` (ms), `value` (NaN: none was measured)."""
    return fetch_columns(
        connection,
        sql.SQL(
            "select wanted.series, reading.time, coalesce(reading.samples[wanted.position], 'NaN')"
            " from {wanted} cross join lateral ("
            "  select time, samples from telemetry.reading"
            "  where reading.device_id = wanted.device_id and reading.layout_id = wanted.layout_id"
            "   and reading.time >= %(start)s and reading.time < %(end)s) as reading"
            " limit %(limit)s"
        ).format(wanted=_WANTED),
        {**_places(series), "start": window.start, "end": window.end, "limit": limit},
        [("series", "int4"), ("time", "timestamptz"), ("value", "float8")],
    )


def buckets(
    connection: Connection, series: Sequence[Series], window: Window, step: timedelta, aggregate: Aggregate
) -> Columns:
    """The buckets that hold readings, in no order; a bucket starts at a multiple of `step` since the epoch.

    `series` (index), `time` (ms, its start), `readings` and `observed` (those with a value), `first` and `last` (ms,
    times of its readings) and `value` (NaN where there is none). Raises DataRejected where a sum overflows.
    """
    query = _RATE if aggregate is Aggregate.RATE else _BUCKETS
    return fetch_columns(
        connection,
        query.format(wanted=_WANTED, value=_AGGREGATES[aggregate]),
        {
            **_places(series),
            "start": window.start,
            "end": window.end,
            "step": step,
            "from": window.start - max(step, _RATE_LOOKBACK),
        },
        [
            ("series", "int4"),
            ("time", "timestamptz"),
            ("readings", "int8"),
            ("observed", "int8"),
            ("first", "timestamptz"),
            ("last", "timestamptz"),
            ("value", "float8"),
        ],
    )


_WANTED: Final = sql.SQL(
    "unnest(%(series)s::int4[], %(device_ids)s::int4[], %(layout_ids)s::int4[], %(positions)s::int4[])"
    " as wanted (series, device_id, layout_id, position)"
)

_AGGREGATES: Final = {
    Aggregate.MEAN: sql.SQL("avg(value)"),
    Aggregate.MIN: sql.SQL("min(value)"),
    Aggregate.MAX: sql.SQL("max(value)"),
    Aggregate.SUM: sql.SQL("sum(value)"),
    Aggregate.COUNT: sql.SQL("count(value)::float8"),
    Aggregate.LAST: sql.SQL("(array_agg(value order by time desc) filter (where value is not null))[1]"),
    # All increases over all the time in which they happened: a gap weighs as long as it was.
    Aggregate.RATE: sql.SQL("sum(increase) / nullif(extract(epoch from sum(elapsed)), 0)::float8"),
}

_BUCKETS: Final = sql.SQL(
    "select series, date_bin(%(step)s, time, 'epoch'), count(*), count(value), min(time), max(time),"
    "  coalesce({value}, 'NaN')"
    " from ("
    "  select wanted.series, reading.time, nullif(reading.samples[wanted.position], 'NaN') as value"
    "  from {wanted} cross join lateral ("
    "   select time, samples from telemetry.reading"
    "   where reading.device_id = wanted.device_id and reading.layout_id = wanted.layout_id"
    "    and reading.time >= %(start)s and reading.time < %(end)s) as reading"
    " ) as point"
    " group by 1, 2"
)

# A counter that went down was reset and has counted up from zero since.
_RATE: Final = sql.SQL(
    "select series, date_bin(%(step)s, time, 'epoch'), count(*), count(*), min(time), max(time),"
    "  coalesce({value}, 'NaN')"
    " from ("
    "  select series, time, time - lag(time) over earlier as elapsed,"
    "   case when value >= lag(value) over earlier then value - lag(value) over earlier"
    "    when lag(value) over earlier is not null then value end as increase"
    "  from ("
    "   select wanted.series, reading.time, reading.samples[wanted.position] as value"
    "   from {wanted} cross join lateral ("
    "    select time, samples from telemetry.reading"
    "    where reading.device_id = wanted.device_id and reading.layout_id = wanted.layout_id"
    "     and reading.time >= %(from)s and reading.time < %(end)s) as reading"
    "   where reading.samples[wanted.position] <> 'NaN'"
    "  ) as point"
    "  window earlier as (partition by series order by time)"
    " ) as step"
    " where time >= %(start)s"
    " group by 1, 2"
)


def _places(series: Sequence[Series]) -> dict[str, Any]:
    """The places of all series as arrays of one length; `series` is the index of the series that a place is of."""
    flat = [(index, place) for index, one in enumerate(series) for place in one.places]
    return {
        "series": [index for index, _ in flat],
        "device_ids": [place.device_id for _, place in flat],
        "layout_ids": [place.layout_id for _, place in flat],
        "positions": [place.position for _, place in flat],
    }
