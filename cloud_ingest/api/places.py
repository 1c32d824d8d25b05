"""Where a device is, and where and what single sensors of it are."""

from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud_ingest.alerts.definition import LocationPath, Text
from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.changes import NOT_FOUND
from cloud_ingest.api.parameters import Identifier, Metric, once_each
from cloud_ingest.api.problems import InvalidParameter, problem
from cloud_ingest.store.locations import device_location, list_sensors, place_device, place_sensor
from cloud_ingest.store.pool import ReadPool
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.series import SeriesKey

_CONFLICT: Final[dict[int | str, dict[str, Any]]] = {HTTPStatus.CONFLICT: {"description": "There is no such location."}}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Place(_Part):
    """Where a device is."""

    location: LocationPath | None


class SensorPlace(_Part):
    """Where a single series of a device is, and what it is; a series without is where its device is."""

    metric: Metric
    labels: dict[str, str] = Field(default={}, max_length=64)
    location: LocationPath | None = None
    sensor_type: Annotated[Text, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Thresholds can select by it."
    )


class Sensors(BaseModel):
    """The series of a device of which somebody said where or what they are."""

    items: list[SensorPlace]


Device = Annotated[Identifier, Path(examples=["pump-house-1"])]


def router(pool: ReadPool) -> APIRouter:
    """The addresses, reading and writing through `pool`."""
    routes = APIRouter(prefix="/api/v1/devices/{device}", tags=["locations"], dependencies=[Depends(once_each)])

    @routes.get("/location", response_model=Place, responses=NOT_FOUND)
    def place(request: Request, device: Device) -> Response:
        """Where a device is."""
        with pool.connection() as connection:
            found = device_location(connection, device)
        return _no_device(device) if found is None else json_answer(request, {"location": found[0]})

    @routes.put("/location", response_model=Place, responses=NOT_FOUND | _CONFLICT)
    def put_place(request: Request, device: Device, place: Place) -> Response:
        """Say where a device is; null: nowhere."""
        with pool.writing() as connection:
            found = place_device(connection, device, place.location)
        return json_answer(request, place.model_dump()) if found else _no_device(device)

    @routes.get("/sensors", response_model=Sensors, responses=NOT_FOUND)
    def sensors(request: Request, device: Device) -> Response:
        """The series of a device of which somebody said where or what they are."""
        with pool.connection() as connection:
            if device_location(connection, device) is None:
                return _no_device(device)
            rows = list_sensors(connection, device)
        return json_answer(request, {"items": rows})

    @routes.put("/sensors", response_model=SensorPlace, responses=NOT_FOUND | _CONFLICT)
    def put_sensor(request: Request, device: Device, sensor: SensorPlace) -> Response:
        """Say where a single series is and of what type; null for both takes back what was said."""
        try:
            key = SeriesKey.of(sensor.metric, sensor.labels)
        except InvalidSeriesKey as exc:
            raise InvalidParameter("labels", f"can't be labels: {exc}") from exc
        with pool.writing() as connection:
            found = place_sensor(connection, device, key, sensor.location, sensor.sensor_type)
        return json_answer(request, sensor.model_dump()) if found else _no_device(device)

    return routes


def _no_device(device: str) -> Response:
    return problem(HTTPStatus.NOT_FOUND, f"there is no device {device}")
