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
from cloud_ingest.store.current import Position
from cloud_ingest.store.database import Connection
from cloud_ingest.store.metrics import like_of
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
    """One series of one device. `key` is metric and labels in one, `labels` a JSON object as text."""

    device: str
    site: str
    key: str
    metric: str
    labels: str
    unit: str
    places: list[Place] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Window:
    """From `start`, inclusive, to `end`, exclusive; both aware."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Cut:
    """How time is cut into buckets, from `start` on: at multiples of `step` since the epoch, or at `edges` if given.

    `edges` ascend, begin with `start` and end with the end of the last bucket.
    """

    start: datetime
    step: timedelta
    edges: Sequence[datetime] | None = None


def find_series(
    connection: Connection,
    *,
    metric: str | None,
    devices: Sequence[str],
    site: str | None,
    labels: Mapping[str, str],
    limit: int,
    after: Position | None = None,
) -> list[Series]:
    """The series that have all these labels, of the named devices or of all; by device and key, from behind `after`.

    `metric` is a glob.
    """
    rows = connection.execute(
        "select device.name, device.site, series_key.key, series_key.metric, series_key.labels::text, series_key.unit,"
        " array_agg(device.device_id), array_agg(layout_position.layout_id), array_agg(layout_position.position)"
        " from telemetry.series_key"
        " join telemetry.layout_position using (key_id)"
        " join telemetry.device_layout using (layout_id)"
        " join telemetry.device using (device_id)"
        " where (%(metric)s::text is null or series_key.metric like %(metric)s) and series_key.labels @> %(labels)s"
        "  and (%(devices)s::text[] is null or device.name = any (%(devices)s::text[]))"
        "  and (%(site)s::text is null or device.site = %(site)s)"
        "  and (%(after_device)s::text is null or (device.name, series_key.key) > (%(after_device)s, %(after_key)s))"
        " group by device.device_id, series_key.key_id"
        " order by device.name, series_key.key limit %(limit)s",
        {
            "metric": like_of(metric),
            "labels": Jsonb(dict(labels)),
            "devices": list(devices) or None,
            "site": site,
            "limit": limit,
            "after_device": None if after is None else after.device,
            "after_key": None if after is None else after.key,
        },
    ).fetchall()
    return [
        Series(device, in_site, key, of_metric, text, unit, [Place(*place) for place in zip(*places, strict=True)])
        for device, in_site, key, of_metric, text, unit, *places in rows
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
        {**_places([one.places for one in series]), "start": window.start, "end": window.end, "limit": limit},
        [("series", "int4"), ("time", "timestamptz"), ("value", "float8")],
    )


def buckets(
    connection: Connection,
    groups: Sequence[Sequence[Place]],
    parts: Sequence[Part],
    cut: Cut,
    aggregates: Sequence[Aggregate],
) -> Columns:
    """The buckets that hold readings, in no order; each of all that lies in the places of a group.

    They are made of `parts`, which must not overlap, and whose rollups must fit into the buckets. A rate, which must be
    asked for alone and of groups of one series, has parts that begin before the start of the cut: a step, or
    RATE_LOOKBACK_MS if that is longer.
    `series` (index of the group), `time` (ms, its start), `readings` and `observed` (those with a value), `first_time`
    and `last_time` (ms, of its readings) and a column for each aggregate, named by it (NaN where there is none).
    Raises DataRejected where a sum overflows.
    """
    query = _RATE if Aggregate.RATE in aggregates else _BUCKETS
    columns = fetch_columns(
        connection,
        query.format(
            parts=sql.SQL(" union all ").join(
                [_part(part, joined=query is _RATE) for part in parts or [Part(RAW, 0, 0)]]
            ),
            bucket=_STEPS if cut.edges is None else _EDGES,
            values=sql.SQL(", ").join(
                sql.SQL("coalesce({}, 'NaN')").format(_AGGREGATES[aggregate]) for aggregate in aggregates
            ),
        ),
        {**_places(groups), "start": cut.start, "step": cut.step, "edges": list(cut.edges or ())},
        [
            ("series", "int4"),
            ("time", "timestamptz"),
            ("readings", "int8"),
            ("observed", "int8"),
            ("first_time", "timestamptz"),
            ("last_time", "timestamptz"),
            *((aggregate.value, "float8") for aggregate in aggregates),
        ],
    )
    if any(np.isinf(columns[aggregate.value]).any() for aggregate in aggregates):  # of a sum in a rollup
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

_STEPS: Final = sql.SQL("date_bin(%(step)s, time, 'epoch')")
_EDGES: Final = sql.SQL("(%(edges)s::timestamptz[])[width_bucket(time, %(edges)s::timestamptz[])]")

_BUCKETS: Final = sql.SQL(
    "select series, {bucket}, sum(readings)::int8, sum(observed)::int8,"
    "  min(first), max(last), {values}"
    " from ({parts}) as part"
    " group by 1, 2"
)

# A counter that went down was reset and has counted up from zero since. Within a rollup that shows where its smallest
# value is less than what came before it, or its last one less than its largest; of several resets one is counted.
_RATE: Final = sql.SQL(
    "select series, {bucket}, sum(readings)::int8, sum(observed)::int8,"
    "  min(first), max(last), {values}"
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


def _part(part: Part, *, joined: bool) -> sql.Composed:
    bounds = {"wanted": _WANTED, "start": from_ms(part.start_ms), "end": from_ms(part.end_ms)}
    if part.tier is RAW:
        return _READINGS.format(**bounds)
    rollups = _ROLLUPS.format(table=sql.Identifier("telemetry", part.tier.table), **bounds)
    return _JOINED.format(rollups=rollups) if joined else rollups


def _places(groups: Sequence[Sequence[Place]]) -> dict[str, Any]:
    """The places of all groups as arrays of one length; `series` is the index of the group that a place is of."""
    flat = [(index, place) for index, places in enumerate(groups) for place in places]
    return {
        "series": [index for index, _ in flat],
        "device_ids": [place.device_id for _, place in flat],
        "layout_ids": [place.layout_id for _, place in flat],
        "positions": [place.position for _, place in flat],
    }
