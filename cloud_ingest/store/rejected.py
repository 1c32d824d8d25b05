"""Messages that could not be stored: kept with the reason, once each however often they come."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from cloud_ingest.errors import MessageGone
from cloud_ingest.message import Message
from cloud_ingest.store.database import Connection, translated
from cloud_ingest.store.ranges import Range, from_multirange, to_multirange
from cloud_ingest.store.text import storable
from telemetry_contract.errors import InvalidTopic
from telemetry_contract.topics import Topic

MAX_KEPT_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rejection:
    """A message and why it, or some of its ticks, can't be stored. `reason` is a short stable word.

    `device` is whose it is, where that is known. `ranges` of `stream` are the ticks that the ledger settles with it.
    """

    message: Message
    reason: str
    detail: str
    device: str | None = None
    stream: UUID | None = None
    ranges: Sequence[Range] = ()


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row of `rejected`. `payload` is cut to MAX_KEPT_BYTES; `payload_bytes` is its length as received.

    `received_at` is the time that readings without one of their own have; None where it was not noted.
    """

    rejected_id: int
    topic: str
    content_type: str | None
    device: str | None
    source: str | None
    reason: str
    detail: str
    payload: bytes
    payload_bytes: int
    received_count: int
    first_received_at: datetime
    last_received_at: datetime
    received_at: datetime | None
    retained: bool

    @property
    def message(self) -> Message | None:
        """The message as it came, None where it is kept only in part."""
        if len(self.payload) < self.payload_bytes:
            return None
        received_ms = None if self.received_at is None else round(self.received_at.timestamp() * 1000)
        return Message(self.topic, self.payload, self.content_type, self.retained, self.source, received_ms)


_COLUMNS: Final = (
    "rejected_id, topic, content_type, device, source, reason, detail, payload, payload_bytes, received_count,"
    " first_received_at, last_received_at, received_at, retained"
)


