"""GET, PUT and DELETE /api/v1/devices/{device}/config: what is wanted of a device, and what it made of it."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema

from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.parameters import Identifier, Parameters, once_each
from cloud_ingest.api.problems import InvalidParameter, problem
from cloud_ingest.api.times import format_time
from cloud_ingest.store.desired import DesiredRow, desired, want
from cloud_ingest.store.pool import ReadPool
from telemetry_contract.desired import (
    COLLECTOR_PATTERN,
    MAX_COLLECTORS,
    MAX_INTERVAL_SECONDS,
    MAX_LABEL_CHARACTERS,
    MAX_LABELS,
    MIN_INTERVAL_SECONDS,
    settings_of,
)
from telemetry_contract.errors import MalformedPayload
from telemetry_contract.series import LABEL_PATTERN

_INTERVAL: Final = {"type": ["number", "null"], "minimum": MIN_INTERVAL_SECONDS, "maximum": MAX_INTERVAL_SECONDS}
# For people and programs that read the description; what decides is the contract.
_SETTINGS: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "sampling": {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {"interval_seconds": _INTERVAL},
        },
        "collectors": {
            "type": ["object", "null"],
            "maxProperties": MAX_COLLECTORS,
            "propertyNames": {"pattern": f"^{COLLECTOR_PATTERN}$"},
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"enabled": {"type": ["boolean", "null"]}, "interval_seconds": _INTERVAL},
            },
        },
        "labels": {
            "type": ["object", "null"],
            "maxProperties": MAX_LABELS,
            "propertyNames": {"pattern": f"^{LABEL_PATTERN}$"},
            "additionalProperties": {"type": "string", "minLength": 1, "maxLength": MAX_LABEL_CHARACTERS},
        },
    },
    "examples": [{"sampling": {"interval_seconds": 2.5}, "collectors": {"cpu": {"enabled": False}}}],
}

Settings = Annotated[Any, WithJsonSchema(_SETTINGS)]


class Reported(BaseModel):
    """What the device said last."""

    state: str = Field(description="trying, applied, refused or reverted.")
    version: int = Field(description="The version that it heard of last.")
    reason: str | None = Field(description="Why it was refused or reverted.")
    in_effect: int | None = Field(description="The version that holds; null: the device's own configuration alone.")
    at: datetime = Field(description="When it said so.")


class DesiredAnswer(BaseModel):
    """What is wanted of a device, and what became of it."""

    device: str
    version: int | None = Field(description="Null where nothing was ever wanted.")
    settings: dict[str, Any] | None = Field(description="Null where nothing is wanted.")
    changed_at: datetime | None
    reported: Reported | None = Field(description="Null where the device says nothing of a desired configuration.")


Device = Annotated[Identifier, Path(examples=["pump-house-1"])]
NoParameters = Annotated[Parameters, Query()]
_UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.NOT_FOUND: {"description": "Nothing was ever heard of this device."}
}


def router(pool: ReadPool) -> APIRouter:
    """The addresses, working through `pool`."""
    routes = APIRouter(prefix="/api/v1/devices/{device}", dependencies=[Depends(once_each)], tags=["devices"])

    @routes.get("/config", response_model=DesiredAnswer, responses=_UNKNOWN)
    def get_desired(request: Request, device: Device, _: NoParameters) -> Response:
        """What is wanted of the device's configuration, and what it made of it."""
        with pool.connection() as connection:
            return _answer(request, device, desired(connection, device))

    @routes.put("/config", response_model=DesiredAnswer, responses=_UNKNOWN)
    def put_desired(request: Request, device: Device, _: NoParameters, body: Annotated[Settings, Body()]) -> Response:
        """Wants this of the device, and nothing else any more; under a new version, also where it is the same."""
        try:
            settings = settings_of(body)
        except MalformedPayload as exc:
            field, _space, message = str(exc).partition(" ")
            raise (InvalidParameter("body", str(exc)) if field == "must" else InvalidParameter(field, message)) from exc
        with pool.writing() as connection:
            want(connection, device, settings)
            return _answer(request, device, desired(connection, device))

    @routes.delete("/config", response_model=DesiredAnswer, responses=_UNKNOWN)
    def delete_desired(request: Request, device: Device, _: NoParameters) -> Response:
        """Wants nothing of the device any more: its own configuration holds alone."""
        with pool.writing() as connection:
            want(connection, device, None)
            return _answer(request, device, desired(connection, device))

    return routes


def _answer(request: Request, device: str, row: DesiredRow | None) -> Response:
    if row is None:
        return problem(HTTPStatus.NOT_FOUND, f"there is no device {device}")
    return json_answer(
        request,
        {
            "device": row.device,
            "version": row.version,
            "settings": row.settings,
            "changed_at": None if row.changed_at is None else format_time(row.changed_at),
            "reported": _reported(row),
        },
    )


def _reported(row: DesiredRow) -> dict[str, object] | None:
    if row.reported is None or row.reported_at is None:
        return None
    optional = {"reason": None, "in_effect": None}
    return {**optional, **row.reported, "at": format_time(row.reported_at)}
