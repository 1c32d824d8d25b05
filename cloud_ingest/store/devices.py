"""Reads about devices."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.rows import class_row

from cloud_ingest.store.database import Connection


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device as it was last heard of.

    `online` is what its status said and what the worker made of its silence, None before either; `away_reason` is why
    it is not: stopped, lost or silent. `silence_seconds` is its own time to be silent, None where it has none.
    `agent_version` is None where it never sent a status. `last_seen` is when anything of it last arrived,
    `newest_reading` the time of its newest stored reading, `readings` how many are stored.
    """

    device: str
    site: str
    online: bool | None
    away_reason: str | None
    silence_seconds: float | None
    last_seen: datetime | None
    agent_version: str | None
    newest_reading: datetime | None
    readings: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StreamRow:
    """The stream of a device that was heard of last, as the ledger has it.

    `received_to` is the highest sequence number that is settled, None where there is none yet; `low` the lowest that
    the outbox still held.
    """

    stream: UUID
    low: int
    received_to: int | None
    readings: int
    newest_reading: datetime | None
    last_seen: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DeviceDetail:
    """All that is known of one device.

    `status` is what it last said of itself (`telemetry_contract.payload.Status` as JSON), `received_at` when that or
    its last will came, `reported_at` when it last spoke for itself; all None where it never sent one.
    """

    device: DeviceRow
    status: dict[str, Any] | None
    received_at: datetime | None
    reported_at: datetime | None
    stream: StreamRow | None
    streams: int
    metrics: int
    series: int


_DEVICE: Final = (
    "select device.name as device, device.site, known.online,"
    "  case when not known.online then known.reason end as away_reason, device.silence_seconds,"
    "  greatest(streams.last_seen, device_status.received_at) as last_seen,"
    "  device_status.status ->> 'agent_version' as agent_version,"
    "  streams.newest as newest_reading, streams.ticks as readings, device.created_at"
    " from telemetry.device"
    " left join telemetry.device_status using (device_id)"
    " left join telemetry.device_liveness using (device_id)"
    # The newer of its own word and of what the worker found
    " left join lateral (values"
    "  (device_status.online, device_status.status ->> 'reason', device_status.received_at),"
    "  (device_liveness.online, device_liveness.reason, device_liveness.noticed_at)"
    "  order by 3 desc nulls last limit 1) as known (online, reason, at) on true"
    " cross join lateral ("
    "  select max(last_seen) as last_seen, max(newest) as newest, coalesce(sum(ticks), 0)::bigint as ticks"
    "  from telemetry.stream where stream.device_id = device.device_id) as streams"
)


def list_devices(connection: Connection, *, site: str | None, after: str | None, limit: int) -> list[DeviceRow]:
    """Devices by name, those of a site or of all, from behind the name `after`."""
    with connection.cursor(row_factory=class_row(DeviceRow)) as cursor:
        return cursor.execute(
            _DEVICE + " where (%(site)s::text is null or device.site = %(site)s)"
            "  and (%(after)s::text is null or device.name > %(after)s)"
            " order by device.name limit %(limit)s",
            {"site": site, "after": after, "limit": limit},
        ).fetchall()


def find_device(connection: Connection, name: str) -> DeviceDetail | None:
    """The device of this name, None where nothing was ever heard of it."""
    named = {"name": name}
    with connection.cursor(row_factory=class_row(DeviceRow)) as cursor:
        device = cursor.execute(_DEVICE + " where device.name = %(name)s", named).fetchone()
    if device is None:
        return None
    # Its status, the number of its streams, and what its layouts hold
    status, received_at, reported_at, streams, metrics, series = connection.execute(
        "select device_status.status, device_status.received_at, device_status.reported_at,"
        "  (select count(*) from telemetry.stream where stream.device_id = device.device_id),"
        "  held.metrics, held.series"
        " from telemetry.device"
        " left join telemetry.device_status using (device_id)"
        " cross join lateral ("
        "  select count(distinct series_key.metric) as metrics, count(distinct key_id) as series"
        "  from telemetry.device_layout"
        "  join telemetry.layout_position using (layout_id)"
        "  join telemetry.series_key using (key_id)"
        "  where device_layout.device_id = device.device_id) as held"
        " where device.name = %(name)s",
        named,
    ).fetchall()[0]
    # Of several streams, as of a cloned card or a new outbox, the one that was heard of last
    with connection.cursor(row_factory=class_row(StreamRow)) as cursor:
        stream = cursor.execute(
            "select stream_id as stream, low, upper(received) - 1 as received_to, ticks as readings,"
            "  newest as newest_reading, last_seen, stream.created_at"
            " from telemetry.stream join telemetry.device using (device_id)"
            " where device.name = %(name)s order by last_seen desc, stream_id limit 1",
            named,
        ).fetchone()
    return DeviceDetail(device, status, received_at, reported_at, stream, streams, metrics, series)


def set_silence(connection: Connection, name: str, seconds: float | None) -> bool:
    """Sets after how long without a sign a device is away, None as for all others; whether there is such a device."""
    return bool(
        connection.execute("update telemetry.device set silence_seconds = %s where name = %s", [seconds, name]).rowcount
    )


@dataclass(frozen=True, slots=True)
class Totals:
    """What the whole system holds."""

    devices: int
    readings: int
    newest_reading: datetime | None


def totals(connection: Connection) -> Totals:
    """Counts over all devices, from the ledger: the readings themselves are not touched."""
    with connection.cursor(row_factory=class_row(Totals)) as cursor:
        return cursor.execute(
            "select (select count(*) from telemetry.device) as devices,"
            " coalesce(sum(ticks), 0)::bigint as readings, max(newest) as newest_reading from telemetry.stream"
        ).fetchall()[0]
