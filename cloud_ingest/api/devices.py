"""GET /api/v1/devices."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.paging import Cursor, decode_cursor, encode_cursor
from cloud_ingest.api.parameters import Parameters, Site, once_each
from cloud_ingest.api.times import format_time
from cloud_ingest.store.devices import DeviceRow, list_devices
from cloud_ingest.store.pool import ReadPool


class Device(BaseModel):
    """A device as it was last heard of."""

    device: str
    site: str
    online: bool | None = Field(description="What its status or its last will said; null where it never sent one.")
    last_seen: datetime | None = Field(description="When anything of it last arrived.")
    agent_version: str | None
    newest_reading: datetime | None = Field(description="The time of its newest stored reading.")
    readings: int = Field(description="Readings stored, each with one value a series.")
    created_at: datetime = Field(description="When it was first heard of.")


class DevicePage(BaseModel):
    """Devices by name."""

    items: list[Device]
    next: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


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


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)
