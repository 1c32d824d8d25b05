"""GET /api/v1/devices and /api/v1/devices/{device}."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field

from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.paging import Cursor, decode_cursor, encode_cursor
from cloud_ingest.api.parameters import Identifier, Parameters, Site, once_each
from cloud_ingest.api.problems import problem
from cloud_ingest.api.times import format_time
from cloud_ingest.store.conflicts import ConflictRow, of_device
from cloud_ingest.store.devices import DeviceDetail, DeviceRow, StreamRow, find_device, list_devices
from cloud_ingest.store.pool import ReadPool
from cloud_ingest.store.rollup.state import from_ms

_MAX_CONFLICTS: Final = 100


class Device(BaseModel):
    """A device as it was last heard of."""

    device: str
    site: str
    online: bool | None = Field(
        description="False where it said so, its last will came or it is silent; null where nobody can say yet."
    )
    last_seen: datetime | None = Field(description="When anything of it last arrived.")
    agent_version: str | None
    newest_reading: datetime | None = Field(description="The time of its newest stored reading.")
    readings: int = Field(description="Readings stored, each with one value a series.")
    created_at: datetime = Field(description="When it was first heard of.")


class DevicePage(BaseModel):
    """Devices by name."""

    items: list[Device]
    next: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class Stream(BaseModel):
    """One outbox's sequence of readings, as far as the cloud has it."""

    stream: UUID
    low: int = Field(description="The lowest sequence number that the outbox still held.")
    received_to: int | None = Field(description="The highest that is settled; null where none is yet.")
    readings: int = Field(description="Readings stored from it.")
    newest_reading: datetime | None
    last_seen: datetime = Field(description="When anything of it last arrived.")
    created_at: datetime = Field(description="When it was first heard of.")


class Outbox(BaseModel):
    """What the device last said about its outbox."""

    depth: int = Field(description="Readings that wait to be confirmed.")
    bytes: int
    low: int | None = Field(description="The lowest sequence number it holds.")
    next_seq: int | None = Field(description="The next sequence number it gives.")
    oldest_time: datetime | None = Field(description="The time of the oldest reading it holds.")
    dropped: int = Field(description="Readings given up for want of room, since the outbox was made.")
    thinned: int = Field(description="Readings given up so that their neighbours could stay, since it was made.")


class Clock(BaseModel):
    """The device's clock beside the cloud's, when the device last spoke for itself."""

    device_time: datetime = Field(description="What the device's clock said.")
    received_at: datetime = Field(description="When that arrived, by the cloud's clock.")
    behind_seconds: float = Field(
        description="How much the device's clock is behind, time on the way included; negative: ahead."
    )


class Inventory(BaseModel):
    """What the device has sent so far."""

    metrics: int
    series: int
    streams: int = Field(description="Outboxes that sent under this name; more than one after a new card, say.")


class Conflict(BaseModel):
    """A stream that two machines sent: an outbox was copied."""

    stream: UUID
    owner: str = Field(description="The device that sent it first, and whose readings are stored.")
    claimant: str = Field(
        description="The other, of which nothing of this stream is stored; the owner where both have its name."
    )
    messages: int = Field(description="Messages of the claimant that were rejected; of one name, that came second.")
    first_seen: datetime
    last_seen: datetime


class DeviceDetails(Device):
    """A device with what its outbox, its clock and its stream look like."""

    reason: str | None = Field(description="Why it is offline: stopped, lost or silent; null where it is not.")
    silence_seconds: float | None = Field(
        description="After how long without a sign it is silent; null: as the configuration says."
    )
    reported_at: datetime | None = Field(description="When it last spoke for itself, which a last will does not.")
    boot_id: str | None
    config_hash: str | None = Field(description="Tells configurations apart.")
    stream: Stream | None = Field(description="Of several streams the one that was heard of last.")
    outbox: Outbox | None
    clock: Clock | None
    inventory: Inventory
    conflicts: list[Conflict] = Field(description="Streams that it shares with others, at most 100, the latest first.")


