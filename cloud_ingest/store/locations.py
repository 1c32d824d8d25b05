"""The tree of locations, and what is where."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import sql
from psycopg.errors import ForeignKeyViolation, UniqueViolation
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from cloud_ingest.errors import Conflict, Outdated
from cloud_ingest.store.database import Connection
from cloud_ingest.store.thresholds import lock
from telemetry_contract.metrics import unit_of
from telemetry_contract.series import SeriesKey

# The columns that a change may set; the path has a way of its own.
_CHANGEABLE: Final = frozenset({"name", "latitude", "longitude", "time_zone"})

# A time zone counts for all below, until one has its own.
_SELECT: Final = (
    "select location.path::text as path, location.name, latitude, longitude, time_zone,"
    " (select above.time_zone from telemetry.location as above"
    "  where above.path @> location.path and above.time_zone is not null"
    "  order by nlevel(above.path) desc limit 1) as effective_time_zone,"
    " (select count(*) from telemetry.device where device.location_id = location.location_id) as devices,"
    " version, created_at, updated_at from telemetry.location"
)


@dataclass(frozen=True, slots=True)
class LocationRow:
    """A location; `effective_time_zone` is its own or the nearest one above, `devices` those right there."""

    path: str
    name: str
    latitude: float | None
    longitude: float | None
    time_zone: str | None
    effective_time_zone: str | None
    devices: int
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SensorRow:
    """What people said of one series of a device."""

    metric: str
    labels: dict[str, str]
    location: str | None
    sensor_type: str | None


def list_locations(
    connection: Connection, *, below: str | None = None, after: str | None = None, limit: int | None = None
) -> list[LocationRow]:
    """Locations in the order of the tree: `below` and all under it, or all; from behind the path `after`."""
    with connection.cursor(row_factory=class_row(LocationRow)) as cursor:
        return cursor.execute(
            sql.SQL(
                "{} where (%(below)s::ltree is null or location.path <@ %(below)s::ltree)"
                " and (%(after)s::ltree is null or location.path > %(after)s::ltree)"
                " order by location.path limit %(limit)s"
            ).format(sql.SQL(_SELECT)),
            {"below": below, "after": after, "limit": limit},
        ).fetchall()


def get_location(connection: Connection, path: str) -> LocationRow | None:
    """One location; None where there is none."""
    with connection.cursor(row_factory=class_row(LocationRow)) as cursor:
        return cursor.execute(sql.SQL("{} where location.path = %s::ltree").format(sql.SQL(_SELECT)), [path]).fetchone()


def create_location(
    connection: Connection,
    path: str,
    *,
    name: str,
    latitude: float | None = None,
    longitude: float | None = None,
    time_zone: str | None = None,
) -> None:
    """Makes a location, in a transaction of the caller's.

    Raises Conflict where it is there, or the one above is not.
    """
    lock(connection)
    _require_above(connection, path)
    try:
        connection.execute(
            "insert into telemetry.location (path, name, latitude, longitude, time_zone)"
            " values (%s::ltree, %s, %s, %s, %s)",
            [path, name, latitude, longitude, time_zone],
        )
    except UniqueViolation as exc:
        raise Conflict(f"there is a location {path} already") from exc


def change_location(
    connection: Connection, path: str, changes: Mapping[str, Any], *, expected: int | None = None
) -> str | None:
    """Sets columns of a location, `path` too, with which all below it moves; its path afterwards.

    In a transaction of the caller's. None where there is no such location. Raises Outdated where `expected` is not
    the version that is there, Conflict where it can't move there.
    """
    lock(connection)
    present = get_location(connection, path)
    if present is None:
        return None
    if expected is not None and present.version != expected:
        raise Outdated(f"location {path} is at version {present.version}, not {expected}")
    target = str(changes.get("path", path))
    columns = {name: value for name, value in changes.items() if name in _CHANGEABLE}
    assignments = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in columns]
    connection.execute(
        sql.SQL("update telemetry.location set {} where path = %(path)s::ltree").format(
            sql.SQL(", ").join([*assignments, sql.SQL("version = version + 1, updated_at = now()")])
        ),
        {**columns, "path": path},
    )
    if target != path:
        _move(connection, path, target)
    return target


def delete_location(connection: Connection, path: str, *, expected: int | None = None) -> bool:
    """Deletes a location, in a transaction of the caller's. Whether there was one.

    Raises Conflict where something is below it or there, Outdated where `expected` is not the version that is there.
    """
    lock(connection)
    present = get_location(connection, path)
    if present is None:
        return False
    if expected is not None and present.version != expected:
        raise Outdated(f"location {path} is at version {present.version}, not {expected}")
    ((below,),) = connection.execute(
        "select count(*) from telemetry.location where path <@ %(path)s::ltree and path <> %(path)s::ltree",
        {"path": path},
    ).fetchall()
    if below:
        raise Conflict(f"{below} locations are below {path}: delete or move them first")
    try:
        connection.execute("delete from telemetry.location where path = %s::ltree", [path])
    except ForeignKeyViolation as exc:
        raise Conflict(f"devices or sensors are at {path}: put them elsewhere first") from exc
    return True


def place_device(connection: Connection, device: str, path: str | None) -> bool:
    """Puts a device at a location, or nowhere, in a transaction of the caller's. Whether there is such a device.

    Raises Conflict where there is no such location.
    """
    lock(connection)
    placed = connection.execute(
        "update telemetry.device set location_id = %s where name = %s",
        [_location_id(connection, path), device],
    )
    return placed.rowcount > 0


def device_location(connection: Connection, device: str) -> tuple[str | None] | None:
    """Where a device is, as a tuple of one; None where there is no such device."""
    row = connection.execute(
        "select location.path::text from telemetry.device left join telemetry.location using (location_id)"
        " where device.name = %s",
        [device],
    ).fetchone()
    return None if row is None else (row[0],)


def list_sensors(connection: Connection, device: str) -> list[SensorRow]:
    """The series of a device of which people said something, by series."""
    with connection.cursor(row_factory=class_row(SensorRow)) as cursor:
        return cursor.execute(
            "select series_key.metric, series_key.labels, location.path::text as location, sensor.sensor_type"
            " from telemetry.sensor join telemetry.device using (device_id) join telemetry.series_key using (key_id)"
            " left join telemetry.location on location.location_id = sensor.location_id"
            " where device.name = %s order by series_key.key",
            [device],
        ).fetchall()


def place_sensor(
    connection: Connection, device: str, key: SeriesKey, path: str | None, sensor_type: str | None
) -> bool:
    """Says of a series of a device where it is and of what type; nothing of both takes back what was said.

    In a transaction of the caller's. Whether there is such a device; the series need not have been seen yet. Raises
    Conflict where there is no such location.
    """
    lock(connection)
    location_id = _location_id(connection, path)
    row = connection.execute("select device_id from telemetry.device where name = %s", [device]).fetchone()
    if row is None:
        return False
    connection.execute(
        "insert into telemetry.series_key (key, metric, labels, unit) values (%s, %s, %s, %s) on conflict do nothing",
        [str(key), key.metric, Jsonb(dict(key.labels)), unit_of(key.metric)],
    )
    named = {"device": row[0], "key": str(key), "location": location_id, "type": sensor_type}
    if location_id is None and sensor_type is None:
        connection.execute(
            "delete from telemetry.sensor using telemetry.series_key"
            " where sensor.key_id = series_key.key_id and sensor.device_id = %(device)s and series_key.key = %(key)s",
            named,
        )
    else:
        connection.execute(
            "insert into telemetry.sensor (device_id, key_id, location_id, sensor_type)"
            " select %(device)s, key_id, %(location)s, %(type)s from telemetry.series_key where key = %(key)s"
            " on conflict (device_id, key_id) do update"
            " set location_id = excluded.location_id, sensor_type = excluded.sensor_type",
            named,
        )
    return True


def _location_id(connection: Connection, path: str | None) -> int | None:
    if path is None:
        return None
    row = connection.execute("select location_id from telemetry.location where path = %s::ltree", [path]).fetchone()
    if row is None:
        raise Conflict(f"there is no location {path}")
    return int(row[0])


def _require_above(connection: Connection, path: str) -> None:
    above = path.rpartition(".")[0]
    if above:
        _location_id(connection, above)


def _move(connection: Connection, path: str, target: str) -> None:
    if target.startswith(f"{path}."):
        raise Conflict(f"{path} can't move below itself")
    _require_above(connection, target)
    try:
        connection.execute(
            "update telemetry.location set updated_at = now(), path = %(target)s::ltree ||"
            " case when path = %(path)s::ltree then '' else subpath(path, nlevel(%(path)s::ltree)) end"
            " where path <@ %(path)s::ltree",
            {"path": path, "target": target},
        )
    except UniqueViolation as exc:
        raise Conflict(f"there is a location {target} already") from exc
