"""Streams that show up on two machines, noted for people to see.

Under two names they are fenced by the ledger: the stream stays its owner's. Under one name the ledger can't tell them
apart, and what the second sends looks as if it came again. But what an agent has sent it never changes, so a tick whose
number is settled, and whose time is none that is stored, is another machine's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from cloud_ingest.store.database import Connection
from cloud_ingest.store.gaps import REJECTED


@dataclass(frozen=True, slots=True)
class ConflictRow:
    """`claimant` sent so many messages with ticks of a stream that belongs to `owner`; none of these was stored.

    Where both are one name, two machines have it.
    """

    stream: UUID
    owner: str
    claimant: str
    messages: int
    first_seen: datetime
    last_seen: datetime


class Repeated(NamedTuple):
    """A tick that was not stored because its number is settled. Its time is one that raw readings are kept of."""

    stream: UUID
    device_id: int
    seq: int
    time_ms: int


def of_another_machine(connection: Connection, ticks: Sequence[Repeated]) -> list[Repeated]:
    """Those that are not what is stored under their number; within the batch's transaction, after its readings."""
    if not ticks:
        return []
    rows = connection.execute(
        "select wanted.number from"
        " unnest(%(streams)s::uuid[], %(devices)s::integer[], %(seqs)s::bigint[], %(times)s::bigint[])"
        " with ordinality as wanted (stream_id, device_id, seq, time_ms, number)"
        # Whatever its layout: what is derived from a tick may have changed since it first came
        " where (select true from telemetry.device_layout cross join lateral ("
        "   select from telemetry.reading where reading.device_id = wanted.device_id"
        "    and reading.layout_id = device_layout.layout_id"
        "    and reading.time = to_timestamp(wanted.time_ms / 1000.0) limit 1) as reading"
        "  where device_layout.device_id = wanted.device_id limit 1) is null"
        # What was rejected is settled and was never stored
        "  and not exists (select from telemetry.gap where gap.stream_id = wanted.stream_id"
        "   and wanted.seq between from_seq and to_seq and reason = %(rejected)s)",
        {
            "streams": [tick.stream for tick in ticks],
            "devices": [tick.device_id for tick in ticks],
            "seqs": [tick.seq for tick in ticks],
            "times": [tick.time_ms for tick in ticks],
            "rejected": REJECTED,
        },
        prepare=False,
    ).fetchall()
    return [ticks[number - 1] for (number,) in rows]


def note(connection: Connection, claims: Mapping[tuple[UUID, int], int]) -> None:
    """Counts messages by stream and the number of the device they came from; within the batch's transaction."""
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