def park(connection: Connection, rejections: list[Rejection]) -> None:
    """Keeps the messages; one that is there already is counted."""
    ordered = sorted(rejections, key=lambda it: (it.message.topic, it.message.payload))
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into telemetry.rejected"
            " (topic, digest, payload, payload_bytes, content_type, reason, detail, device, source,"
            " stream_id, seqs, received_at, retained)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::int8multirange, %s, %s)"
            " on conflict (topic, digest) do update set received_count = rejected.received_count + 1,"
            " last_received_at = now(), reason = excluded.reason, detail = excluded.detail,"
            " stream_id = coalesce(excluded.stream_id, rejected.stream_id), seqs = rejected.seqs + excluded.seqs,"
            # The first time that it was news, which is the one that a part of it may have been stored with
            " received_at = case when rejected.retained and not excluded.retained"
            "  then excluded.received_at else rejected.received_at end,"
            " retained = rejected.retained and excluded.retained",
            [_row(rejection) for rejection in ordered],
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rejected messages are meant; None does not narrow."""

    numbers: Sequence[int] | None = None
    reason: str | None = None
    device: str | None = None
    since: datetime | None = None


def list_rejected(
    connection: Connection, selection: Selection, limit: int, before: int | None = None
) -> list[RejectedRow]:
    """The newest of those that are meant, or of those with a number below `before`; newest first."""
    with translated(), connection.cursor(row_factory=class_row(RejectedRow)) as cursor:
        return cursor.execute(
            f"select {_COLUMNS} from telemetry.rejected where {_SELECTED}"  # noqa: S608 - constants
            " and (%(before)s::bigint is null or rejected_id < %(before)s) order by rejected_id desc limit %(limit)s",
            {**_parameters(selection), "before": before, "limit": limit},
        ).fetchall()


def numbers_of(connection: Connection, selection: Selection) -> list[int]:
    """The numbers of all that are meant, the oldest first."""
    with translated():
        rows = connection.execute(
            f"select rejected_id from telemetry.rejected where {_SELECTED} order by rejected_id",  # noqa: S608 - constants
            _parameters(selection),
        ).fetchall()
    return [number for (number,) in rows]


_SELECTED: Final = (
    "(%(numbers)s::bigint[] is null or rejected_id = any(%(numbers)s))"
    " and (%(reason)s::text is null or reason = %(reason)s)"
    " and (%(device)s::text is null or device = %(device)s)"
    " and (%(since)s::timestamptz is null or last_received_at >= %(since)s)"
)


def _parameters(selection: Selection) -> dict[str, object]:
    return {
        "numbers": None if selection.numbers is None else list(selection.numbers),
        "reason": selection.reason,
        "device": selection.device,
        "since": selection.since,
    }


def get_rejected(connection: Connection, rejected_id: int) -> RejectedRow | None:
    """One row."""
    with translated(), connection.cursor(row_factory=class_row(RejectedRow)) as cursor:
        return cursor.execute(
            f"select {_COLUMNS} from telemetry.rejected where rejected_id = %s",  # noqa: S608 - a constant
            [rejected_id],
        ).fetchone()


class Claim(NamedTuple):
    """The ticks of each stream that are settled because of a message; `is_complete` where these are all."""

    owed: dict[UUID, list[Range]]
    is_complete: bool


def claim(connection: Connection, number: int) -> Claim:
    """Locks a message until the transaction ends; what it owes.

    It is counted once less, as `park` counts it once more where it is rejected again. Raises MessageGone.
    """
    row = connection.execute(
        "select stream_id, seqs::text, debt_known from telemetry.rejected where rejected_id = %s for update", [number]
    ).fetchone()
    if row is None:
        raise MessageGone(f"there is no rejected message {number}")
    connection.execute(
        "update telemetry.rejected set received_count = received_count - 1 where rejected_id = %s", [number]
    )
    stream, ranges, is_complete = row
    return Claim({} if stream is None else {stream: from_multirange(ranges)}, is_complete)


def release(connection: Connection, number: int, paid: Sequence[Range], *, delete: bool) -> None:
    """Takes from a message the ticks that were stored, and with `delete` the message, once it owes no more."""
    connection.execute(
        "update telemetry.rejected set seqs = seqs - %(paid)s::int8multirange where rejected_id = %(number)s",
        {"paid": to_multirange(paid), "number": number},
    )
    if delete:
        connection.execute("delete from telemetry.rejected where rejected_id = %s and isempty(seqs)", [number])


def prune(connection: Connection, *, older_than_days: int, max_bytes: int, max_bytes_of_device: int) -> int:
    """Deletes what was last received longer ago, and what came first until the payloads have no more bytes.

    The bytes are those of all messages and those of each device; returns how many messages it deleted.
    """
    with translated():
        return connection.execute(
            "delete from telemetry.rejected using ("
            " select rejected_id,"
            "  sum(octet_length(payload)) over (order by rejected_id desc) as bytes,"
            "  sum(octet_length(payload)) over (partition by device order by rejected_id desc) as bytes_of_device"
            " from telemetry.rejected) as newer"
            " where newer.rejected_id = rejected.rejected_id"
            " and (last_received_at < now() - make_interval(days => %(days)s)"
            "  or newer.bytes > %(bytes)s or newer.bytes_of_device > %(bytes_of_device)s)",
            {"days": older_than_days, "bytes": max_bytes, "bytes_of_device": max_bytes_of_device},
        ).rowcount


def _row(rejection: Rejection) -> tuple[object, ...]:
    message = rejection.message
    return (
        storable(message.topic),
        hashlib.sha256(message.payload).digest(),
        message.payload[:MAX_KEPT_BYTES],
        len(message.payload),
        None if message.content_type is None else storable(message.content_type),
        rejection.reason,
        storable(rejection.detail),
        _device(rejection),
        message.source,
        rejection.stream,
        to_multirange(rejection.ranges),
        None if message.received_ms is None else datetime.fromtimestamp(message.received_ms / 1000, UTC),
        message.retained,
    )


def _device(rejection: Rejection) -> str | None:
    """Whose the message is: what could not be decoded tells it by its topic alone."""
    if rejection.device is not None:
        return rejection.device
    try:
        return Topic.parse(rejection.message.topic).device
    except InvalidTopic:
        return None
