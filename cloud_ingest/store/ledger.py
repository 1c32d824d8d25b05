"""The ledger: which sequence numbers of a stream are settled, kept in the row that is also the stream's lock.

A number is settled once its tick is stored, or parked in `rejected`. What the ledger holds when a transaction commits
is what a commit ack may say, and what makes a second delivery harmless. All functions here run inside the batch's
transaction, in this order: `create`, `lock`, `settled`, `settle`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cloud_ingest.store.database import Connection
from cloud_ingest.store.ranges import Range, from_multirange, to_multirange


@dataclass(frozen=True, slots=True)
class Entry:
    """What a batch adds to a stream: `incoming` ranges, of which `ticks` were stored, the newest at `newest`."""

    incoming: list[Range]
    low: int
    ticks: int
    newest: datetime | None


def create(connection: Connection, devices: Mapping[UUID, int]) -> None:
    """Makes the streams (each with the number of its device) that are not there yet."""
    streams = sorted(devices)
    connection.execute(
        "insert into telemetry.stream (stream_id, device_id)"
        " select * from unnest(%(streams)s::uuid[], %(devices)s::integer[]) as wanted (stream_id, device_id)"
        " order by stream_id on conflict do nothing",
        {"streams": _array(streams), "devices": _array(devices[stream] for stream in streams)},
    )


def lock(connection: Connection, streams: Iterable[UUID]) -> dict[UUID, int]:
    """Locks the streams until the transaction ends and says whose they are: stream -> number of the device.

    Always in ascending order, so that two ingesters with the same streams can't deadlock.
    """
    rows = connection.execute(
        "select stream_id, device_id from telemetry.stream where stream_id = any(%s::uuid[])"
        " order by stream_id for update",
        [_array(sorted(streams))],
    ).fetchall()
    return dict(rows)


def settled(connection: Connection, incoming: Mapping[UUID, list[Range]]) -> dict[UUID, list[Range]]:
    """The parts of `incoming` that are settled already, for the streams that have any.

    A statement after `lock`, not one with it: it must see what the previous holder of the lock committed.
    """
    rows = connection.execute(
        "select stream_id, (stream.received * incoming.ranges)::text"
        " from unnest(%(streams)s::uuid[], %(ranges)s::int8multirange[]) as incoming (stream_id, ranges)"
        " join telemetry.stream using (stream_id) where stream.received && incoming.ranges",
        {"streams": _array(incoming), "ranges": _array(map(_quoted, incoming.values()))},
    ).fetchall()
    return {stream: from_multirange(text) for stream, text in rows}


def settle(connection: Connection, entries: Mapping[UUID, Entry]) -> dict[UUID, list[Range]]:
    """Adds the entries and returns, for each of their streams, what is now settled of that the edge may still hold."""
    rows = connection.execute(
        "update telemetry.stream set received = stream.received + entry.incoming,"
        " low = greatest(stream.low, entry.low), ticks = stream.ticks + entry.ticks,"
        " newest = greatest(stream.newest, entry.newest), last_seen = now()"
        " from unnest(%(streams)s::uuid[], %(incoming)s::int8multirange[], %(lows)s::bigint[],"
        " %(ticks)s::bigint[], %(newest)s::timestamptz[]) as entry (stream_id, incoming, low, ticks, newest)"
        " where stream.stream_id = entry.stream_id"
        " returning stream.stream_id, (stream.received * int8multirange(int8range(stream.low, null)))::text",
        {
            "streams": _array(entries),
            "incoming": _array(_quoted(entry.incoming) for entry in entries.values()),
            "lows": _array(entry.low for entry in entries.values()),
            "ticks": _array(entry.ticks for entry in entries.values()),
            "newest": _array("null" if entry.newest is None else f'"{entry.newest}"' for entry in entries.values()),
        },
    ).fetchall()
    return {stream: from_multirange(text) for stream, text in rows}


def held(connection: Connection, stream: UUID, device: str) -> list[Range] | None:
    """What is settled of a stream that the edge may still hold; None where the device has no such stream."""
    row = connection.execute(
        "select (received * int8multirange(int8range(low, null)))::text"
        " from telemetry.stream join telemetry.device using (device_id) where stream_id = %s and device.name = %s",
        [stream, device],
    ).fetchone()
    return None if row is None else from_multirange(row[0])


def _array(items: Iterable[object]) -> str:
    """The text of a PostgreSQL array.

    Made here because a batch has thousands of these, of numbers and UUIDs that need no escaping, and the driver's
    general way takes a third of the time that a batch has.
    """
    return "{" + ",".join(map(str, items)) + "}"


def _quoted(ranges: list[Range]) -> str:
    return f'"{to_multirange(ranges)}"'
