"""The readings of series over time, raw or in buckets, from whatever tier.

A series of a device lies at one position of each layout that holds its key. All reads here go through the index
(device, layout, time), bounded in time on both sides, so that only the chunks of that time are visited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple

import numpy as np
from psycopg import sql
from psycopg.types.json import Jsonb

from cloud_ingest.errors import DataRejected
from cloud_ingest.store.columns import Columns, fetch_columns
from cloud_ingest.store.database import Connection
from cloud_ingest.store.rollup.state import from_ms
from cloud_ingest.store.tier_choice import Part
from cloud_ingest.store.tiers import RAW

# How far before its window a rate looks for the reading that its first difference starts from.
RATE_LOOKBACK_MS: Final = 5 * 60_000


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
    connection: Connection,
    series: Sequence[Series],
    parts: Sequence[Part],
    *,
    start: datetime,
    step: timedelta,
    aggregate: Aggregate,
) -> Columns:
    """The buckets from `start` on that hold readings, in no order; each begins at a multiple of `step` since the epoch.

    They are made of `parts`, which must not overlap, and whose rollups must fit into the buckets. The parts of a rate
    begin before `start`: a step, or RATE_LOOKBACK_MS if that is longer.
    `series` (index), `time` (ms, its start), `readings` and `observed` (those with a value), `first` and `last` (ms,
    times of its readings) and `value` (NaN where there is none). Raises DataRejected where a sum overflows.
    """
    query = _RATE if aggregate is Aggregate.RATE else _BUCKETS
    columns = fetch_columns(
        connection,
        query.format(
            parts=sql.SQL(" union all ").join([_part(part, aggregate) for part in parts or [Part(RAW, 0, 0)]]),
            value=_AGGREGATES[aggregate],
        ),
        {**_places(series), "start": start, "step": step},
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
    if np.isinf(columns["value"]).any():  # of a sum in a rollup
        raise DataRejected("value out of range: overflow")
    return columns


_WANTED: Final = sql.SQL(
    "unnest(%(series)s::int4[], %(device_ids)s::int4[], %(layout_ids)s::int4[], %(positions)s::int4[])"
    " as wanted (series, device_id, layout_id, position)"
)

_AGGREGATES: Final = {
    Aggregate.MEAN: sql.SQL("sum(sum) / nullif(sum(observed), 0)"),
    Aggregate.MIN: sql.SQL("min(min)"),
    Aggregate.MAX: sql.SQL("max(max)"),
    Aggregate.SUM: sql.SQL("sum(sum)"),
    Aggregate.COUNT: sql.SQL("sum(observed)::float8"),
    Aggregate.LAST: sql.SQL(
        "(array_agg(newest order by newest_time desc, newest desc) filter (where observed > 0))[1]"
    ),
    # All increases over all the time in which they happened: a gap weighs as long as it was.
    Aggregate.RATE: sql.SQL("sum(increase) / nullif(extract(epoch from sum(elapsed)), 0)::float8"),
}

_BUCKETS: Final = sql.SQL(
    "select series, date_bin(%(step)s, time, 'epoch'), sum(readings)::int8, sum(observed)::int8,"
    "  min(first), max(last), coalesce({value}, 'NaN')"
    " from ({parts}) as part"
    " group by 1, 2"
)

# A counter that went down was reset and has counted up from zero since. Within a rollup that shows where its smallest
# value is less than what came before it, or its last one less than its largest; of several resets one is counted.
_RATE: Final = sql.SQL(
    "select series, date_bin(%(step)s, time, 'epoch'), sum(readings)::int8, sum(observed)::int8,"
    "  min(first), max(last), coalesce({value}, 'NaN')"
    " from ("
    "  select *, newest_time - lag(newest_time) over earlier as elapsed,"
    "   case when lag(newest) over earlier is null then null"
    "    when min >= lag(newest) over earlier and max <= newest then newest - lag(newest) over earlier"
    "    when max > newest then newest + greatest(max - lag(newest) over earlier, 0)"
    "    else newest end as increase"
    "  from ({parts}) as part"
    "  where observed > 0"
    "  window earlier as (partition by series order by time)"
    " ) as step"
    " where time >= %(start)s"
    " group by 1, 2"
)

# Readings as rollups of one: `sum`, `min`, `max`, `newest` are null, or mean nothing, where nothing is observed.
_READINGS: Final = sql.SQL(
    "select series, time, 1 as readings, (value is not null)::int4 as observed, time as first, time as last,"
    "  value as sum, value as min, value as max, value as newest, time as newest_time"
    " from ("
    "  select wanted.series, reading.time, nullif(reading.samples[wanted.position], 'NaN') as value"
    "  from {wanted} cross join lateral ("
    "   select time, samples from telemetry.reading"
    "   where reading.device_id = wanted.device_id and reading.layout_id = wanted.layout_id"
    "    and reading.time >= {start} and reading.time < {end}) as reading"
    " ) as point"
)

_ROLLUPS: Final = sql.SQL(
    "select series, time, ticks as readings, coalesce(counts[position], ticks) as observed,"
    "  first_time as first, last_time as last, case when lasts[position] <> 'NaN' then sums[position] end as sum,"
    "  nullif(mins[position], 'NaN') as min, nullif(maxs[position], 'NaN') as max, lasts[position] as newest,"
    "  coalesce(lasts_times[position], last_time) as newest_time"
    " from {wanted} cross join lateral ("
    "  select * from {table} as rollup"
    "  where rollup.device_id = wanted.device_id and rollup.layout_id = wanted.layout_id"
    "   and rollup.time >= {start} and rollup.time < {end}) as rollup"
)

# Several rollups of one bucket as one: the order of time between buckets is what a rate is made of.
_JOINED: Final = sql.SQL(
    "select series, time, sum(readings)::int8 as readings, sum(observed)::int8 as observed, min(first) as first,"
    "  max(last) as last, sum(sum) as sum, min(min) as min, max(max) as max,"
    "  (array_agg(newest order by newest_time desc, newest desc) filter (where observed > 0))[1] as newest,"
    "  max(newest_time) filter (where observed > 0) as newest_time"
    " from ({rollups}) as rollup group by series, time"
)


def _part(part: Part, aggregate: Aggregate) -> sql.Composed:
    bounds = {"wanted": _WANTED, "start": from_ms(part.start_ms), "end": from_ms(part.end_ms)}
    if part.tier is RAW:
        return _READINGS.format(**bounds)
    rollups = _ROLLUPS.format(table=sql.Identifier("telemetry", part.tier.table), **bounds)
    return _JOINED.format(rollups=rollups) if aggregate is Aggregate.RATE else rollups


def _places(series: Sequence[Series]) -> dict[str, Any]:
    """The places of all series as arrays of one length; `series` is the index of the series that a place is of."""
    flat = [(index, place) for index, one in enumerate(series) for place in one.places]
    return {
        "series": [index for index, _ in flat],
        "device_ids": [place.device_id for _, place in flat],
        "layout_ids": [place.layout_id for _, place in flat],
        "positions": [place.position for _, place in flat],
    }
