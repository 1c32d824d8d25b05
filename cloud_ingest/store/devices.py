"""Reads about devices."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from cloud_ingest.store.database import Connection


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device as it was last heard of.

    `online` and `agent_version` are what its status said, None where it never sent one; `last_seen` is when anything
    of it last arrived, `newest_reading` the time of its newest stored reading, `readings` how many are stored.
    """

    device: str
    site: str
    online: bool | None
    last_seen: datetime | None
    agent_version: str | None
    newest_reading: datetime | None
    readings: int
    created_at: datetime


def list_devices(connection: Connection, *, site: str | None, after: str | None, limit: int) -> list[DeviceRow]:
    """Devices by name, those of a site or of all, from behind the name `after`."""
    with connection.cursor(row_factory=class_row(DeviceRow)) as cursor:
        return cursor.execute(
            "select device.name as device, device.site, device_status.online,"
            "  greatest(streams.last_seen, device_status.received_at) as last_seen,"
            "  device_status.status ->> 'agent_version' as agent_version,"
            "  streams.newest as newest_reading, streams.ticks as readings, device.created_at"
            " from telemetry.device"
            " left join telemetry.device_status using (device_id)"
            " cross join lateral ("
            "  select max(last_seen) as last_seen, max(newest) as newest, coalesce(sum(ticks), 0)::bigint as ticks"
            "  from telemetry.stream where stream.device_id = device.device_id) as streams"
            " where (%(site)s::text is null or device.site = %(site)s)"
            "  and (%(after)s::text is null or device.name > %(after)s)"
            " order by device.name limit %(limit)s",
            {"site": site, "after": after, "limit": limit},
        ).fetchall()


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
