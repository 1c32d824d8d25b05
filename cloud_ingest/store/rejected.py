"""Messages that could not be stored: kept with the reason, once each however often they come."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from cloud_ingest.message import Message
from cloud_ingest.store.database import Connection, translated
from cloud_ingest.store.ranges import Range, to_multirange
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
    """A row of `rejected`. `payload` is cut to MAX_KEPT_BYTES; `payload_bytes` is its length as received."""

    rejected_id: int
    topic: str
    content_type: str | None
    reason: str
    detail: str
    payload: bytes
    payload_bytes: int
    received_count: int
    first_received_at: datetime
    last_received_at: datetime


_COLUMNS: Final = (
    "rejected_id, topic, content_type, reason, detail, payload, payload_bytes, received_count,"
    " first_received_at, last_received_at"
)


def park(connection: Connection, rejections: list[Rejection]) -> None:
    """Keeps the messages; one that is there already is counted."""
    ordered = sorted(rejections, key=lambda it: (it.message.topic, it.message.payload))
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into telemetry.rejected"
            " (topic, digest, payload, payload_bytes, content_type, reason, detail, device, stream_id, seqs)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::int8multirange)"
            " on conflict (topic, digest) do update set received_count = rejected.received_count + 1,"
            " last_received_at = now(), reason = excluded.reason, detail = excluded.detail,"
            " stream_id = coalesce(excluded.stream_id, rejected.stream_id), seqs = rejected.seqs + excluded.seqs",
            [_row(rejection) for rejection in ordered],
        )


def list_rejected(connection: Connection, limit: int, before: int | None = None) -> list[RejectedRow]:
    """The newest rows, or those with a number below `before`; newest first."""
    with translated(), connection.cursor(row_factory=class_row(RejectedRow)) as cursor:
        return cursor.execute(
            f"select {_COLUMNS} from telemetry.rejected"  # noqa: S608 - a constant
            " where %(before)s::bigint is null or rejected_id < %(before)s order by rejected_id desc limit %(limit)s",
            {"before": before, "limit": limit},
        ).fetchall()


def get_rejected(connection: Connection, rejected_id: int) -> RejectedRow | None:
    """One row."""
    with translated(), connection.cursor(row_factory=class_row(RejectedRow)) as cursor:
        return cursor.execute(
            f"select {_COLUMNS} from telemetry.rejected where rejected_id = %s",  # noqa: S608 - a constant
            [rejected_id],
        ).fetchone()


def prune(connection: Connection, older_than_days: int) -> int:
    """Deletes what was last received longer ago than that, and says how many."""
    with translated():
        return connection.execute(
            "delete from telemetry.rejected where last_received_at < now() - make_interval(days => %s)",
            [older_than_days],
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
        rejection.stream,
        to_multirange(rejection.ranges),
    )


def _device(rejection: Rejection) -> str | None:
    """Whose the message is: what could not be decoded tells it by its topic alone."""
    if rejection.device is not None:
        return rejection.device
    try:
        return Topic.parse(rejection.message.topic).device
    except InvalidTopic:
        return None
