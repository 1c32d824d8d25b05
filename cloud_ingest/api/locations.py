"""/api/v1/locations: the tree of places."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated
from zoneinfo import available_timezones

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from cloud_ingest.alerts.definition import LocationPath, Text
from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.changes import NOT_FOUND, REFUSED, Expected, etag
from cloud_ingest.api.paging import Cursor, decode_cursor, encode_cursor
from cloud_ingest.api.parameters import Parameters, once_each
from cloud_ingest.api.problems import InvalidParameter, problem
from cloud_ingest.api.times import format_time
from cloud_ingest.store.locations import (
    LocationRow,
    change_location,
    create_location,
    delete_location,
    get_location,
    list_locations,
)
from cloud_ingest.store.pool import ReadPool


def _zone(name: str) -> str:
    if name not in available_timezones():
        raise PydanticCustomError("time_zone", "must be the name of a time zone, like Asia/Seoul")
    return name


Name = Annotated[Text, Field(min_length=1, max_length=200)]
Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]
TimeZone = Annotated[str, AfterValidator(_zone), Field(examples=["Asia/Seoul"])]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NewLocation(_Part):
    """A location to be made; the one above it must be there."""

    path: LocationPath = Field(description="From the top, with dots: factory.building.floor.zone.")
    name: Name
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    time_zone: TimeZone | None = Field(default=None, description="Counts for all below; null: that of the one above.")


class LocationChanges(_Part):
    """What to change: what is left out stays, null takes away."""

    path: LocationPath | None = Field(default=None, description="Move it, and all below it, to here.")
    name: Name | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    time_zone: TimeZone | None = None


class Location(NewLocation):
    """A location as it is now."""

    effective_time_zone: str | None = Field(description="Its own, or that of the nearest above that has one.")
    devices: int = Field(description="How many devices are right there.")
    version: int
    created_at: datetime
    updated_at: datetime


class LocationPage(BaseModel):
    """Locations in the order of the tree."""

    items: list[Location]
    next: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class LocationQuery(Parameters):
    """The parameters of /api/v1/locations."""

    below: Annotated[LocationPath | None, Field(description="This one and all below it; default: all.")] = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    cursor: Cursor = None


PathOfOne = Annotated[LocationPath, Path(examples=["factory.hall"])]


def router(pool: ReadPool) -> APIRouter:
    """The addresses, reading and writing through `pool`."""
    routes = APIRouter(prefix="/api/v1", tags=["locations"], dependencies=[Depends(once_each)])

    @routes.get("/locations", response_model=LocationPage)
    def locations(request: Request, query: Annotated[LocationQuery, Query()]) -> Response:
        """The tree of locations, each above what is below it."""
        after = None if query.cursor is None else _path(decode_cursor(query.cursor, 1)[0])
        with pool.connection() as connection:
            rows = list_locations(connection, below=query.below, after=after, limit=query.limit + 1)
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        return json_answer(
            request, {"items": [_item(row) for row in rows], "next": encode_cursor(rows[-1].path) if more else None}
        )

    @routes.post("/locations", response_model=Location, status_code=HTTPStatus.CREATED, responses=REFUSED)
    def create(request: Request, new: NewLocation) -> Response:
        """Make a location."""
        with pool.writing() as connection:
            create_location(connection, **new.model_dump())
            row = get_location(connection, new.path)
        response = _answer(request, row, new.path)
        response.status_code = HTTPStatus.CREATED
        response.headers["Location"] = f"/api/v1/locations/{new.path}"
        return response

    @routes.get("/locations/{path}", response_model=Location, responses=NOT_FOUND)
    def location(request: Request, path: PathOfOne) -> Response:
        """One location."""
        with pool.connection() as connection:
            return _answer(request, get_location(connection, path), path)

    @routes.patch("/locations/{path}", response_model=Location, responses=NOT_FOUND | REFUSED)
    def change(request: Request, path: PathOfOne, changes: LocationChanges, expected: Expected) -> Response:
        """Change a location, or move it and all below it."""
        given = changes.model_dump(exclude_unset=True)
        for field in ("path", "name"):
            if field in given and given[field] is None:
                raise InvalidParameter(field, "must not be null")
        with pool.writing() as connection:
            target = change_location(connection, path, given, expected=expected)
            row = None if target is None else get_location(connection, target)
        return _answer(request, row, path)

    @routes.delete("/locations/{path}", status_code=HTTPStatus.NO_CONTENT, responses=NOT_FOUND | REFUSED)
    def delete(path: PathOfOne, expected: Expected) -> Response:
        """Delete a location where nothing is, nor anything below it."""
        with pool.writing() as connection:
            deleted = delete_location(connection, path, expected=expected)
        return Response(status_code=HTTPStatus.NO_CONTENT) if deleted else _no_location(path)

    return routes


def _path(text: str) -> str:
    """The path in a cursor. Raises InvalidParameter."""
    try:
        return NewLocation(path=text, name="-").path
    except ValueError as exc:
        raise InvalidParameter("cursor", "must be the `next` of an earlier answer") from exc


def _no_location(path: str) -> Response:
    return problem(HTTPStatus.NOT_FOUND, f"there is no location {path}")


def _answer(request: Request, row: LocationRow | None, path: str) -> Response:
    if row is None:
        return _no_location(path)
    response = json_answer(request, _item(row))
    response.headers.update(etag(row.version))
    return response


def _item(row: LocationRow) -> dict[str, object]:
    return {
        "path": row.path,
        "name": row.name,
        "latitude": row.latitude,
        "longitude": row.longitude,
        "time_zone": row.time_zone,
        "effective_time_zone": row.effective_time_zone,
        "devices": row.devices,
        "version": row.version,
        "created_at": format_time(row.created_at),
        "updated_at": format_time(row.updated_at),
    }
