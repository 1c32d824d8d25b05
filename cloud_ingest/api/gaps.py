"""GET /api/v1/devices/{device}/gaps."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field

from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.paging import Cursor, decode_cursor, encode_cursor
from cloud_ingest.api.parameters import Identifier, Parameters, once_each
from cloud_ingest.api.problems import InvalidParameter, problem
from cloud_ingest.api.times import format_time
from cloud_ingest.store.devices import find_device
from cloud_ingest.store.known_gaps import GapKey, GapRow, list_gaps
from cloud_ingest.store.pool import ReadPool
from telemetry_contract.payload import MAX_SEQUENCE


class Gap(BaseModel):
    """Sequence numbers of a stream that have no reading."""

    stream: UUID
    from_seq: int
    to_seq: int
    ticks: int = Field(description="How many readings are missing; fewer than the numbers where some between came.")
    start: datetime | None = Field(description="The time of the last reading before it, where that is known.")
    end: datetime | None = Field(description="The time of the first reading after it, where that is known.")
    reason: str = Field(
        description="awaited (may still come), dropped (the outbox was full), thinned (every second one of the old was"
        " given up), lost (with the memory of an agent that was killed), rejected (see the rejected messages), or"
        " what else the device said."
    )


class GapPage(BaseModel):
    """Gaps of a device, the newest first."""

    items: list[Gap]
    next: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class GapQuery(Parameters):
    """The parameters of /api/v1/devices/{device}/gaps."""

    limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    cursor: Cursor = None


def router(pool: ReadPool) -> APIRouter:
    """The address, reading through `pool`."""
    routes = APIRouter(prefix="/api/v1", dependencies=[Depends(once_each)])

    @routes.get(
        "/devices/{device}/gaps",
        response_model=GapPage,
        tags=["devices"],
        responses={HTTPStatus.NOT_FOUND: {"description": "Nothing was ever heard of this device."}},
    )
    def gaps(
        request: Request,
        device: Annotated[Identifier, Path(examples=["pump-house-1"])],
        query: Annotated[GapQuery, Query()],
    ) -> Response:
        """What is missing of a device: readings that never came, from when to when, and why."""
        behind = None if query.cursor is None else _key(query.cursor)
        with pool.connection() as connection:
            rows = list_gaps(connection, device, behind=behind, limit=query.limit + 1)
            known = bool(rows) or find_device(connection, device) is not None
        if not known:
            return problem(HTTPStatus.NOT_FOUND, f"there is no device {device}")
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        next_ = encode_cursor(str(rows[-1].stream), str(rows[-1].from_seq)) if more else None
        return json_answer(request, {"items": [_item(row) for row in rows], "next": next_})

    return routes


def _key(cursor: str) -> GapKey:
    stream, from_seq = decode_cursor(cursor, 2)
    try:
        key = GapKey(UUID(stream), int(from_seq))
    except ValueError:
        key = None
    if key is None or not 0 < key.from_seq <= MAX_SEQUENCE:
        raise InvalidParameter("cursor", "must be the `next` of an earlier answer")
    return key


def _item(row: GapRow) -> dict[str, object]:
    return {
        "stream": row.stream,
        "from_seq": row.from_seq,
        "to_seq": row.to_seq,
        "ticks": row.ticks,
        "start": None if row.start is None else format_time(row.start),
        "end": None if row.end is None else format_time(row.end),
        "reason": row.reason,
    }
