"""GET /api/v1/aggregation/{metric}."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field

from cloud_ingest.alerts.definition import LocationPath
from cloud_ingest.alerts.precedence import is_below
from cloud_ingest.api import shapes
from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.grids import Grid
from cloud_ingest.api.parameters import Metric, Time, once_each
from cloud_ingest.api.problems import InvalidParameter
from cloud_ingest.api.selection import (
    LABEL_PARAMETER,
    MAX_SERIES,
    Selection,
    Step,
    Zone,
    choose_buckets,
    window_between,
)
from cloud_ingest.errors import DataRejected
from cloud_ingest.store.columns import Columns
from cloud_ingest.store.database import Connection
from cloud_ingest.store.history import Aggregate, Place, Series, buckets, find_series
from cloud_ingest.store.pool import ReadPool
from cloud_ingest.store.realtime import placements
from cloud_ingest.store.rollup.state import TierState, read_state
from cloud_ingest.store.tier_choice import parts_of
from cloud_ingest.store.tiers import Tier

_MAX_DEPTH: Final = 16


class By(StrEnum):
    """What the series of one group have in common."""

    DEVICE = "device"
    SITE = "site"
    LOCATION = "location"


class AggregationGroup(BaseModel):
    """All series of one group in one: lists of one length, with every bucket of the time."""

    key: str = Field(description="The device, site or location.")
    time: list[datetime] = Field(description="The start of each bucket.")
    mean: list[float | None] = Field(description="Of all values of all its series: each weighs the same.")
    max: list[float | None]
    min: list[float | None]
    count: list[int] = Field(description="How many values there were.")


class Aggregation(BaseModel):
    """A metric over time, by group."""

    tier: Literal["raw", "5m", "1h", "1d"] = Field(
        description="What the values were made from: readings as they came, or rollups of that length."
    )
    step_seconds: int = Field(
        description="The length of a bucket; longer than was asked for where only rollups of the time are kept."
    )
    tz: str = Field(
        description="By whose days and clock the buckets begin: `tz`, or UTC where what is left can't be cut so."
    )
    groups: list[AggregationGroup] = Field(description="Those that have readings in this time, by key.")


class AggregationQuery(Selection):
    """The parameters of /api/v1/aggregation/{metric}."""

    start: Annotated[Time, Field(description="Inclusive; default: a day ago.")] = timedelta(days=-1)
    end: Annotated[Time, Field(description="Exclusive; default: now.")] = timedelta(0)
    step: Annotated[Step, Field(description="The length of a bucket; default: an hour.")] = timedelta(hours=1)
    by: Annotated[By, Field(description="What a group is; default: device.")] = By.DEVICE
    location: Annotated[
        LocationPath | None, Field(description="Only series at this location or below it, as things are now.")
    ] = None
    depth: Annotated[
        int | None,
        Field(
            ge=1,
            le=_MAX_DEPTH,
            description="With by=location: a group is a location this deep in the tree with all below it; 1 is the top."
            " Default: each location by itself.",
        ),
    ] = None
    tz: Zone | None = None


def router(pool: ReadPool) -> APIRouter:
    """The address, reading through `pool`."""
    routes = APIRouter(prefix="/api/v1", dependencies=[Depends(once_each)])

    @routes.get("/aggregation/{metric}", response_model=Aggregation, tags=["metrics"], openapi_extra=LABEL_PARAMETER)
    def aggregation(
        request: Request, metric: Annotated[Metric, Path()], query: Annotated[AggregationQuery, Query()]
    ) -> Response:
        """Mean, max, min and count of a metric by hour, day or any step, over all of a device, site or location."""
        if query.depth is not None and query.by is not By.LOCATION:
            raise InvalidParameter("depth", "needs by=location")
        window = window_between(query.start, query.end, datetime.now(UTC))
        with pool.connection() as connection:
            series = find_series(
                connection,
                metric=metric,
                devices=query.device,
                site=query.site,
                labels=query.labels,
                limit=MAX_SERIES + 1,
            )
            if len(series) > MAX_SERIES:
                raise InvalidParameter("metric", f"has more than {MAX_SERIES} series: name a device, site or label")
            groups = _grouped(_placed(connection, series, query), query)
            state = read_state(connection)
            chosen = choose_buckets(state, window, query.step, query.tz, len(groups), finest=False)
            assert chosen.grid is not None  # noqa: S101 - there is always a step
            columns = _buckets(connection, list(groups.values()), state, chosen.tier, chosen.grid)
        keys = list(groups)
        time = shapes.times(chosen.grid.starts)
        content = {
            "tier": chosen.tier.name,
            "step_seconds": chosen.grid.step_ms // 1_000,
            "tz": chosen.zone,
            "groups": [_item(keys[group.index], time, group) for group in shapes.grouped(columns, chosen.grid)],
        }
        return json_answer(request, content)

    return routes


def _placed(connection: Connection, series: list[Series], query: AggregationQuery) -> list[tuple[Series, str | None]]:
    """The series that are where they are asked for, each with its location if that matters."""
    if query.by is not By.LOCATION and query.location is None:
        return [(one, None) for one in series]
    known = placements(connection, sorted({one.device for one in series}))
    placed = [(one, known.of(one.device, one.key).location) for one in series]
    return [(one, at) for one, at in placed if query.location is None or is_below(at, query.location)]


def _grouped(series: list[tuple[Series, str | None]], query: AggregationQuery) -> dict[str, list[Place]]:
    """Where the readings of each group lie, by key in order."""
    groups: dict[str, list[Place]] = {}
    for one, at in series:
        key = _location_at(at, query.depth) if query.by is By.LOCATION else _key(one, query.by)
        if key is not None:
            groups.setdefault(key, []).extend(one.places)
    return dict(sorted(groups.items()))


def _key(series: Series, by: By) -> str:
    return series.site if by is By.SITE else series.device


def _location_at(path: str | None, depth: int | None) -> str | None:
    """The location so deep that holds the path; None where the path is less deep."""
    if path is None or depth is None:
        return path
    parts = path.split(".")
    return ".".join(parts[:depth]) if len(parts) >= depth else None


def _buckets(connection: Connection, groups: list[list[Place]], state: TierState, tier: Tier, grid: Grid) -> Columns:
    parts = parts_of(state, tier, grid.start_ms, grid.end_ms)
    try:
        return buckets(connection, groups, parts, grid.cut, [Aggregate.MEAN, Aggregate.MIN, Aggregate.MAX])
    except DataRejected as exc:
        raise InvalidParameter("metric", f"holds values that can't be added up: {exc}") from exc


def _item(key: str, time: list[str], group: shapes.Group) -> dict[str, Any]:
    return {
        "key": key,
        "time": time,
        "mean": group.mean,
        "max": group.max,
        "min": group.min,
        "count": group.count,
    }
