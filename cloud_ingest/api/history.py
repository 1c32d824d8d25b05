"""GET /api/v1/metrics/history."""

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from cloud_ingest.api import shapes
from cloud_ingest.api.answers import answer, json_answer
from cloud_ingest.api.formats import CSV_MEDIA_TYPE, Format, accepted, csv_of
from cloud_ingest.api.grids import Grid
from cloud_ingest.api.missing import missing
from cloud_ingest.api.parameters import Metric, Time, once_each
from cloud_ingest.api.problems import InvalidParameter
from cloud_ingest.api.selection import (
    LABEL_PARAMETER,
    MAX_POINTS,
    MAX_SERIES,
    Selection,
    Step,
    Zone,
    choose_buckets,
    too_many_points,
    window_between,
)
from cloud_ingest.errors import DataRejected
from cloud_ingest.store.columns import Columns
from cloud_ingest.store.database import Connection
from cloud_ingest.store.history import RATE_LOOKBACK_MS, Aggregate, Series, Window, buckets, find_series, raw_points
from cloud_ingest.store.pool import ReadPool
from cloud_ingest.store.rollup.state import read_state, to_ms
from cloud_ingest.store.tier_choice import Part, parts_of
from telemetry_contract.metrics import MetricKind, kind_of


class HistorySeries(BaseModel):
    """One series: lists of one length, ordered by time."""

    device: str
    metric: str
    labels: dict[str, str]
    unit: str = Field(description="The base unit of `value` (of a rate: that unit per second).")
    time: list[datetime] = Field(description="With a step, the start of each bucket; without, when it was measured.")
    value: list[float | None] = Field(description="null where there is no value.")
    coverage: list[float | None] | None = Field(
        description=(
            "With a step: how much of each bucket was observed, 0 to 1, against the typical interval of the series in"
            " this answer; null where that can't be told."
        )
    )


class History(BaseModel):
    """The readings of series over time."""

    tier: Literal["raw", "5m", "1h", "1d"] = Field(
        description="What the values were made from: readings as they came, or rollups of that length."
    )
    step_seconds: int | None = Field(
        description="The length of a bucket; longer than was asked for where only rollups of the time are kept."
    )
    tz: str = Field(
        description="By whose days and clock the buckets begin: `tz`, or UTC where what is left can't be cut so."
    )
    series: list[HistorySeries] = Field(description="Those that have readings in this time, by device and labels.")


class HistoryQuery(Selection):
    """The parameters of /api/v1/metrics/history."""

    metric: Metric
    start: Annotated[Time, Field(description="Inclusive; default: an hour ago.")] = timedelta(hours=-1)
    end: Annotated[Time, Field(description="Exclusive; default: now.")] = timedelta(0)
    step: Annotated[
        Step | None,
        Field(
            description="The length of a bucket; without it, every reading, or what is kept of it. Buckets begin at"
            " multiples of it."
        ),
    ] = None
    aggregate: Annotated[
        Aggregate | None, Field(description="What a bucket shows; default: mean. `rate` is for counters alone.")
    ] = None
    tz: Zone | None = None
    format: Annotated[Format | None, Field(description="Default: what the Accept header prefers, else json.")] = None


_CSV: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.OK.value: {"content": {CSV_MEDIA_TYPE: {"schema": {"type": "string"}}}}
}


def router(pool: ReadPool) -> APIRouter:
    """The address, reading through `pool`."""
    routes = APIRouter(prefix="/api/v1/metrics", dependencies=[Depends(once_each)])

    @routes.get("/history", response_model=History, responses=_CSV, tags=["metrics"], openapi_extra=LABEL_PARAMETER)
    def history(request: Request, query: Annotated[HistoryQuery, Query()]) -> Response:
        """The readings of a metric over time, as measured or in buckets."""
        now = datetime.now(UTC)
        window = window_between(query.start, query.end, now)
        _check(query)
        with pool.connection() as connection:
            series = find_series(
                connection,
                metric=query.metric,
                devices=query.device,
                site=query.site,
                labels=query.labels,
                limit=MAX_SERIES + 1,
            )
            if len(series) > MAX_SERIES:
                raise InvalidParameter("metric", f"has more than {MAX_SERIES} series: name a device, site or label")
            state = read_state(connection)
            # Of readings a rate is exact, and of rollups the better the shorter they are
            finest = query.aggregate is Aggregate.RATE
            chosen = choose_buckets(state, window, query.step, query.tz, len(series), finest=finest)
            if chosen.grid is None:
                found = shapes.raw(_points(connection, series, window))
            else:
                aggregate = query.aggregate or Aggregate.MEAN
                before = max(chosen.grid.step_ms, RATE_LOOKBACK_MS) if aggregate is Aggregate.RATE else 0
                parts = parts_of(state, chosen.tier, chosen.grid.start_ms - before, chosen.grid.end_ms)
                columns = _buckets(connection, series, parts, chosen.grid, aggregate)
                lacking = missing(connection, series, chosen.grid.starts, chosen.grid.lengths)
                found = shapes.bucketed(columns, chosen.grid, aggregate, to_ms(now), lacking)
        content = [_series(series[shape.index], shape) for shape in found]
        if (query.format or accepted(request.headers.get("accept", ""))) is Format.CSV:
            return answer(request, csv_of(content), CSV_MEDIA_TYPE)
        step_seconds = None if chosen.grid is None else chosen.grid.step_ms // 1_000
        return json_answer(
            request, {"tier": chosen.tier.name, "step_seconds": step_seconds, "tz": chosen.zone, "series": content}
        )

    return routes


def _check(query: HistoryQuery) -> None:
    for name in ("aggregate", "tz"):
        if getattr(query, name) is not None and query.step is None:
            raise InvalidParameter(name, "needs a step")
    if query.aggregate is Aggregate.RATE and kind_of(query.metric) is not MetricKind.COUNTER:
        raise InvalidParameter("aggregate", "rate needs a counter, a metric whose name ends in _total")


def _points(connection: Connection, series: list[Series], window: Window) -> Columns:
    points = raw_points(connection, series, window, MAX_POINTS + 1)
    if len(points["series"]) > MAX_POINTS:
        raise too_many_points("without a step", window, len(series))
    return points


def _buckets(
    connection: Connection, series: list[Series], parts: list[Part], grid: Grid, aggregate: Aggregate
) -> Columns:
    try:
        return buckets(connection, [one.places for one in series], parts, grid.cut, [aggregate])
    except DataRejected as exc:
        raise InvalidParameter("aggregate", f"can't be made of these values: {exc}") from exc


def _series(series: Series, shape: shapes.Shape) -> dict[str, Any]:
    return {
        "device": series.device,
        "metric": series.metric,
        "labels": msgspec.Raw(series.labels.encode()),
        "unit": series.unit,
        "time": shape.time,
        "value": shape.value,
        "coverage": shape.coverage,
    }
