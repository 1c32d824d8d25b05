"""GET /api/v1/thresholds/explain: which thresholds judge a series, and why."""

from http import HTTPStatus
from typing import Annotated, Final, Self

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cloud_ingest.alerts.precedence import explain
from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.changes import NOT_FOUND
from cloud_ingest.api.parameters import Identifier, Metric, Parameters, once_each
from cloud_ingest.api.problems import InvalidParameter, problem
from cloud_ingest.store.pool import ReadPool
from cloud_ingest.store.thresholds import candidates, find_sensor
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.series import SeriesKey

_LABEL_PREFIX: Final = "label."


class ExplainQuery(Parameters):
    """The parameters of /api/v1/thresholds/explain; what is not named here must be a `label.NAME`."""

    model_config = ConfigDict(extra="allow")

    device: Identifier
    metric: Metric

    @model_validator(mode="after")
    def _only_labels_beside(self) -> Self:
        for name in self.model_extra or {}:
            if not name.startswith(_LABEL_PREFIX):
                raise InvalidParameter(name, "is not a parameter of this address")
        return self

    @property
    def key(self) -> SeriesKey:
        """The series. Raises InvalidParameter."""
        extra = self.model_extra or {}
        try:
            return SeriesKey.of(self.metric, {name.removeprefix(_LABEL_PREFIX): str(it) for name, it in extra.items()})
        except InvalidSeriesKey as exc:
            raise InvalidParameter("label", f"can't be a label: {exc}") from exc


class Explained(BaseModel):
    """What becomes of one threshold for the series, and why."""

    id: int
    name: str
    kind: str = Field(description="above, below, equal or unequal: thresholds of one kind compete.")
    wins: bool
    reason: str


class Explanation(BaseModel):
    """Which thresholds judge a series; those that win come first."""

    device: str
    site: str
    metric: str
    labels: dict[str, str]
    location: str | None
    sensor_type: str | None
    thresholds: list[Explained]


def router(pool: ReadPool) -> APIRouter:
    """The address, reading through `pool`."""
    routes = APIRouter(prefix="/api/v1/thresholds", tags=["thresholds"], dependencies=[Depends(once_each)])

    @routes.get("/explain", response_model=Explanation, responses=NOT_FOUND)
    def explained(request: Request, query: Annotated[ExplainQuery, Query()]) -> Response:
        """Which thresholds judge a series of a device, and why; labels as `label.NAME`."""
        with pool.connection() as connection:
            sensor = find_sensor(connection, query.device, query.key)
            known = candidates(connection)
        if sensor is None:
            return problem(HTTPStatus.NOT_FOUND, f"there is no device {query.device}")
        return json_answer(
            request,
            {
                "device": sensor.device,
                "site": sensor.site,
                "metric": sensor.metric,
                "labels": dict(sensor.labels),
                "location": sensor.location,
                "sensor_type": sensor.sensor_type,
                "thresholds": [
                    {"id": it.threshold_id, "name": it.name, "kind": it.slot, "wins": it.wins, "reason": it.reason}
                    for it in explain(known, sensor)
                ],
            },
        )

    return routes
