"""Each sensor as it is now: its newest value, and where and what it is."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from cloud_ingest.alerts.judging import Watched
from cloud_ingest.alerts.plan import Placed
from cloud_ingest.store.current import Position
from cloud_ingest.store.database import Connection
from cloud_ingest.store.metrics import like_of


class RealtimeRow(NamedTuple):
    """A series of a device. `value` is NaN where the newest reading held none."""

    device_id: int
    key_id: int
    device: str
    site: str
    key: str
    metric: str
    labels: dict[str, str]
    unit: str
    location: str | None
    sensor_type: str | None
    time: datetime
    value: float


def realtime_values(
    connection: Connection,
    *,
    devices: Sequence[str],
    metric: str | None,
    site: str | None,
    location: str | None,
    since: datetime,
    after: Position | None,
    limit: int,
) -> list[RealtimeRow]:
    """The series of these devices or of all, at a location or below it, by device and key, from behind `after`.

    `metric` is a glob. Nothing that was measured before `since`. Reads one row for each layout that a device has sent,
    as `current_values` does, and of devices without a series there none.
    """
    rows = connection.execute(
        "select device.device_id, series.key_id, device.name, device.site, series.key, series.metric, series.labels,"
        "  series.unit, coalesce(own.path, place.path)::text, sensor.sensor_type, series.time, series.value"
        " from telemetry.device"
        " left join telemetry.location as place using (location_id)"
        " cross join lateral ("
        "  select distinct on (series_key.key) series_key.key_id, series_key.key, series_key.metric, series_key.labels,"
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
        " left join telemetry.sensor on sensor.device_id = device.device_id and sensor.key_id = series.key_id"
        " left join telemetry.location as own on own.location_id = sensor.location_id"
        " where (%(devices)s::text[] is null or device.name = any (%(devices)s::text[]))"
        "  and (%(site)s::text is null or device.site = %(site)s)"
        "  and (%(location)s::text is null or place.path <@ %(location)s::text::ltree or exists ("
        "   select from telemetry.sensor as any_sensor join telemetry.location as at using (location_id)"
        "   where any_sensor.device_id = device.device_id and at.path <@ %(location)s::text::ltree))"
        "  and (%(location)s::text is null or coalesce(own.path, place.path) <@ %(location)s::text::ltree)"
        "  and (%(after_device)s::text is null or device.name >= %(after_device)s"
        "   and (device.name, series.key) > (%(after_device)s, %(after_key)s))"
        " order by device.name, series.key limit %(limit)s",
        {
            "devices": list(devices) or None,
            "metric": like_of(metric),
            "site": site,
            "location": location,
            "since": since,
            "after_device": None if after is None else after.device,
            "after_key": None if after is None else after.key,
            "limit": limit,
        },
    ).fetchall()
    return [RealtimeRow(*row) for row in rows]


def unknown_alerts(connection: Connection, device_ids: Sequence[int]) -> set[Watched]:
    """What fires at these devices as far as is known, and nobody can say whether it still does."""
    rows = connection.execute(
        "select device_id, threshold_id, key_id from telemetry.alert"
        " where ended_at is null and unknown_since is not null and device_id = any (%s)",
        [list(device_ids)],
    ).fetchall()
    return {Watched(*row) for row in rows}


def silent_alerts(connection: Connection, device_ids: Sequence[int]) -> set[Watched]:
    """What is told of as silent of these devices."""
    rows = connection.execute(
        "select device_id, threshold_id, key_id from telemetry.alert"
        " where ended_at is null and no_data and device_id = any (%s)",
        [list(device_ids)],
    ).fetchall()
    return {Watched(*row) for row in rows}


class Placements:
    """Where devices are, and what was said of their series, by (device, series key); (device, None) is the device."""

    def __init__(self, placed: Mapping[tuple[str, str | None], Placed]) -> None:
        self._placed = placed

    def of(self, device: str, key: str) -> Placed:
        """Where a series is: its own place, or that of its device."""
        nothing = Placed(None, None)
        of_device, own = self._placed.get((device, None), nothing), self._placed.get((device, key), nothing)
        return Placed(own.location or of_device.location, own.sensor_type)


def placements(connection: Connection, devices: Sequence[str]) -> Placements:
    """What was said of these devices."""
    rows = connection.execute(
        "select device.name, null, location.path::text, null"
        " from telemetry.device join telemetry.location using (location_id)"
        " where device.name = any (%(devices)s::text[])"
        " union all"
        " select device.name, series_key.key, location.path::text, sensor.sensor_type"
        " from telemetry.sensor join telemetry.device using (device_id) join telemetry.series_key using (key_id)"
        " left join telemetry.location on location.location_id = sensor.location_id"
        " where device.name = any (%(devices)s::text[])",
        {"devices": list(devices)},
    ).fetchall()
    return Placements({(device, key): Placed(path, sensor_type) for device, key, path, sensor_type in rows})
