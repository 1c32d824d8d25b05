"""GET /api/v1/metrics/summary."""

from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field, PlainValidator, WithJsonSchema

from cloud_ingest.api import figures, shapes
from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.missing import missing
from cloud_ingest.api.paging import Cursor, decode_cursor, encode_cursor
from cloud_ingest.api.parameters import MetricGlob, Time, once_each
from cloud_ingest.api.problems import InvalidParameter
from cloud_ingest.api.selection import LABEL_PARAMETER, Selection, moment_of
from cloud_ingest.api.times import format_time, parse_time
from cloud_ingest.errors import DataRejected
from cloud_ingest.store.current import Position
from cloud_ingest.store.database import Connection
from cloud_ingest.store.history import Aggregate, Cut, Series, Window, buckets, find_series
from cloud_ingest.store.matrices import matrices
from cloud_ingest.store.pool import ReadPool
from cloud_ingest.store.rollup.state import TierState, from_ms, read_state, to_ms
from cloud_ingest.store.tier_choice import finest_tier, parts_of
from cloud_ingest.store.tiers import RAW, Tier

# Into so many stretches a time is cut to see how often a series is measured, gaps left aside.
_STRETCHES: Final = 48
_PARTS_OF_A_SUMMARY: Final = (Aggregate.SUM, Aggregate.MIN, Aggregate.MAX, Aggregate.LAST)


class SeriesSummary(BaseModel):
    """One series over the whole time; figures are null where no reading has a value."""

    device: str
    metric: str
    labels: dict[str, str]
    unit: str
    count: int = Field(description="Readings with a value.")
    min: float | None
    mean: float | None
    max: float | None
    p50: float | None = Field(description="The median, exact; null where it can't be told from what is left.")
    p95: float | None = Field(description="95 % of the values are at most this, exact; null as `p50`.")
    last: float | None = Field(description="The newest value.")
    coverage: float | None = Field(
        description="How much of the time was observed, 0 to 1; null where that can't be told."
    )


class Summary(BaseModel):
    """Series by device and labels."""

    tier: Literal["raw", "5m", "1h", "1d"] = Field(
        description="What the figures were made from. Only of readings as they came can p50 and p95 be told."
    )
    start: datetime = Field(description="From when, inclusive: earlier than asked for where only rollups are kept.")
    end: datetime = Field(description="To when, exclusive.")
    series: list[SeriesSummary] = Field(description="Those that have readings in this time.")
    next: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


def _period(value: object) -> timedelta:
    spec = parse_time(value) if isinstance(value, str) else None
    if not isinstance(spec, timedelta) or not spec:
        raise ValueError("must be an offset like -15m, -1h or -7d")
    return spec


class SummaryQuery(Selection):
    """The parameters of /api/v1/metrics/summary."""

    metric: MetricGlob | None = None
    period: Annotated[
        timedelta,
        PlainValidator(_period),
        WithJsonSchema({"type": "string", "examples": ["-1h", "-7d"]}),
        Field(description="How far back from `end`; default: an hour."),
    ] = timedelta(hours=-1)
    end: Annotated[Time, Field(description="Exclusive; default: now.")] = timedelta(0)
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    cursor: Cursor = None


def router(pool: ReadPool) -> APIRouter:
    """The address, reading through `pool`."""
    routes = APIRouter(prefix="/api/v1/metrics", dependencies=[Depends(once_each)])

    @routes.get("/summary", response_model=Summary, tags=["metrics"], openapi_extra=LABEL_PARAMETER)
    def summary(request: Request, query: Annotated[SummaryQuery, Query()]) -> Response:
        """What each series did over a time, in figures."""
        now = datetime.now(UTC)
        end = moment_of("end", query.end, now)
        asked = Window(moment_of("period", end + query.period, now), end)
        after = None if query.cursor is None else Position(*decode_cursor(query.cursor, 2))
        with pool.connection() as connection:
            series = find_series(
                connection,
                metric=query.metric,
                devices=query.device,
                site=query.site,
                labels=query.labels,
                after=after,
                limit=query.limit + 1,
            )
            more = len(series) > query.limit
            series = series[: query.limit]
            state = read_state(connection)
            tier = finest_tier(state, to_ms(asked.start))
            window = _whole_buckets(asked, tier)
            starts, lengths = (np.array([it], np.int64) for it in _start_and_length(window))
            frame = shapes.Frame(starts, lengths, to_ms(now), missing(connection, series, starts, lengths))
            try:
                found = _summaries(connection, series, state, tier, window=window, frame=frame)
            except DataRejected as exc:
                raise InvalidParameter("period", f"holds what can't be summed up: {exc}") from exc
        content = {
            "tier": tier.name,
            "start": format_time(window.start),
            "end": format_time(window.end),
            "series": [_item(series[it.index], it) for it in found],
            "next": encode_cursor(series[-1].device, series[-1].key) if more else None,
        }
        return json_answer(request, content)

    return routes


def _whole_buckets(window: Window, tier: Tier) -> Window:
    start_ms, end_ms = to_ms(window.start), to_ms(window.end)
    return Window(from_ms(tier.bucket(start_ms)), from_ms(-tier.bucket(-end_ms)))


def _start_and_length(window: Window) -> tuple[int, int]:
    start_ms = to_ms(window.start)
    return start_ms, to_ms(window.end) - start_ms


def _summaries(
    connection: Connection, series: list[Series], state: TierState, tier: Tier, *, window: Window, frame: shapes.Frame
) -> list[shapes.Summary]:
    """Those of the series that have readings, in order."""
    start_ms, end_ms = to_ms(window.start), to_ms(window.end)
    grain_ms = max(tier.step_ms, 1_000)
    stretch_ms = max((end_ms - start_ms) // _STRETCHES // grain_ms, 1) * grain_ms
    if tier is RAW:
        with matrices(connection, series, window) as devices:
            return sorted(figures.of_readings(devices, stretch_ms, frame), key=attrgetter("index"))
    cut = Cut(window.start, timedelta(milliseconds=stretch_ms))
    parts = parts_of(state, tier, start_ms, end_ms)
    columns = buckets(connection, [one.places for one in series], parts, cut, _PARTS_OF_A_SUMMARY)
    return list(shapes.summed(columns, frame))


def _item(series: Series, found: shapes.Summary) -> dict[str, Any]:
    return {
        "device": series.device,
        "metric": series.metric,
        "labels": msgspec.Raw(series.labels.encode()),
        "unit": series.unit,
        "count": found.count,
        "min": found.min,
        "mean": found.mean,
        "max": found.max,
        "p50": found.p50,
        "p95": found.p95,
        "last": found.last,
        "coverage": found.coverage,
    }
