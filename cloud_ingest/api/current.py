"""GET /api/v1/metrics/current."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.paging import Cursor, decode_cursor, encode_cursor
from cloud_ingest.api.parameters import Devices, MetricGlob, Parameters, Site, Time, once_each
from cloud_ingest.api.problems import InvalidParameter
from cloud_ingest.api.times import format_time, resolve
from cloud_ingest.store.current import CurrentRow, Position, current_values
from cloud_ingest.store.pool import ReadPool


class CurrentValue(BaseModel):
    """The newest value of one series."""

    device: str
    metric: str
    labels: dict[str, str]
    unit: str = Field(description="The base unit; empty where the metric counts things.")
    time: datetime = Field(description="When it was measured, by the device's clock.")
    value: float | None = Field(description="null where the newest reading holds no value for this series.")


class CurrentPage(BaseModel):
    """Newest values by device and series."""

    items: list[CurrentValue]
    next: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class CurrentQuery(Parameters):
    """The parameters of /api/v1/metrics/current."""

    device: Devices = Field(default=[])
    metric: MetricGlob | None = None
    site: Site | None = None
    since: Annotated[
        Time | None, Field(description="Leave out what was last measured before; default: whatever is kept.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    cursor: Cursor = None


def router(pool: ReadPool, kept: timedelta) -> APIRouter:
    """The address, reading through `pool`; raw readings are kept for `kept`."""
    routes = APIRouter(prefix="/api/v1/metrics", dependencies=[Depends(once_each)])

    @routes.get("/current", response_model=CurrentPage, tags=["metrics"])
    def current(request: Request, query: Annotated[CurrentQuery, Query()]) -> Response:
        """The newest value of each series, however old it is: look at `time`."""
        try:
            since = resolve(-kept if query.since is None else query.since, datetime.now(UTC))
        except ValueError as exc:
            raise InvalidParameter("since", str(exc)) from exc
        after = None if query.cursor is None else Position(*decode_cursor(query.cursor, 2))
        with pool.connection() as connection:
            rows = current_values(
                connection,
                devices=query.device,
                metric=query.metric,
                site=query.site,
                since=since,
                after=after,
                limit=query.limit + 1,
            )
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        next_ = encode_cursor(rows[-1].device, rows[-1].key) if more else None
        return json_answer(request, {"items": _items(rows), "next": next_})

    return routes


def _items(rows: Sequence[CurrentRow]) -> list[dict[str, object]]:
    """A fleet has few times and sets of labels, a device's series one time: each is written once."""
    time_of, labels_of = cache(format_time), cache(lambda text: msgspec.Raw(text.encode()))
    return [
        {
            "device": device,
            "metric": metric,
            "labels": labels_of(labels),
            "unit": unit,
            "time": time_of(time),
            "value": value,
        }
        for device, _, metric, labels, unit, time, value in rows
    ]
