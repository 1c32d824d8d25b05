"""GET /api/v1/metrics/history."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from cloud_ingest.api import shapes
from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.coverage import Floats, missing_shares
from cloud_ingest.api.parameters import Devices, Metric, Parameters, Site, Time, once_each
from cloud_ingest.api.problems import InvalidParameter
from cloud_ingest.api.times import TimeSpec, format_duration, parse_duration, resolve
from cloud_ingest.errors import DataRejected
from cloud_ingest.store.columns import Columns
from cloud_ingest.store.database import Connection
from cloud_ingest.store.history import RATE_LOOKBACK_MS, Aggregate, Series, Window, buckets, find_series, raw_points
from cloud_ingest.store.known_gaps import losses
from cloud_ingest.store.pool import ReadPool
from cloud_ingest.store.rollup.state import TierState, read_state, to_ms
from cloud_ingest.store.tier_choice import Choice, Part, choose_tier, parts_of
from cloud_ingest.store.tiers import Tier
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.metrics import MetricKind, kind_of
from telemetry_contract.series import SeriesKey

MAX_POINTS: Final = 200_000
MAX_SERIES: Final = 5_000
_LABEL_PREFIX: Final = "label."
# Steps that people think in, and that nest: what a refused query is told to use.
_USUAL_STEPS: Final = (1, 5, 15, 30, 60, 300, 900, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 604_800)


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
    series: list[HistorySeries] = Field(description="Those that have readings in this time, by device and labels.")


def _duration(value: object) -> timedelta:
    return parse_duration(value if isinstance(value, str) else "")


class HistoryQuery(Parameters):
    """The parameters of /api/v1/metrics/history; what is not named here must be a `label.NAME`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    device: Devices = Field(default=[])
    metric: Metric
    site: Site | None = None
    start: Annotated[Time, Field(description="Inclusive; default: an hour ago.")] = timedelta(hours=-1)
    end: Annotated[Time, Field(description="Exclusive; default: now.")] = timedelta(0)
    step: Annotated[
        timedelta | None,
        PlainValidator(_duration),
        WithJsonSchema({"type": "string", "examples": ["60", "5m", "1h"]}),
        Field(
            description="The length of a bucket; without it, every reading, or what is kept of it. Buckets begin at"
            " multiples of it."
        ),
    ] = None
    aggregate: Annotated[
        Aggregate | None, Field(description="What a bucket shows; default: mean. `rate` is for counters alone.")
    ] = None

    @model_validator(mode="after")
    def _only_labels_beside(self) -> Self:
        for name in self.model_extra or {}:
            if not name.startswith(_LABEL_PREFIX):
                raise InvalidParameter(name, "is not a parameter of this address")
        return self

    @property
    def labels(self) -> dict[str, str]:
        """The `label.NAME` parameters by NAME."""
        return {name.removeprefix(_LABEL_PREFIX): value for name, value in (self.model_extra or {}).items()}


def router(pool: ReadPool) -> APIRouter:
    """The address, reading through `pool`."""
    routes = APIRouter(prefix="/api/v1/metrics", dependencies=[Depends(once_each)])

    @routes.get("/history", response_model=History, tags=["metrics"], openapi_extra=_LABEL_PARAMETER)
    def history(request: Request, query: Annotated[HistoryQuery, Query()]) -> Response:
        """The readings of a metric over time, as measured or in buckets."""
        now = datetime.now(UTC)
        window = _window(query, now)
        _check_labels(query)
        _check_aggregate(query)
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
            choice = _choose(query, state, window)
            if choice.step_ms is None:
                found = shapes.raw(_points(connection, series, window))
            else:
                aggregate = query.aggregate or Aggregate.MEAN
                grid = _grid(window, timedelta(milliseconds=choice.step_ms), len(series))
                parts = _parts(state, choice.tier, grid, aggregate)
                found = shapes.bucketed(
                    _buckets(connection, series, grid, aggregate, parts),
                    grid,
                    aggregate,
                    to_ms(now),
                    _missing(connection, series, grid),
                )
        answer = {
            "tier": choice.tier.name,
            "step_seconds": None if choice.step_ms is None else choice.step_ms // 1000,
            "series": [_series(series[shape.index], shape) for shape in found],
        }
        return json_answer(request, answer)

    return routes


