"""/api/v1/thresholds: what is worth telling somebody."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.changes import NOT_FOUND, REFUSED, Expected, as_body, etag, merged
from cloud_ingest.api.paging import Cursor, decode_cursor, encode_cursor
from cloud_ingest.api.parameters import Parameters, once_each
from cloud_ingest.api.problems import problem
from cloud_ingest.api.times import format_time
from cloud_ingest.store.pool import ReadPool
from cloud_ingest.store.thresholds import (
    ThresholdRow,
    change_threshold,
    create_threshold,
    delete_threshold,
    get_threshold,
    list_thresholds,
    lock,
)

_MAX_ID: Final = 2**31 - 1


class Threshold(Definition):
    """A threshold as it is now."""

    id: int
    version: int
    created_at: datetime
    updated_at: datetime


class ThresholdPage(BaseModel):
    """Thresholds by name."""

    items: list[Threshold]
    next: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class ThresholdQuery(Parameters):
    """The parameters of /api/v1/thresholds."""

    limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    cursor: Cursor = None


Number = Annotated[int, Path(ge=1, le=_MAX_ID)]


def router(pool: ReadPool) -> APIRouter:
    """The addresses, reading and writing through `pool`."""
    routes = APIRouter(prefix="/api/v1/thresholds", tags=["thresholds"], dependencies=[Depends(once_each)])

    @routes.get("", response_model=ThresholdPage)
    def thresholds(request: Request, query: Annotated[ThresholdQuery, Query()]) -> Response:
        """All thresholds, by name."""
        after = None if query.cursor is None else decode_cursor(query.cursor, 1)[0]
        with pool.connection() as connection:
            rows = list_thresholds(connection, after=after, limit=query.limit + 1)
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        next_ = encode_cursor(rows[-1].definition.name) if more else None
        return json_answer(request, {"items": [_item(row) for row in rows], "next": next_})

    @routes.post("", response_model=Threshold, status_code=HTTPStatus.CREATED, responses=REFUSED)
    def create(request: Request, definition: Definition) -> Response:
        """Make a threshold. It judges the samples that are measured from now on."""
        with pool.writing() as connection:
            row = create_threshold(connection, definition)
        response = _answer(request, row)
        response.status_code = HTTPStatus.CREATED
        response.headers["Location"] = f"/api/v1/thresholds/{row.threshold_id}"
        return response

    @routes.get("/{id}", response_model=Threshold, responses=NOT_FOUND)
    def threshold(request: Request, number: Annotated[Number, Path(alias="id")]) -> Response:
        """One threshold."""
        with pool.connection() as connection:
            row = get_threshold(connection, number)
        return _missing(number) if row is None else _answer(request, row)

    @routes.put("/{id}", response_model=Threshold, responses=NOT_FOUND | REFUSED)
    def replace(
        request: Request, number: Annotated[Number, Path(alias="id")], definition: Definition, expected: Expected
    ) -> Response:
        """Put a definition in place of the present one: a new version, which judges from now on."""
        with pool.writing() as connection:
            row = change_threshold(connection, number, definition, expected=expected)
        return _missing(number) if row is None else _answer(request, row)

    @routes.patch("/{id}", response_model=Threshold, responses=NOT_FOUND | REFUSED)
    def patch(
        request: Request,
        number: Annotated[Number, Path(alias="id")],
        changes: Annotated[dict[str, Any], Body(description="A JSON merge patch (RFC 7396) of the definition.")],
        expected: Expected,
    ) -> Response:
        """Change a part of a definition: a new version, which judges from now on."""
        with pool.writing() as connection:
            lock(connection)  # so that nobody changes what the patch is merged into
            present = get_threshold(connection, number)
            if present is None:
                return _missing(number)
            try:
                definition = Definition.model_validate(merged(present.definition.model_dump(mode="json"), changes))
            except ValidationError as exc:
                raise RequestValidationError(as_body(exc)) from exc
            row = change_threshold(connection, number, definition, expected=expected)
        return _missing(number) if row is None else _answer(request, row)

    @routes.delete("/{id}", status_code=HTTPStatus.NO_CONTENT, responses=NOT_FOUND | REFUSED)
    def delete(number: Annotated[Number, Path(alias="id")], expected: Expected) -> Response:
        """Delete a threshold. What it judged stays in the history."""
        with pool.writing() as connection:
            deleted = delete_threshold(connection, number, expected=expected)
        return Response(status_code=HTTPStatus.NO_CONTENT) if deleted else _missing(number)

    return routes


def _missing(number: int) -> Response:
    return problem(HTTPStatus.NOT_FOUND, f"there is no threshold {number}")


def _answer(request: Request, row: ThresholdRow) -> Response:
    response = json_answer(request, _item(row))
    response.headers.update(etag(row.version))
    return response


def _item(row: ThresholdRow) -> dict[str, object]:
    return {
        "id": row.threshold_id,
        "version": row.version,
        **row.definition.model_dump(mode="json"),
        "created_at": format_time(row.created_at),
        "updated_at": format_time(row.updated_at),
    }
