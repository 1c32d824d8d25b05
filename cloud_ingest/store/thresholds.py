"""Thresholds and their versions."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.errors import UniqueViolation
from psycopg.types.json import Jsonb

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.alerts.precedence import Candidate, Sensor
from cloud_ingest.alerts.rule import Rule, Versions
from cloud_ingest.errors import Conflict, Outdated
from cloud_ingest.store.database import Connection
from telemetry_contract.series import SeriesKey

# Held shared by a batch while it judges, alone by a change: a batch judges by one set of thresholds, and what commits
# after a change was judged by what the change made.
EPOCH_LOCK: Final = 0x7465_6C65_0004


@dataclass(frozen=True, slots=True)
class ThresholdRow:
    """A threshold as it is now."""

    threshold_id: int
    version: int
    definition: Definition
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """What `apply` does to one threshold: `before` is None where it makes it, `after` where it deletes it."""

    before: Definition | None
    after: Definition | None


def list_thresholds(
    connection: Connection, *, after: str | None = None, limit: int | None = None
) -> list[ThresholdRow]:
    """Thresholds by name, from behind the name `after`."""
    rows = connection.execute(
        "select threshold_id, version, definition, created_at, updated_at from telemetry.threshold"
        " where %(after)s::text is null or name > %(after)s order by name limit %(limit)s",
        {"after": after, "limit": limit},
    ).fetchall()
    return [_row(row) for row in rows]


def get_threshold(connection: Connection, threshold_id: int) -> ThresholdRow | None:
    """One threshold; None where there is none of this number."""
    row = connection.execute(
        "select threshold_id, version, definition, created_at, updated_at from telemetry.threshold"
        " where threshold_id = %s",
        [threshold_id],
    ).fetchone()
    return None if row is None else _row(row)


def create_threshold(connection: Connection, definition: Definition) -> ThresholdRow:
    """Makes a threshold, in a transaction of the caller's. Raises Conflict where the name is taken."""
    lock(connection)
    with _unique_name(definition):
        row = connection.execute(
            "insert into telemetry.threshold (name, version, definition, created_at, updated_at)"
            " values (%(name)s, 1, %(definition)s, clock_timestamp(), clock_timestamp())"
            " returning threshold_id, version, definition, created_at, updated_at",
            {"name": definition.name, "definition": _json(definition)},
        ).fetchall()[0]
    made = _row(row)
    _note_version(connection, made.threshold_id, made.version, definition)
    return made


def change_threshold(
    connection: Connection, threshold_id: int, definition: Definition, *, expected: int | None = None
) -> ThresholdRow | None:
    """Puts a definition in place of the present one, as a new version; the same definition again changes nothing.

    In a transaction of the caller's. None where there is no such threshold. Raises Outdated where `expected` is not
    the version that is there, Conflict where the name is another's.
    """
    lock(connection)
    present = get_threshold(connection, threshold_id)
    if present is None:
        return None
    _require(present, expected)
    if present.definition == definition:
        return present
    with _unique_name(definition):
        row = connection.execute(
            "update telemetry.threshold set name = %(name)s, version = version + 1, definition = %(definition)s,"
            " updated_at = clock_timestamp() where threshold_id = %(id)s"
            " returning threshold_id, version, definition, created_at, updated_at",
            {"name": definition.name, "definition": _json(definition), "id": threshold_id},
        ).fetchall()[0]
    changed = _row(row)
    _note_version(connection, threshold_id, changed.version, definition)
    return changed


def delete_threshold(connection: Connection, threshold_id: int, *, expected: int | None = None) -> bool:
    """Deletes a threshold, in a transaction of the caller's; its versions stay. Whether there was one.

    Raises Outdated where `expected` is not the version that is there.
    """
    lock(connection)
    present = get_threshold(connection, threshold_id)
    if present is None:
        return False
    _require(present, expected)
    connection.execute("delete from telemetry.threshold where threshold_id = %s", [threshold_id])
    _note_version(connection, threshold_id, present.version + 1, None)
    return True


