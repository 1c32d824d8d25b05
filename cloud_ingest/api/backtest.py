"""POST /api/v1/thresholds/backtest: which alerts a threshold would have made of what is stored."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.alerts.history import Episode, Sample, in_order, judge
from cloud_ingest.alerts.precedence import Sensor, mismatch
from cloud_ingest.alerts.rule import Rule, Versions
from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.parameters import Time, once_each
from cloud_ingest.api.problems import InvalidParameter
from cloud_ingest.api.selection import MAX_POINTS, MAX_SERIES, window_between
from cloud_ingest.api.times import format_time
from cloud_ingest.store.columns import Columns
from cloud_ingest.store.database import Connection
from cloud_ingest.store.history import Aggregate, Cut, Series, Window, buckets, find_series, raw_points
from cloud_ingest.store.pool import ReadPool
from cloud_ingest.store.realtime import placements
from cloud_ingest.store.rollup.state import from_ms, read_state, to_ms
from cloud_ingest.store.tier_choice import finest_tier, parts_of
from cloud_ingest.store.tiers import RAW, Tier

MAX_SPAN: Final = timedelta(days=31)
MAX_EPISODES: Final = 1_000


class Trial(BaseModel):
    """A threshold to be tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: Definition = Field(description="Need not exist. Judged as if it were the only one, and enabled.")
    start: Annotated[Time, Field(description="Inclusive; default: a day ago.")] = timedelta(days=-1)
    end: Annotated[Time, Field(description="Exclusive; default: now.")] = timedelta(0)


class TrialEpisode(BaseModel):
    """An alert that it would have made."""

    device: str
    site: str
    location: str | None
    metric: str
    labels: dict[str, str]
    severity: Literal["warning", "critical"]
    start: datetime
    fired: datetime
    end: datetime | None = Field(description="null where it had not ended.")
    peak: float
    peak_time: datetime
    last: float


class TrialResult(BaseModel):
    """What a threshold would have done."""

    tier: Literal["raw", "5m", "1h", "1d"] = Field(
        description="raw: judged by the readings, exactly. Else by the worst value of each rollup of that length."
    )
    start: datetime
    end: datetime
    series: int = Field(description="How many it would have judged that have values in this time.")
    samples: int
    count: int = Field(description="How many alerts there would have been.")
    episodes: list[TrialEpisode] = Field(description=f"In the order in which they began; at most {MAX_EPISODES}.")


@dataclass(frozen=True, slots=True)
class _Judged:
    """A series that the threshold is meant for."""

    series: Series
    location: str | None


def router(pool: ReadPool) -> APIRouter:
    """The address, reading through `pool`."""
    routes = APIRouter(prefix="/api/v1/thresholds", tags=["thresholds"], dependencies=[Depends(once_each)])

    @routes.post("/backtest", response_model=TrialResult)
    def backtest(request: Request, trial: Trial) -> Response:
        """Which alerts a threshold would have made of what is stored. Nothing is changed, and nobody is told."""
        window = window_between(trial.start, trial.end, datetime.now(UTC))
        if window.end - window.start > MAX_SPAN:
            raise InvalidParameter("start", f"must be at most {MAX_SPAN.days} days before end")
        rule = trial.threshold.rule()
        with pool.connection() as connection:
            judged = _matching(connection, trial.threshold)
            tier = finest_tier(read_state(connection), to_ms(window.start))
            points = _raw(connection, judged, window) if tier is RAW else _worst(connection, judged, window, tier, rule)
        if tier is not RAW:  # whose buckets follow each other by so much
            rule = replace(rule, silence_ms=max(rule.silence_ms, tier.step_ms))
        found = [(judged[index], it) for index, samples in _samples(points) for it in _episodes(rule, samples)]
        found.sort(key=lambda it: (it[1].start_ms, it[0].series.device, it[0].series.key))
        content = {
            "tier": tier.name,
            "start": format_time(window.start),
            "end": format_time(window.end),
            "series": len(np.unique(points["series"])),
            "samples": len(points["series"]),
            "count": len(found),
            "episodes": [_item(of, episode) for of, episode in found[:MAX_EPISODES]],
        }
        return json_answer(request, content)

    return routes


