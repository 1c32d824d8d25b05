"""Errors as `application/problem+json` (RFC 9457), each naming the parameter at fault where there is one."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from cloud_ingest.errors import Conflict, Outdated, StoreError

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 2
_ITS_SUBJECT: Final = re.compile(r"^(Input|String|List|Value) should ")  # how pydantic begins a message


class FieldError(BaseModel):
    """One parameter that can't be used."""

    field: str = Field(description="The name of the parameter.")
    message: str = Field(description="What would be right.")


class Problem(BaseModel):
    """What went wrong with a request."""

    type: str = Field(description="about:blank: the status says what kind of problem it is.")
    title: str
    status: int
    detail: str = Field(description="One sentence for a person.")
    errors: list[FieldError] = Field(default=[], description="The parameters at fault.")


class InvalidParameter(Exception):
    """A parameter can't be used; answered with 422."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer that describes the problem."""
    content = Problem(type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail)
    content.errors = list(errors)
    return Response(
        msgspec.json.encode(content.model_dump(exclude_defaults=True)), status, dict(headers or {}), MEDIA_TYPE
    )


def install(app: FastAPI) -> None:
    """Lets the app answer every error this way, those of the framework too."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(InvalidParameter, _parameter)
    app.add_exception_handler(StoreError, _store)
    app.add_exception_handler(Conflict, _conflict)
    app.add_exception_handler(Exception, _bug)


def _http(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101 - registered for it
    return problem(exc.status_code, exc.detail, headers=exc.headers)


def _validation(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 - registered for it
    return _invalid([_field_error(error) for error in exc.errors()])


def _parameter(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, InvalidParameter)  # noqa: S101 - registered for it
    return _invalid([FieldError(field=exc.field, message=exc.message)])


def _store(_: Request, exc: Exception) -> Response:
    """503 for all that may pass: the database is away, or is about to be migrated."""
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(exc), headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def _conflict(_: Request, exc: Exception) -> Response:
    outdated = isinstance(exc, Outdated)
    return problem(HTTPStatus.PRECONDITION_FAILED if outdated else HTTPStatus.CONFLICT, str(exc))


def _bug(_: Request, __: Exception) -> Response:
    """A defect of this program; the server logs its traceback, the answer says nothing of it."""
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of this program; its log says more")


def _invalid(errors: list[FieldError]) -> Response:
    detail = "; ".join(f"{error.field} {error.message}" for error in errors)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)


def _field_error(error: Mapping[str, Any]) -> FieldError:
    source, *location = (str(part) for part in error["loc"])  # where it is from, as in "query"
    in_body = source == "body"
    field = (".".join(location) if in_body else location[0]) if location else source
    if error["type"] == "extra_forbidden":
        return FieldError(field=field, message="is not known here" if in_body else "is not a parameter of this address")
    if error["type"] == "json_invalid":
        return FieldError(field="body", message="must be JSON")
    if error["type"] == "missing":
        return FieldError(field=field, message="is missing")
    message = _ITS_SUBJECT.sub("must ", error["msg"].removeprefix("Value error, "))
    return FieldError(field=field, message=message)


def schemas() -> dict[str, Any]:
    """The schemas of a problem, for the API's description."""
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "Problem": schema}


# What any address may answer beside what it is for.
_EVERYWHERE: Final = {
    HTTPStatus.FORBIDDEN: "The `Host` header names another machine, and the API listens on loopback.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Parameters can't be used; `errors` names them.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The database can't answer now; `Retry-After` says when to try again.",
}


def describe(operation: dict[str, Any]) -> None:
    """Puts problems into an operation of the API's description: what it says of its own and what any may answer."""
    responses = operation["responses"]
    responses.setdefault("400", {"description": "The request can't be read: it is too long, or its body no text."})
    for status, description in _EVERYWHERE.items():
        own = responses.get(str(status.value), {}).get("description", "Validation Error")  # FastAPI's, of its own shape
        responses[str(status.value)] = {"description": description if own == "Validation Error" else own}
    for status, response in responses.items():
        if int(status) >= HTTPStatus.BAD_REQUEST:
            response["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    # What is no HTTP to the server never reaches the application
    responses["400"]["content"]["text/plain"] = {"schema": {"type": "string"}}