class DeviceQuery(Parameters):
    """The parameters of /api/v1/devices."""

    site: Site | None = None
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    cursor: Cursor = None


def router(pool: ReadPool) -> APIRouter:
    """The address, reading through `pool`."""
    routes = APIRouter(prefix="/api/v1", dependencies=[Depends(once_each)])

    @routes.get("/devices", response_model=DevicePage, tags=["devices"])
    def devices(request: Request, query: Annotated[DeviceQuery, Query()]) -> Response:
        """All devices that were ever heard of, by name."""
        after = None if query.cursor is None else decode_cursor(query.cursor, 1)[0]
        with pool.connection() as connection:
            rows = list_devices(connection, site=query.site, after=after, limit=query.limit + 1)
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        next_ = encode_cursor(rows[-1].device) if more else None
        return json_answer(request, {"items": [_item(row) for row in rows], "next": next_})

    @routes.get(
        "/devices/{device}",
        response_model=DeviceDetails,
        tags=["devices"],
        responses={HTTPStatus.NOT_FOUND: {"description": "Nothing was ever heard of this device."}},
    )
    def one_device(
        request: Request,
        device: Annotated[Identifier, Path(examples=["pump-house-1"])],
        _: Annotated[Parameters, Query()],
    ) -> Response:
        """One device, with its stream, outbox, clock and inventory."""
        with pool.connection() as connection:
            found = find_device(connection, device)
            shared = of_device(connection, device, _MAX_CONFLICTS)
        if found is None:
            return problem(HTTPStatus.NOT_FOUND, f"there is no device {device}")
        return json_answer(request, {**_details(found), "conflicts": [_conflict(row) for row in shared]})

    return routes


def _item(row: DeviceRow) -> dict[str, object]:
    return {
        "device": row.device,
        "site": row.site,
        "online": row.online,
        "last_seen": _time(row.last_seen),
        "agent_version": row.agent_version,
        "newest_reading": _time(row.newest_reading),
        "readings": row.readings,
        "created_at": _time(row.created_at),
    }


def _details(found: DeviceDetail) -> dict[str, object]:
    status = found.status or {}
    return {
        **_item(found.device),
        "reason": found.device.away_reason,
        "silence_seconds": found.device.silence_seconds,
        "reported_at": _time(found.reported_at),
        "boot_id": status.get("boot_id"),
        "config_hash": status.get("config_hash"),
        "stream": None if found.stream is None else _stream(found.stream),
        "outbox": _outbox(status.get("outbox")),
        "clock": _clock(status.get("time"), found.reported_at),
        "inventory": {"metrics": found.metrics, "series": found.series, "streams": found.streams},
    }


def _conflict(row: ConflictRow) -> dict[str, object]:
    return {
        "stream": str(row.stream),
        "owner": row.owner,
        "claimant": row.claimant,
        "messages": row.messages,
        "first_seen": format_time(row.first_seen),
        "last_seen": format_time(row.last_seen),
    }


def _stream(row: StreamRow) -> dict[str, object]:
    return {
        "stream": str(row.stream),
        "low": row.low,
        "received_to": row.received_to,
        "readings": row.readings,
        "newest_reading": _time(row.newest_reading),
        "last_seen": _time(row.last_seen),
        "created_at": _time(row.created_at),
    }


def _outbox(state: dict[str, Any] | None) -> dict[str, object] | None:
    """A status's `outbox` with its time as a text; every field that it may leave out is there."""
    if state is None:
        return None
    oldest = state.get("oldest_time")
    return {**state, "oldest_time": None if oldest is None else _time(from_ms(oldest))}


def _clock(device_ms: int | None, received_at: datetime | None) -> dict[str, object] | None:
    if device_ms is None or received_at is None:
        return None
    device_time = from_ms(device_ms)
    return {
        "device_time": _time(device_time),
        "received_at": _time(received_at),
        "behind_seconds": round((received_at - device_time).total_seconds(), 3),
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)
