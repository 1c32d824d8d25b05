"""PUT /api/v1/devices/{device}/liveness: after how long without a sign a device is silent."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.parameters import Identifier, Parameters, once_each
from cloud_ingest.api.problems import problem
from cloud_ingest.config import LONGEST_SILENCE_SECONDS, SHORTEST_SILENCE_SECONDS
from cloud_ingest.store.devices import set_silence
from cloud_ingest.store.pool import ReadPool


class LivenessBody(BaseModel):
    """What may be set for one device."""

    model_config = ConfigDict(extra="forbid")

    silence_seconds: (
        Annotated[float, Field(ge=SHORTEST_SILENCE_SECONDS, le=LONGEST_SILENCE_SECONDS, allow_inf_nan=False)] | None
    ) = Field(description="Null: as the configuration of the cloud says.", examples=[900])


class LivenessAnswer(LivenessBody):
    """What holds for the device now."""

    device: str


def router(pool: ReadPool) -> APIRouter:
    """The address, working through `pool`."""
    routes = APIRouter(prefix="/api/v1/devices/{device}", dependencies=[Depends(once_each)], tags=["devices"])

    @routes.put(
        "/liveness",
        response_model=LivenessAnswer,
        responses={HTTPStatus.NOT_FOUND: {"description": "Nothing was ever heard of this device."}},
    )
    def put_liveness(
        request: Request,
        device: Annotated[Identifier, Path(examples=["pump-house-1"])],
        _: Annotated[Parameters, Query()],
        body: Annotated[LivenessBody, Body()],
    ) -> Response:
        """Sets after how long without a sign the device is away."""
        with pool.writing() as connection:
            found = set_silence(connection, device, body.silence_seconds)
        if not found:
            return problem(HTTPStatus.NOT_FOUND, f"there is no device {device}")
        return json_answer(request, {"device": device, "silence_seconds": body.silence_seconds})

    return routes
