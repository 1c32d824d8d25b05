"""Gaps: sequence numbers that are settled and have no reading, and why.

`record` and `record_rejected` run inside the batch's transaction, after `ledger.settle`, for the few streams that have
something to say.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

from cloud_ingest.store.database import Connection
from cloud_ingest.store.ranges import Range, count, from_multirange, minus, runs_of, to_multirange
from cloud_ingest.store.text import storable

DROPPED: Final = "dropped"
THINNED: Final = "thinned"
REJECTED: Final = "rejected"

# Of these many small ones come one after the other; they are kept as one as long as nothing between is open.
_JOINED: Final = frozenset({THINNED, REJECTED})


class Told(NamedTuple):
    """What a message says of its outbox: nothing below `low` comes any more, nor what is in `gone`, ranges by why.

    `seqs` and `times_ms` are those of all ticks of the message. Each range of `gone` lies below one of them.
    """

    low: int
    gone: Mapping[str, Sequence[Range]] | None
    seqs: Sequence[int]
    times_ms: Sequence[int]


@dataclass(frozen=True, slots=True)
class Gone:
    """Ascending ranges of numbers that are gone, and the times of the ticks around them.

    `before_ms` is that of the tick before the first range, where the message has it; `next_ms` that of the tick after
    the first, and `end_ms` that of the tick after the last range.
    """

    reason: str
    ranges: list[Range]
    before_ms: int | None
    next_ms: int
    end_ms: int


def declared(told: Iterable[Told]) -> list[Gone]:
    """What messages say to be gone, without what they say only by `low` last: who says more is believed first.

    `low` counts in the message that has its tick, as only this one knows when what is missing ends.
    """
    messages = list(told)
    explicit = [
        _around(message, reason, part)
        for message in messages
        for reason, ranges in (message.gone or {}).items()
        for part in ([list(ranges)] if reason in _JOINED else [[one] for one in ranges])
        if part
    ]
    dropped = [
        Gone(DROPPED, [(1, message.low - 1)], None, message.times_ms[0], message.times_ms[0])
        for message in messages
        if message.low == message.seqs[0] > 1
    ]
    return explicit + dropped


def _around(message: Told, reason: str, ranges: list[Range]) -> Gone:
    before = bisect_left(message.seqs, ranges[0][0])
    return Gone(
        reason,
        ranges,
        message.times_ms[before - 1] if before else None,
        message.times_ms[before],
        message.times_ms[bisect_left(message.seqs, ranges[-1][1])],
    )


def record(connection: Connection, stream: UUID, device_id: int, told: Iterable[Told]) -> list[Range]:
    """Settles what is gone and keeps what of it never came; what is then settled that the edge may still hold."""
    gone = declared(told)
    covered = to_multirange(runs_of(it for one in gone for it in one.ranges))
    # What had come, and then, with what is gone, what is settled
    ((text, settled),) = connection.execute(
        "with before as (select received from telemetry.stream where stream_id = %(stream)s)"
        " update telemetry.stream set received = stream.received + %(covered)s::int8multirange from before"
        " where stream_id = %(stream)s returning (before.received * %(covered)s::int8multirange)::text,"
        " (stream.received * int8multirange(int8range(low, null)))::text",
        {"stream": stream, "covered": covered},
    ).fetchall()
    known = from_multirange(text)
    for one in gone:
        missing = minus(one.ranges, known)
        if missing:
            known = runs_of([*known, *missing])
            _keep(connection, stream, device_id, one, missing)
    return from_multirange(settled)


def record_rejected(
    connection: Connection, stream: UUID, ranges: Sequence[Range], oldest_ms: int, newest_ms: int
) -> None:
    """Keeps which ticks were parked in `rejected` and not stored. Their times are those that they claim."""
    gone = Gone(REJECTED, list(ranges), oldest_ms, newest_ms, newest_ms)
    if not _continue(connection, stream, gone, ranges):
        _insert(connection, stream, gone, ranges, _time(oldest_ms))


def recover(connection: Connection, stream: UUID, ranges: Iterable[Range]) -> None:
    """Takes numbers that were stored after all out of the gaps of what was rejected."""
    for first, last in ranges:
        held = connection.execute(
            "select from_seq, greatest(from_seq, %(first)s), least(to_seq, %(last)s) from telemetry.gap"
            " where stream_id = %(stream)s and reason = %(reason)s and from_seq <= %(last)s and to_seq >= %(first)s",
            {"stream": stream, "reason": REJECTED, "first": first, "last": last},
        ).fetchall()
        for start, lower, upper in held:
            connection.execute(
                "with less as (update telemetry.gap set ticks = ticks - %(ticks)s"
                "  where stream_id = %(stream)s and from_seq = %(start)s and ticks > %(ticks)s returning from_seq)"
                " delete from telemetry.gap where stream_id = %(stream)s and from_seq = %(start)s"
                " and not exists (select from less)",
                {"stream": stream, "start": start, "ticks": upper - lower + 1},
            )


def prune(connection: Connection, days: int) -> int:
    """Deletes the gaps that were found so many days ago; how many."""
    return connection.execute(
        "delete from telemetry.gap where created_at < now() - make_interval(days => %s)", [days]
    ).rowcount


def _keep(connection: Connection, stream: UUID, device_id: int, gone: Gone, missing: Sequence[Range]) -> None:
    joined = gone.reason in _JOINED
    if joined and _continue(connection, stream, gone, missing):
        return
    start = _last_reading(connection, device_id, gone.next_ms) if gone.before_ms is None else _time(gone.before_ms)
    for part in [missing] if joined else [[one] for one in missing]:
        _insert(connection, stream, gone, part, start)


def _continue(connection: Connection, stream: UUID, gone: Gone, missing: Sequence[Range]) -> bool:
    """Adds to the gap before, where that has the same reason and nothing between is open; whether it did."""
    return bool(
        connection.execute(
            "update telemetry.gap set to_seq = greatest(to_seq, %(to)s), ticks = ticks + %(ticks)s,"
            " end_time = greatest(end_time, %(end)s)"
            " from (select from_seq from telemetry.gap where stream_id = %(stream)s and from_seq < %(from)s"
            "       order by from_seq desc limit 1) as before"
            " where gap.stream_id = %(stream)s and gap.from_seq = before.from_seq and reason = %(reason)s"
            " and exists (select from telemetry.stream where stream_id = %(stream)s"
            "             and received @> int8range(least(to_seq, %(from)s), %(from)s, '[]'))",
            _values(stream, gone, missing),
        ).rowcount
    )


def _insert(connection: Connection, stream: UUID, gone: Gone, missing: Sequence[Range], start: datetime | None) -> None:
    connection.execute(
        "insert into telemetry.gap (stream_id, from_seq, to_seq, ticks, start_time, end_time, reason)"
        " values (%(stream)s, %(from)s, %(to)s, %(ticks)s, %(start)s, %(end)s, %(reason)s)",
        {**_values(stream, gone, missing), "start": start},
    )


def _values(stream: UUID, gone: Gone, missing: Sequence[Range]) -> dict[str, object]:
    return {
        "stream": stream,
        "from": missing[0][0],
        "to": missing[-1][1],
        "ticks": count(missing),
        "end": _time(gone.end_ms),
        "reason": storable(gone.reason),
    }


def _last_reading(connection: Connection, device_id: int, before_ms: int) -> datetime | None:
    """The time of the device's last reading before, as far back as readings are kept."""
    ((time,),) = connection.execute(
        "select max(reading.time) from telemetry.device_layout cross join lateral ("
        "  select time from telemetry.reading where device_id = device_layout.device_id"
        "  and layout_id = device_layout.layout_id and time < %(before)s order by time desc limit 1) as reading"
        " where device_layout.device_id = %(device)s",
        {"device": device_id, "before": _time(before_ms)},
    ).fetchall()
    return time if isinstance(time, datetime) else None


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
