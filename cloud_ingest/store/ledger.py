"""The ledger: which sequence numbers of a stream are settled, kept in the row that is also the stream's lock.

A number is settled once its tick is stored, or parked in `rejected`. What the ledger holds when a transaction commits
is what a commit ack may say, and what makes a second delivery harmless. `lock` and `settle` run inside the batch's
transaction, in this order; the streams are made before it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from uuid import UUID

from cloud_ingest.store.database import Connection
from cloud_ingest.store.ranges import Range, from_multirange, to_multirange

_number = attrgetter("int")  # the order of UUIDs, which they find more slowly themselves


@dataclass(frozen=True, slots=True)
class Entry:
    """What a batch adds to a stream: `incoming` ranges, of which `ticks` were stored, the newest at `newest`.

    `low`: the highest number below which nothing comes any more, as its messages say.
    """

    incoming: list[Range]
    low: int
    ticks: int
    newest: datetime | None


@dataclass(frozen=True, slots=True)
class Known:
    """Whose a stream is (the number of the device), and which of the incoming numbers are settled already.

    `is_new`: nothing of it was settled before.
    """

    device_id: int
    is_new: bool
    settled: list[Range]


@dataclass(frozen=True, slots=True)
class Settled:
    """What is settled of a stream that its edge may still hold, and whether everything below `low` is settled."""

    ranges: list[Range]
    complete_below_low: bool


def create(connection: Connection, devices: Mapping[UUID, int]) -> None:
    """Makes the streams (each with the number of its device) that are not there yet."""
    streams = sorted(devices, key=_number)
    connection.execute(
        # Sorted, so that two ingesters that make the same streams wait for each other and don't deadlock
        "insert into telemetry.stream (stream_id, device_id)"
        " select * from unnest(%(streams)s::uuid[], %(devices)s::integer[]) as wanted (stream_id, device_id)"
        " order by stream_id on conflict do nothing",
        {"streams": _array(streams), "devices": _array(devices[stream] for stream in streams)},
    )


def lock(connection: Connection, incoming: Mapping[UUID, list[Range]]) -> dict[UUID, Known]:
    """Locks the streams until the transaction ends; what is known of those that are there.

    Always in ascending order, so that two ingesters with the same streams can't deadlock. What is returned of a row is
    what its last holder committed, though the statement began before: PostgreSQL computes it anew after the wait
    (documentation, 13.2.1 "Read Committed Isolation Level").
    """
    streams = sorted(incoming, key=_number)
    rows = connection.execute(
        "select incoming.number, stream.device_id, isempty(stream.received),"
        " case when stream.received && incoming.ranges then (stream.received * incoming.ranges)::text end"
        " from unnest(%(streams)s::uuid[], %(ranges)s::int8multirange[]) with ordinality"
        " as incoming (stream_id, ranges, number)"
        " join telemetry.stream using (stream_id) order by stream_id for update of stream",
        {"streams": _array(streams), "ranges": _array(_quoted(incoming[stream]) for stream in streams)},
    ).fetchall()
    return {
        streams[number - 1]: Known(device_id, is_new, [] if settled is None else from_multirange(settled))
        for number, device_id, is_new, settled in rows
    }


def settle(connection: Connection, entries: Mapping[UUID, Entry]) -> dict[UUID, Settled]:
    """Adds the entries; how each of their streams then stands."""
    streams = list(entries)
    rows = connection.execute(
        "update telemetry.stream set received = stream.received + entry.incoming,"
        " low = greatest(stream.low, entry.low), ticks = stream.ticks + entry.ticks,"
        " newest = greatest(stream.newest, entry.newest), last_seen = now(),"
        # Of several ticks of the present the newest need not come last; a backlog is not the present
        " newest_xid = case when entry.newest > coalesce(stream.newest, '-infinity') - interval '1 minute'"
        "  then pg_current_xact_id() else stream.newest_xid end"
        " from unnest(%(streams)s::uuid[], %(incoming)s::int8multirange[], %(lows)s::bigint[],"
        " %(ticks)s::bigint[], %(newest)s::timestamptz[]) with ordinality"
        " as entry (stream_id, incoming, low, ticks, newest, number)"
        " where stream.stream_id = entry.stream_id"
        " returning entry.number, (stream.received * int8multirange(int8range(stream.low, null)))::text,"
        " stream.received @> int8range(1, stream.low)",
        {
            "streams": _array(streams),
            "incoming": _array(_quoted(entry.incoming) for entry in entries.values()),
            "lows": _array(entry.low for entry in entries.values()),
            "ticks": _array(entry.ticks for entry in entries.values()),
            "newest": _array("null" if entry.newest is None else f'"{entry.newest}"' for entry in entries.values()),
        },
    ).fetchall()
    return {streams[number - 1]: Settled(from_multirange(text), complete) for number, text, complete in rows}


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
