"""The newest value of each series."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from cloud_ingest.store.database import Connection
from cloud_ingest.store.metrics import like_of


class CurrentRow(NamedTuple):
    """The newest value of one series. `labels` is a JSON object as text; `value` is NaN where there was none."""

    device: str
    key: str
    metric: str
    labels: str
    unit: str
    time: datetime
    value: float


class Position(NamedTuple):
    """Where a page ended."""

    device: str
    key: str


def current_values(
    connection: Connection,
    *,
    devices: Sequence[str],
    metric: str | None,
    site: str | None,
    since: datetime,
    after: Position | None,
    limit: int | None,
) -> list[CurrentRow]:
    """The newest values of the named devices or of all, by device and series key, from behind `after`.

    `metric` is a glob. Nothing that was measured before `since`. Reads one row for each layout that a device has
    sent: newest first, so that older chunks are only visited for a layout that newer ones lack. Where the newest rows
    of several layouts hold the same series, the newest of those that have a value counts.
    """
    rows = connection.execute(
        "select device.name, series.key, series.metric, series.labels, series.unit, series.time, series.value"
        " from telemetry.device"
        " cross join lateral ("
        "  select distinct on (series_key.key) series_key.key, series_key.metric, series_key.labels::text as labels,"
        "   series_key.unit, newest.time, newest.samples[layout_position.position] as value"
        "  from telemetry.device_layout"
        "  cross join lateral ("
        "   select time, samples from telemetry.reading"
        "   where reading.device_id = device_layout.device_id and reading.layout_id = device_layout.layout_id"
        "    and reading.time >= %(since)s"
        "   order by time desc limit 1) as newest"
        "  join telemetry.layout_position using (layout_id)"
        "  join telemetry.series_key using (key_id)"
        "  where device_layout.device_id = device.device_id"
        "   and (%(metric)s::text is null or series_key.metric like %(metric)s)"
        "  order by series_key.key, newest.samples[layout_position.position] = 'NaN', newest.time desc) as series"
        " where (%(devices)s::text[] is null or device.name = any (%(devices)s::text[]))"
        "  and (%(site)s::text is null or device.site = %(site)s)"
        "  and (%(after_device)s::text is null or device.name >= %(after_device)s"
        "   and (device.name, series.key) > (%(after_device)s, %(after_key)s))"
        " order by device.name, series.key limit %(limit)s",
        {
            "devices": list(devices) or None,
            "metric": like_of(metric),
            "site": site,
            "since": since,
            "after_device": None if after is None else after.device,
            "after_key": None if after is None else after.key,
            "limit": limit,
        },
    ).fetchall()
    return list(map(CurrentRow._make, rows))
