"""What the cloud wants of devices' configurations, and what they say has become of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from cloud_ingest.store.database import Connection, translated
from telemetry_contract.desired import DesiredSettings


@dataclass(frozen=True, slots=True)
class Wanted:
    """The newest of a device; `settings` is None where nothing is wanted any more."""

    site: str
    device: str
    version: int
    settings: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class DesiredRow:
    """What is wanted of a device and when that changed, None where nothing ever was.

    `reported` is what it last said of it (`telemetry_contract.payload.DesiredState` as JSON), `reported_at` when.
    """

    device: str
    version: int | None
    settings: dict[str, Any] | None
    changed_at: datetime | None
    reported: dict[str, Any] | None
    reported_at: datetime | None


_WANTED: Final = (
    "select device.site, device.name as device, desired_config.version, desired_config.settings"
    " from telemetry.desired_config join telemetry.device using (device_id)"
)


def desired(connection: Connection, device: str) -> DesiredRow | None:
    """All about one device; None where nothing was ever heard of it."""
    with connection.cursor(row_factory=class_row(DesiredRow)) as cursor:
        return cursor.execute(
            "select device.name as device, desired_config.version, desired_config.settings, desired_config.changed_at,"
            "  nullif(device_status.status -> 'desired', 'null') as reported, device_status.reported_at"
            " from telemetry.device"
            " left join telemetry.desired_config using (device_id)"
            " left join telemetry.device_status using (device_id)"
            " where device.name = %(device)s",
            {"device": device},
        ).fetchone()


def want(connection: Connection, device: str, settings: DesiredSettings | None) -> None:
    """Wants this of a device from now on, under a new version; nothing at all where nothing is wanted, nor was before.

    Does nothing where the device does not exist. Needs a transaction: it holds up others that want something until it
    ends, so that who has seen a version has seen all lower ones.
    """
    connection.execute("lock table telemetry.desired_config in share row exclusive mode")
    connection.execute(
        "insert into telemetry.desired_config as held (device_id, version, settings)"
        " select device_id, nextval('telemetry.desired_config_version'), %(settings)s::jsonb"
        " from telemetry.device left join telemetry.desired_config as now using (device_id)"
        " where name = %(device)s and (%(settings)s::jsonb is not null or now.settings is not null)"
        " on conflict (device_id) do update"
        " set version = excluded.version, settings = excluded.settings, changed_at = now()",
        {"device": device, "settings": None if settings is None else Jsonb(msgspec.to_builtins(settings))},
    )


def wanted_since(connection: Connection, version: int) -> list[Wanted]:
    """What changed after a version, in order.

    Raises StoreUnavailable.
    """
    with translated(), connection.cursor(row_factory=class_row(Wanted)) as cursor:
        return cursor.execute(_WANTED + " where version > %s order by version", [version]).fetchall()


def wanted_of(connection: Connection, device: str) -> Wanted | None:
    """What is wanted of one device; None where nothing ever was.

    Raises StoreUnavailable.
    """
    with translated(), connection.cursor(row_factory=class_row(Wanted)) as cursor:
        return cursor.execute(_WANTED + " where device.name = %s", [device]).fetchone()
