"""Streams that show up on two devices: fenced by the ledger, whose owner they keep, and noted for people to see."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from cloud_ingest.store.database import Connection


@dataclass(frozen=True, slots=True)
class ConflictRow:
    """`claimant` sent so many messages with ticks of a stream that belongs to `owner`; none of them was stored."""

    stream: UUID
    owner: str
    claimant: str
    messages: int
    first_seen: datetime
    last_seen: datetime


def note(connection: Connection, claims: Mapping[tuple[UUID, int], int]) -> None:
    """Counts messages by stream and the number of the device that is not its owner; within the batch's transaction."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into telemetry.stream_conflict (stream_id, device_id, messages) values (%s, %s, %s)"
            " on conflict (stream_id, device_id) do update set"
            " messages = stream_conflict.messages + excluded.messages, last_seen_at = now()",
            # In one order, so that two ingesters can't deadlock
            [(stream, device_id, messages) for (stream, device_id), messages in sorted(claims.items())],
        )


def of_device(connection: Connection, device: str, limit: int) -> list[ConflictRow]:
    """Those in which the device is owner or claimant, the latest first."""
    with connection.cursor(row_factory=class_row(ConflictRow)) as cursor:
        return cursor.execute(
            "select stream_id as stream, owner.name as owner, claimant.name as claimant, messages,"
            "  first_seen_at as first_seen, last_seen_at as last_seen"
            " from telemetry.stream_conflict join telemetry.stream using (stream_id)"
            " join telemetry.device as owner on owner.device_id = stream.device_id"
            " join telemetry.device as claimant on claimant.device_id = stream_conflict.device_id"
            " where %(device)s in (owner.name, claimant.name)"
            " order by last_seen_at desc, stream_id, claimant.name limit %(limit)s",
            {"device": device, "limit": limit},
        ).fetchall()
