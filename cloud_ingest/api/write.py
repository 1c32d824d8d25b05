"""POST /api/v1/write: readings over HTTP, stored as those that come over MQTT are."""

import time
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.body import CODINGS, decoded_body, read_body
from cloud_ingest.api.parameters import Identifier, Parameters, once_each
from cloud_ingest.api.problems import FieldError, InvalidParameter, problem
from cloud_ingest.api.writers import Writers
from cloud_ingest.config import Config
from cloud_ingest.decode import Limits, decode
from cloud_ingest.errors import DataRejected
from cloud_ingest.foreign.blocks import Bounds, blocks, within
from cloud_ingest.foreign.influx import InfluxInterpreter
from cloud_ingest.foreign.settings import Identity
from cloud_ingest.message import Message
from cloud_ingest.store.batch import Block, Outcome
from cloud_ingest.store.rejected import Rejection
from telemetry_contract.line_protocol import Precision
from telemetry_contract.topics import Kind, Topic

PUBLISHER: Final = "http"  # who speaks for the devices that line protocol over HTTP brings


class Written(BaseModel):
    """What became of the readings of a request."""

    stored: int = Field(description="Readings that are new.")
    duplicate: int = Field(description="Readings that had come before and changed nothing.")
    samples: int = Field(description="Values of the new readings.")
    committed: list[tuple[int, int]] = Field(
        description="As in a commit ack: the sequence numbers of the stream that are settled, as inclusive ranges."
    )


class WriteQuery(Parameters):
    """The parameters of /api/v1/write."""

    format: Annotated[
        Literal["influx", "bridge"],
        Field(description="InfluxDB line protocol, or the JSON that agents publish as samples and backlog."),
    ]
    precision: Annotated[
        Literal["ns", "us", "ms", "s"], Field(description="The unit of the times in line protocol.")
    ] = "ns"
    device: Annotated[
        Identifier | None, Field(description="Whose readings these are; needed for the format bridge.")
    ] = None
    device_tag: Annotated[
        str, Field(min_length=1, max_length=256, description="Without `device`, the tag of each line that tells it.")
    ] = "host"
    site: Annotated[Identifier, Field(description="The site of the device.")] = "default"


_TEXT: Final = {"schema": {"type": "string"}}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": f"Content-Encoding may be {', '.join(CODINGS[:-1])}.",
        "content": {"text/plain": _TEXT, "application/json": {"schema": {"type": "object"}}},
    }
}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.OK: {"model": Written, "description": "format=bridge: all of it is committed."},
    HTTPStatus.NO_CONTENT: {"description": "format=influx: all of it is committed."},
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: {"description": "The body is too large, as it came or decompressed."},
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: {"description": "The content coding is not known."},
    HTTPStatus.UNPROCESSABLE_ENTITY: {
        "description": "Nothing was stored: `errors` names the parameters, or under `body` the lines, at fault."
    },
}


def router(writers: Writers, config: Config) -> APIRouter:
    """The address, writing with `writers`."""
    routes = APIRouter(prefix="/api/v1", tags=["write"], dependencies=[Depends(once_each)])
    max_bytes = config.ingest.max_decompressed_bytes
    bounds = Bounds(
        max_message_bytes=max_bytes,
        max_future_ms=config.ingest.max_future_seconds * 1000,
        max_age_ms=config.retention.tiers_ms[-1],
    )

    def store(request: Request, query: WriteQuery, data: bytes) -> Response:
        data = decoded_body(data, request.headers.get("content-encoding"), max_bytes)
        try:
            found = _bridge(query, data, bounds) if query.format == "bridge" else _influx(query, data, bounds)
            with writers.writer() as writer:
                outcome = writer.write(found, [], whole=True)
        except _Unusable as exc:
            return _refused(exc.problems)
        except DataRejected as exc:
            return _refused([str(exc)])
        return _answer(request, outcome) if query.format == "bridge" else Response(status_code=HTTPStatus.NO_CONTENT)

    @routes.post("/write", response_model=Written, responses=_ANSWERS, openapi_extra=_BODY)
    async def write(request: Request, query: Annotated[WriteQuery, Query()]) -> Response:
        """Store readings, all of them or none. The same request again changes nothing where its readings have times."""
        _require_same_origin(request)
        data = await read_body(request, max_bytes)
        return await run_in_threadpool(store, request, query, data)

    return routes


class _Unusable(Exception):
    """The body can't be stored."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _require_same_origin(request: Request) -> None:
    """A page of another website may send plain text to an API on loopback; its browser says where it is from."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(HTTPStatus.FORBIDDEN, "pages of other origins can't write")


def _influx(query: WriteQuery, data: bytes, bounds: Bounds) -> list[Block]:
    """The blocks of line protocol. Raises _Unusable."""
    identity = Identity(tag=query.device_tag) if query.device is None else Identity(name=query.device)
    interpreter = InfluxInterpreter(PUBLISHER, query.site, identity, Precision[query.precision], ())
    message = Message("api/v1/write", data)
    now_ms = time.time_ns() // 1_000_000
    found = interpreter.interpret(message, data, now_ms)
    readings, outside = within(found.readings, bounds, now_ms)
    if problems := [*found.problems, *outside]:
        raise _Unusable([problem.detail for problem in problems])
    return blocks(message, readings, now_ms)


def _bridge(query: WriteQuery, data: bytes, bounds: Bounds) -> list[Block]:
    """The block of a samples or backlog payload. Raises _Unusable, or InvalidParameter where `device` is missing."""
    if query.device is None:
        raise InvalidParameter("device", "is needed with format=bridge")
    limits = Limits(
        max_message_bytes=bounds.max_message_bytes,
        max_decompressed_bytes=bounds.max_message_bytes,
        max_future_ms=bounds.max_future_ms,
        max_age_ms=bounds.max_age_ms,
    )
    topic = Topic(query.site, query.device, Kind.SAMPLES)
    found = decode(Message(str(topic), data), limits, time.time_ns() // 1_000_000)
    refused = [found] if isinstance(found, Rejection) else [it.rejection for it in found if it.rejection is not None]
    if refused:
        raise _Unusable([rejection.detail for rejection in refused])
    return [] if isinstance(found, Rejection) else found


def _refused(problems: list[str]) -> Response:
    errors = [FieldError(field="body", message=each) for each in problems]
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"nothing was stored: {'; '.join(problems)}", errors=errors)


def _answer(request: Request, outcome: Outcome) -> Response:
    committed = [each for settlement in outcome.settlements for each in settlement.ranges]
    content = Written(
        stored=outcome.stored_ticks,
        duplicate=outcome.duplicate_ticks,
        samples=outcome.stored_samples,
        committed=committed,
    )
    return json_answer(request, content.model_dump())
