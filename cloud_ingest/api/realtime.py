"""GET /api/v1/realtime: each sensor's newest value, where it is, and how far it is from trouble."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from cloud_ingest.alerts.definition import LocationPath
from cloud_ingest.alerts.judging import Watched
from cloud_ingest.alerts.machine import Phase, State
from cloud_ingest.alerts.precedence import Candidate, Sensor, explain, winners
from cloud_ingest.alerts.rule import Operator, Versions
from cloud_ingest.alerts.standing import Standing, phase_without, standing, worst
from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.explanation import Explained
from cloud_ingest.api.paging import Cursor, decode_cursor, encode_cursor
from cloud_ingest.api.parameters import Devices, MetricGlob, Parameters, Site, once_each
from cloud_ingest.api.times import format_time
from cloud_ingest.store import alert_states
from cloud_ingest.store.current import Position
from cloud_ingest.store.pool import ReadPool
from cloud_ingest.store.realtime import RealtimeRow, realtime_values, silent_alerts, unknown_alerts
from cloud_ingest.store.rollup.state import to_ms
from cloud_ingest.store.thresholds import candidates, versions


class AppliedThreshold(BaseModel):
    """A threshold that judges the series. Of several of different kinds, the one whose trouble is worst or nearest."""

    id: int
    name: str
    version: int
    operator: Operator
    warning: float | None
    critical: float | None
    clear: float | None = Field(description="An episode ends with a value not beyond this.")
    distance: float | None = Field(
        description="How far the value is from the level that it would reach first; 0 or less where it is beyond it."
    )


class SensorNow(BaseModel):
    """A sensor as it is now."""

    device: str
    site: str
    metric: str
    labels: dict[str, str]
    unit: str
    location: str | None
    sensor_type: str | None
    time: datetime = Field(description="When it was measured, by the device's clock.")
    value: float | None = Field(description="null where the newest reading holds no value for this series.")
    threshold: AppliedThreshold | None
    state: Literal["ok", "pending", "firing", "unknown"]
    explain: list[Explained] | None = Field(
        description="With `explain=true`: what becomes of each threshold, and why; those that win come first."
    )


class Realtime(BaseModel):
    """Sensors by device and series."""

    items: list[SensorNow]
    next: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class RealtimeQuery(Parameters):
    """The parameters of /api/v1/realtime."""

    location: Annotated[LocationPath | None, Field(description="This one and all below it; default: all.")] = None
    site: Site | None = None
    device: Devices = Field(default=[])
    metric: MetricGlob | None = None
    explain: Annotated[bool, Field(description="Say for each sensor which threshold won, and why.")] = False
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    cursor: Cursor = None


class _Judges:
    """What is known of thresholds and of what they found, as of now."""

    def __init__(
        self,
        thresholds: Sequence[Candidate],
        rules: Mapping[int, Versions],
        states: Mapping[Watched, State],
        *,
        unknown: Collection[Watched],
        silent: Collection[Watched],
        now_ms: int,
    ) -> None:
        self.thresholds = thresholds
        self.now_ms = now_ms
        self._rules = rules
        self._states = states
        self._unknown = unknown
        self._silent = silent

    def standings(self, row: RealtimeRow) -> list[Standing]:
        """How the series stands to each threshold that judges it."""
        found = []
        for candidate in winners(self.thresholds, sensor_of(row)):
            known = self._rules.get(candidate.threshold_id)
            rule = (known.at(self.now_ms) if known else None) or candidate.definition.rule()
            watched = Watched(row.device_id, candidate.threshold_id, row.key_id)
            state = self._states.get(watched) or State(to_ms(row.time))
            stands = standing(candidate, rule, state, row.value, self.now_ms)
            if watched in self._silent:
                stands = replace(stands, phase=Phase.FIRING)
            elif watched in self._unknown:
                stands = replace(stands, phase=Phase.UNKNOWN)
            found.append(stands)
        return found


def router(pool: ReadPool, kept: timedelta) -> APIRouter:
    """The address, reading through `pool`; raw readings are kept for `kept`."""
    routes = APIRouter(prefix="/api/v1", tags=["alerts"], dependencies=[Depends(once_each)])

    @routes.get("/realtime", response_model=Realtime)
    def realtime(request: Request, query: Annotated[RealtimeQuery, Query()]) -> Response:
        """The newest value of each sensor, the threshold that applies to it, and how it stands."""
        now = datetime.now(UTC)
        after = None if query.cursor is None else Position(*decode_cursor(query.cursor, 2))
        with pool.connection() as connection:
            rows = realtime_values(
                connection,
                devices=query.device,
                metric=query.metric,
                site=query.site,
                location=query.location,
                since=now - kept,
                after=after,
                limit=query.limit + 1,
            )
            device_ids = sorted({row.device_id for row in rows})
            states, unknown = alert_states.read(connection, device_ids), unknown_alerts(connection, device_ids)
            silent = silent_alerts(connection, device_ids)
            judges = _Judges(
                candidates(connection), versions(connection), states, unknown=unknown, silent=silent, now_ms=to_ms(now)
            )
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        content = {
            "items": [_item(row, judges, explained=query.explain) for row in rows],
            "next": encode_cursor(rows[-1].device, rows[-1].key) if more else None,
        }
        return json_answer(request, content)

    return routes


def sensor_of(row: RealtimeRow) -> Sensor:
    """The series as thresholds see it."""
    return Sensor(row.device, row.site, row.metric, row.labels, row.location, row.sensor_type)


def _item(row: RealtimeRow, judges: _Judges, *, explained: bool) -> dict[str, Any]:
    found = worst(judges.standings(row))
    verdicts = None
    if explained:
        verdicts = [
            {"id": it.threshold_id, "name": it.name, "kind": it.slot, "wins": it.wins, "reason": it.reason}
            for it in explain(judges.thresholds, sensor_of(row))
        ]
    phase = phase_without(to_ms(row.time), judges.now_ms) if found is None else found.phase
    return {
        "device": row.device,
        "site": row.site,
        "metric": row.metric,
        "labels": row.labels,
        "unit": row.unit,
        "location": row.location,
        "sensor_type": row.sensor_type,
        "time": format_time(row.time),
        "value": row.value,
        "threshold": None if found is None else _threshold(found),
        "state": phase.value,
        "explain": verdicts,
    }


def _threshold(it: Standing) -> dict[str, Any]:
    return {
        "id": it.candidate.threshold_id,
        "name": it.candidate.definition.name,
        "version": it.rule.version,
        "operator": it.rule.operator.value,
        "warning": it.rule.warning,
        "critical": it.rule.critical,
        "clear": it.rule.clear,
        "distance": it.distance,
    }
