"""/api/v1/silences: for how long nobody is told of which alerts."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from cloud_ingest.alerts.definition import Text
from cloud_ingest.alerts.silence import Scope
from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.changes import NOT_FOUND
from cloud_ingest.api.paging import Cursor, decode_cursor, encode_cursor
from cloud_ingest.api.parameters import Parameters, once_each
from cloud_ingest.api.problems import InvalidParameter, problem
from cloud_ingest.api.times import MAX_AHEAD, format_time
from cloud_ingest.store.pool import ReadPool
from cloud_ingest.store.silences import SilenceRow, create_silence, end_silence, get_silence, list_silences

_MAX_ID: Final = 2**63 - 1
_MAX_AGO: Final = timedelta(days=1)


class NewSilence(BaseModel):
    """A silence to be made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scope: Scope
    starts_at: AwareDatetime | None = Field(default=None, description="Default: now.")
    ends_at: AwareDatetime
    by: Annotated[Text, Field(min_length=1, max_length=200, examples=["kim"])]
    note: Annotated[Text, Field(max_length=1_000)] | None = None


class Silence(BaseModel):
    """From `starts_at` to `ends_at` nobody is told of the alerts in its scope; they are recorded all the same."""

    id: int
    scope: Scope
    starts_at: datetime
    ends_at: datetime
    by: str
    note: str | None
    created_at: datetime
    over: bool


class SilencePage(BaseModel):
    """Silences, the newest first."""

    items: list[Silence]
    next: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class Which(StrEnum):
    """Which silences are listed."""

    LASTING = "lasting"
    ALL = "all"


class SilenceQuery(Parameters):
    """The parameters of /api/v1/silences."""

    state: Annotated[Which, Field(description="lasting: those that are not over, also those to come.")] = Which.LASTING
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    cursor: Cursor = None


Number = Annotated[int, Path(ge=1, le=_MAX_ID)]


def router(pool: ReadPool) -> APIRouter:
    """The addresses, reading and writing through `pool`."""
    routes = APIRouter(prefix="/api/v1/silences", tags=["alerts"], dependencies=[Depends(once_each)])

    @routes.get("", response_model=SilencePage)
    def silences(request: Request, query: Annotated[SilenceQuery, Query()]) -> Response:
        """The silences, the newest first."""
        before = None if query.cursor is None else _number(decode_cursor(query.cursor, 1)[0])
        with pool.connection() as connection:
            rows = list_silences(connection, over=query.state is Which.ALL, before=before, limit=query.limit + 1)
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        next_ = encode_cursor(str(rows[-1].silence_id)) if more else None
        return json_answer(request, {"items": [_item(row) for row in rows], "next": next_})

    @routes.post("", response_model=Silence, status_code=HTTPStatus.CREATED)
    def create(request: Request, new: NewSilence) -> Response:
        """Let nobody be told of some alerts until a time."""
        _check(new, datetime.now(UTC))
        with pool.writing() as connection:
            row = create_silence(
                connection, new.scope, starts_at=new.starts_at, ends_at=new.ends_at, by=new.by, note=new.note
            )
        response = json_answer(request, _item(row))
        response.status_code = HTTPStatus.CREATED
        response.headers["Location"] = f"/api/v1/silences/{row.silence_id}"
        return response

    @routes.get("/{id}", response_model=Silence, responses=NOT_FOUND)
    def silence(request: Request, number: Annotated[Number, Path(alias="id")]) -> Response:
        """One silence."""
        with pool.connection() as connection:
            row = get_silence(connection, number)
        return _missing(number) if row is None else json_answer(request, _item(row))

    @routes.delete("/{id}", status_code=HTTPStatus.NO_CONTENT, responses=NOT_FOUND)
    def end(number: Annotated[Number, Path(alias="id")]) -> Response:
        """End a silence now. It stays on record."""
        with pool.writing() as connection:
            found = end_silence(connection, number)
        return Response(status_code=HTTPStatus.NO_CONTENT) if found else _missing(number)

    return routes


def _check(new: NewSilence, now: datetime) -> None:
    if not now < new.ends_at <= now + MAX_AHEAD:
        raise InvalidParameter("ends_at", f"must lie ahead, by at most {MAX_AHEAD.days} days")
    if new.starts_at is not None and not now - _MAX_AGO <= new.starts_at < new.ends_at:
        raise InvalidParameter("starts_at", "must lie before ends_at, and at most a day ago")


def _number(text: str) -> int:
    """The number in a cursor. Raises InvalidParameter."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_ID))):
        raise InvalidParameter("cursor", "must be the `next` of an earlier answer")
    return min(int(text), _MAX_ID)


def _missing(number: int) -> Response:
    return problem(HTTPStatus.NOT_FOUND, f"there is no silence {number}")


def _item(row: SilenceRow) -> dict[str, Any]:
    return {
        "id": row.silence_id,
        "scope": row.scope.model_dump(mode="json"),
        "starts_at": format_time(row.starts_at),
        "ends_at": format_time(row.ends_at),
        "by": row.created_by,
        "note": row.note,
        "created_at": format_time(row.created_at),
        "over": not row.lasts,
    }
