"""Which publisher speaks for a device that has no agent of ours.

The first that brought a reading of a device is its publisher; an agent of ours with that name takes the device over.
So no publisher can add to what an agent measured, or to what another publisher did.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple
from uuid import UUID, uuid5

from cloud_ingest.store.database import Connection

_STREAMS: Final = UUID("6a3c1f1e-51c0-4d0e-9a55-0b8b54b9a7f2")


class Owner(NamedTuple):
    """Whose a device is: the `publisher` that claimed it, None where none did, and whether it has an agent."""

    publisher: str | None
    has_agent: bool

    def refusal(self, device: str, publisher: str) -> str | None:
        """Why this publisher can't speak for the device; None where it can."""
        if self.has_agent:
            return f"device {device} has an agent of its own"
        if self.publisher is not None and self.publisher != publisher:
            return f"device {device} belongs to publisher {self.publisher}, not to {publisher}"
        return None


NOBODY: Final = Owner(None, has_agent=False)


def stream_of(device: str) -> UUID:
    """The stream of a device without an agent: its row is the lock, and counts what was stored."""
    return uuid5(_STREAMS, device)


def owners(connection: Connection, devices: Collection[str]) -> dict[str, Owner]:
    """The owner of each of the devices that is known."""
    if not devices:
        return {}
    rows = connection.execute(
        "select device.name, publisher.name,"
        " exists (select from telemetry.stream"
        "  where stream.device_id = device.device_id and stream.stream_id <> wanted.stream_id)"
        " or exists (select from telemetry.device_status where device_status.device_id = device.device_id)"
        " from unnest(%(devices)s::text[], %(streams)s::uuid[]) as wanted (name, stream_id)"
        " join telemetry.device using (name) left join telemetry.publisher using (device_id)",
        {"devices": list(devices), "streams": [stream_of(device) for device in devices]},
    ).fetchall()
    return {device: Owner(publisher, has_agent) for device, publisher, has_agent in rows}


def claim(connection: Connection, wanted: Mapping[int, str]) -> None:
    """Gives devices (by their numbers) the publishers, where they have none yet."""
    ordered = sorted(wanted.items())
    connection.execute(
        # Sorted, so that two ingesters that claim the same devices wait for each other and don't deadlock
        "insert into telemetry.publisher (device_id, name)"
        " select * from unnest(%(devices)s::integer[], %(names)s::text[]) as wanted (device_id, name)"
        " order by device_id on conflict do nothing",
        {"devices": [device for device, _ in ordered], "names": [name for _, name in ordered]},
    )
