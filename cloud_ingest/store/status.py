"""What devices say about themselves, as their retained `status` has it."""

from datetime import datetime

import msgspec
from psycopg.types.json import Jsonb

from cloud_ingest.store.database import Connection, translated
from telemetry_contract.payload import Status


def record_status(connection: Connection, site: str, device: str, status: Status, received_at: datetime) -> None:
    """Keeps the newest status of a device, and makes the device where this is the first that is heard of it.

    A status that is known already, as a broker sends it again to each new subscriber, changes nothing: it was heard
    when it first came. A last will, which knows little, leaves what the device itself said of the same stream.

    Raises StoreUnavailable; DataRejected where the status holds what a database can't.
    """
    with translated():
        connection.execute(
            "with known as ("
            " insert into telemetry.device (name, site) values (%(device)s, %(site)s)"
            " on conflict (name) do update set site = excluded.site returning device_id)"
            " insert into telemetry.device_status as held (device_id, online, received_at, reported_at, status)"
            " select device_id, %(online)s, %(received_at)s, %(reported_at)s, %(status)s from known"
            " on conflict (device_id) do update set online = excluded.online, received_at = excluded.received_at,"
            "  reported_at = coalesce(excluded.reported_at, held.reported_at),"
            "  status = case when excluded.status ? 'time' or excluded.status -> 'stream' <> held.status -> 'stream'"
            "   then excluded.status else (held.status - 'reason') || excluded.status end"
            " where not held.status @> excluded.status",
            {
                "device": device,
                "site": site,
                "online": status.online,
                "received_at": received_at,
                "reported_at": None if status.time is None else received_at,
                "status": Jsonb(msgspec.to_builtins(status)),
            },
        )