def apply_thresholds(connection: Connection, wanted: Sequence[Definition], *, prune: bool) -> list[Change]:
    """Makes the thresholds what `wanted` says, by name, in a transaction of the caller's; what changed, by name.

    Others are left as they are, or deleted with `prune`.
    """
    lock(connection)
    present = {row.definition.name: row for row in list_thresholds(connection)}
    changes = []
    for definition in wanted:
        row = present.pop(definition.name, None)
        if row is None:
            create_threshold(connection, definition)
            changes.append(Change(None, definition))
        elif row.definition != definition:
            change_threshold(connection, row.threshold_id, definition)
            changes.append(Change(row.definition, definition))
    for row in present.values() if prune else ():
        delete_threshold(connection, row.threshold_id)
        changes.append(Change(row.definition, None))
    return sorted(changes, key=_name_of)


def candidates(connection: Connection) -> list[Candidate]:
    """All thresholds, to find out which applies."""
    return [Candidate(row.threshold_id, row.definition) for row in list_thresholds(connection)]


def versions(connection: Connection) -> dict[int, Versions]:
    """All versions of each threshold there is, by its number."""
    rows = connection.execute(
        "select threshold_id, threshold_version.version, (extract(epoch from valid_from) * 1000)::bigint,"
        " threshold_version.definition"
        " from telemetry.threshold_version join telemetry.threshold using (threshold_id)"
        " where threshold_version.definition is not null"
    ).fetchall()
    rules: dict[int, list[Rule]] = {}
    for threshold_id, version, valid_from_ms, definition in rows:
        rules.setdefault(threshold_id, []).append(Definition.model_validate(definition).rule(version, valid_from_ms))
    return {threshold_id: Versions(found) for threshold_id, found in rules.items()}


def find_sensor(connection: Connection, device: str, key: SeriesKey) -> Sensor | None:
    """A series of a device, with what is known of where it is; None where there is no such device.

    The series itself need not have been seen yet.
    """
    row = connection.execute(
        "select device.name, device.site, location.path::text, sensor.sensor_type from telemetry.device"
        " left join telemetry.series_key on series_key.key = %(key)s"
        " left join telemetry.sensor on sensor.device_id = device.device_id and sensor.key_id = series_key.key_id"
        " left join telemetry.location on location.location_id = coalesce(sensor.location_id, device.location_id)"
        " where device.name = %(device)s",
        {"device": device, "key": str(key)},
    ).fetchone()
    if row is None:
        return None
    name, site, location, sensor_type = row
    return Sensor(name, site, key.metric, dict(key.labels), location, sensor_type)


def lock(connection: Connection) -> None:
    """Until the transaction ends, nobody else changes what decides which threshold judges what, and no batch judges."""
    connection.execute("select pg_advisory_xact_lock(%s)", [EPOCH_LOCK])


def _note_version(connection: Connection, threshold_id: int, version: int, definition: Definition | None) -> None:
    connection.execute(
        "insert into telemetry.threshold_version (threshold_id, version, valid_from, definition)"
        " values (%s, %s, clock_timestamp(), %s)",
        [threshold_id, version, None if definition is None else _json(definition)],
    )


def _require(present: ThresholdRow, expected: int | None) -> None:
    if expected is not None and present.version != expected:
        raise Outdated(f"threshold {present.definition.name} is at version {present.version}, not {expected}")


@contextmanager
def _unique_name(definition: Definition) -> Iterator[None]:
    try:
        yield
    except UniqueViolation as exc:
        raise Conflict(f"there is a threshold {definition.name} already") from exc


def _name_of(change: Change) -> str:
    definitions: Iterable[Definition | None] = (change.before, change.after)
    return next(it.name for it in definitions if it is not None)


def _json(definition: Definition) -> Jsonb:
    return Jsonb(definition.model_dump(mode="json"))


def _row(row: tuple[Any, ...]) -> ThresholdRow:
    threshold_id, version, definition, created_at, updated_at = row
    return ThresholdRow(threshold_id, version, Definition.model_validate(definition), created_at, updated_at)