def _choose(query: HistoryQuery, state: TierState, window: Window) -> Choice:
    step_ms = None if query.step is None else query.step // timedelta(milliseconds=1)
    # Of readings a rate is exact, and of rollups the better the shorter they are
    finest = query.aggregate is Aggregate.RATE
    return choose_tier(state, to_ms(window.start), to_ms(window.end), step_ms, finest=finest)


def _points(connection: Connection, series: list[Series], window: Window) -> Columns:
    points = raw_points(connection, series, window, MAX_POINTS + 1)
    if len(points["series"]) > MAX_POINTS:
        raise _too_many("without a step", window, len(series))
    return points


def _grid(window: Window, step: timedelta, series: int) -> shapes.Grid:
    grid = shapes.Grid.around(window, step)
    if grid.count * max(series, 1) > MAX_POINTS:
        raise _too_many(f"with {grid.count} steps and {series} series", window, series)
    return grid


def _parts(state: TierState, tier: Tier, grid: shapes.Grid, aggregate: Aggregate) -> list[Part]:
    before = max(grid.step_ms, RATE_LOOKBACK_MS) if aggregate is Aggregate.RATE else 0
    return parts_of(state, tier, grid.start_ms - before, grid.start_ms + grid.step_ms * grid.count)


def _buckets(
    connection: Connection, series: list[Series], grid: shapes.Grid, aggregate: Aggregate, parts: list[Part]
) -> Columns:
    step = timedelta(milliseconds=grid.step_ms)
    try:
        return buckets(connection, series, parts, start=grid.window.start, step=step, aggregate=aggregate)
    except DataRejected as exc:
        raise InvalidParameter("aggregate", f"can't be made of these values: {exc}") from exc


def _missing(connection: Connection, series: list[Series], grid: shapes.Grid) -> dict[int, Floats]:
    found = losses(connection, {one.device for one in series}, grid.window.start, grid.window.end)
    shares = {device: missing_shares(grid.starts, grid.step_ms, each) for device, each in found.items()}
    return {index: shares[one.device] for index, one in enumerate(series) if one.device in shares}


def _window(query: HistoryQuery, now: datetime) -> Window:
    start = _moment("start", query.start, now)
    end = _moment("end", query.end, now)
    if end <= start:
        raise InvalidParameter("end", "must be after start")
    return Window(start, end)


def _moment(field: str, spec: TimeSpec, now: datetime) -> datetime:
    try:
        return resolve(spec, now)
    except ValueError as exc:
        raise InvalidParameter(field, str(exc)) from exc


def _check_labels(query: HistoryQuery) -> None:
    for name, value in query.labels.items():
        try:
            SeriesKey.of(query.metric, {name: value})
        except InvalidSeriesKey as exc:
            raise InvalidParameter(f"{_LABEL_PREFIX}{name}", f"can't be a label: {exc}") from exc


def _check_aggregate(query: HistoryQuery) -> None:
    if query.aggregate is not None and query.step is None:
        raise InvalidParameter("aggregate", "needs a step")
    if query.aggregate is Aggregate.RATE and kind_of(query.metric) is not MetricKind.COUNTER:
        raise InvalidParameter("aggregate", "rate needs a counter, a metric whose name ends in _total")


def _too_many(what: str, window: Window, series: int) -> InvalidParameter:
    seconds = (window.end - window.start).total_seconds()
    fits = [step for step in _USUAL_STEPS if (seconds / step + 1) * max(series, 1) <= MAX_POINTS]
    advice = f"use step={format_duration(fits[0])} or more" if fits else "use a shorter time or fewer series"
    return InvalidParameter("step", f"{what} this would be more than {MAX_POINTS} points: {advice}")


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


# OpenAPI can't describe a family of names; this stands for all of them.
_LABEL_PARAMETER: Final = {
    "parameters": [
        {
            "name": "label.NAME",
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": "Only series whose label NAME has this value, as in `label.mount=/`; may be repeated.",
        }
    ]
}