def _matching(connection: Connection, definition: Definition) -> list[_Judged]:
    """The series that the threshold is meant for."""
    selector = definition.selector
    series = find_series(
        connection,
        metric=definition.metric.replace("?", "*"),  # more than is wanted: what is not is left out below
        devices=[] if selector.device is None else [selector.device],
        site=selector.site,
        labels={},
        limit=MAX_SERIES + 1,
    )
    if len(series) > MAX_SERIES:
        raise InvalidParameter("threshold.selector", f"selects more than {MAX_SERIES} series: name a device or site")
    enabled = definition.model_copy(update={"enabled": True})
    known = placements(connection, sorted({one.device for one in series}))
    judged = []
    for one in series:
        location, sensor_type = known.of(one.device, one.key)
        sensor = Sensor(one.device, one.site, one.metric, msgspec.json.decode(one.labels), location, sensor_type)
        if mismatch(enabled, sensor) is None:
            judged.append(_Judged(one, location))
    return judged


def _raw(connection: Connection, judged: list[_Judged], window: Window) -> Columns:
    points = raw_points(connection, [it.series for it in judged], window, MAX_POINTS + 1)
    if len(points["series"]) > MAX_POINTS:
        raise InvalidParameter("start", f"leaves more than {MAX_POINTS} readings to judge: choose a shorter time")
    return points


def _worst(connection: Connection, judged: list[_Judged], window: Window, tier: Tier, rule: Rule) -> Columns:
    """The worst value of each rollup, as a point at its start."""
    if not rule.operator.direction:
        raise InvalidParameter(
            "start", f"goes back beyond the readings, and rollups don't tell whether a value was {rule.operator}"
        )
    start_ms, end_ms = tier.bucket(to_ms(window.start)), to_ms(window.end)
    if (end_ms - start_ms) // tier.step_ms * len(judged) > MAX_POINTS:
        raise InvalidParameter("start", f"leaves more than {MAX_POINTS} rollups to judge: choose a shorter time")
    cut = Cut(from_ms(start_ms), timedelta(milliseconds=tier.step_ms))
    worst = Aggregate.MAX if rule.operator.direction > 0 else Aggregate.MIN
    parts = parts_of(read_state(connection), tier, start_ms, end_ms)
    found = buckets(connection, [it.series.places for it in judged], parts, cut, [worst])
    return {"series": found["series"], "time": found["time"], "value": found[worst.value]}


def _samples(points: Columns) -> Iterator[tuple[int, list[Sample]]]:
    """Each series that has points, and these in the order in which they are judged."""
    order = np.argsort(points["series"], kind="stable")
    present, first = np.unique(points["series"][order], return_index=True)
    for index, rows in zip(present.tolist(), np.split(order, first[1:]), strict=False):
        times, values = points["time"][rows].tolist(), points["value"][rows].tolist()
        yield index, in_order(map(Sample, times, values))


def _episodes(rule: Rule, samples: list[Sample]) -> list[Episode]:
    return judge(Versions([rule]), samples)[0]


def _item(of: _Judged, episode: Episode) -> dict[str, Any]:
    return {
        "device": of.series.device,
        "site": of.series.site,
        "location": of.location,
        "metric": of.series.metric,
        "labels": msgspec.Raw(of.series.labels.encode()),
        "severity": episode.severity.name.lower(),
        "start": format_time(from_ms(episode.start_ms)),
        "fired": format_time(from_ms(episode.fired_ms)),
        "end": None if episode.end_ms is None else format_time(from_ms(episode.end_ms)),
        "peak": episode.peak,
        "peak_time": format_time(from_ms(episode.peak_ms)),
        "last": episode.last,
    }
