"""Reads about gaps: what is missing of a device, and what it takes away from a stretch of time."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from cloud_ingest.store.database import Connection
from cloud_ingest.store.gaps import REJECTED


@dataclass(frozen=True, slots=True)
class GapRow:
    """Numbers of a stream without a reading: `ticks` of those from `from_seq` to `to_seq`.

    `start` and `end` are the times of the readings around them, None where these are not known. The reason of what may
    still come is "awaited".
    """

    stream: UUID
    from_seq: int
    to_seq: int
    ticks: int
    start: datetime | None
    end: datetime | None
    reason: str


class GapKey(NamedTuple):
    """Which gap of a device it is."""

    stream: UUID
    from_seq: int


class Loss(NamedTuple):
    """From `start_ms` to `end_ms` this `share` (0 to 1) of a device's readings is missing for good."""

    start_ms: int
    end_ms: int
    share: float


def list_gaps(connection: Connection, device: str, *, behind: GapKey | None, limit: int) -> list[GapRow]:
    """The gaps of a device from behind one of them, those of its newest stream first, and of a stream the newest."""
    with connection.cursor(row_factory=class_row(GapRow)) as cursor:
        return cursor.execute(
            "with its as ("
            "  select stream_id, stream.created_at, received from telemetry.stream join telemetry.device"
            "  using (device_id) where device.name = %(device)s),"
            " known as ("
            "  select stream_id, from_seq, to_seq, ticks, start_time, end_time, reason from telemetry.gap"
            "  union all"
            "  select stream_id, lower(open), upper(open) - 1, upper(open) - lower(open), null, null, 'awaited'"
            "  from its cross join lateral"
            "   unnest(int8multirange(int8range(1, upper(received))) - received) as open"
            "  where not isempty(received))"
            ' select stream_id as stream, from_seq, to_seq, ticks, start_time as start, end_time as "end", reason'
            " from its join known using (stream_id)"
            " where %(stream)s::uuid is null"
            "  or (created_at, stream_id) <"
            "   (select created_at, stream_id from telemetry.stream where stream_id = %(stream)s)"
            "  or (stream_id = %(stream)s and from_seq < %(from)s)"
            " order by created_at desc, stream_id desc, from_seq desc limit %(limit)s",
            {
                "device": device,
                "stream": None if behind is None else behind.stream,
                "from": None if behind is None else behind.from_seq,
                "limit": limit,
            },
        ).fetchall()


def losses(connection: Connection, devices: Collection[str], start: datetime, end: datetime) -> dict[str, list[Loss]]:
    """What is missing of these devices in a time, by device; what was rejected is left out.

    That is about single series, whose readings are then none, and about ticks that claim another time.
    """
    found: dict[str, list[Loss]] = {}
    rows = connection.execute(
        "select device.name, (extract(epoch from start_time) * 1000)::bigint,"
        "  (extract(epoch from end_time) * 1000)::bigint, gap.ticks::float8 / (to_seq - from_seq + 1)"
        " from telemetry.device join telemetry.stream using (device_id) join telemetry.gap using (stream_id)"
        " where device.name = any(%(devices)s) and start_time < %(end)s and end_time > %(start)s"
        "  and reason <> %(rejected)s",
        {"devices": list(devices), "start": start, "end": end, "rejected": REJECTED},
    ).fetchall()
    for device, start_ms, end_ms, share in rows:
        found.setdefault(device, []).append(Loss(start_ms, end_ms, share))
    return found
