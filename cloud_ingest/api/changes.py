"""What requests that change something have in common: versions as ETags, and patches.

A change may say which version it was made from (`If-Match`, RFC 9110, section 13.1.1) and is refused where somebody was
faster. Bodies must be declared as JSON: a form of a foreign website can't be, so that none can change anything through
somebody's browser.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import Depends, Header
from pydantic import ValidationError

from cloud_ingest.api.problems import InvalidParameter

_ETAG = re.compile(r'"(\d{1,9})"')

# What the addresses say of their answers.
NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {HTTPStatus.NOT_FOUND: {"description": "There is no such thing."}}
REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.CONFLICT: {
        "description": "It contradicts what is there: a name taken, a place that is missing or in use."
    },
    HTTPStatus.PRECONDITION_FAILED: {"description": "It was changed meanwhile: `If-Match` names another version."},
}


def etag(version: int) -> dict[str, str]:
    """The header that names a version."""
    return {"ETag": f'"{version}"'}


def _expected(
    if_match: Annotated[
        str | None, Header(alias="If-Match", description='The `ETag` of what the change was made from, as in `"3"`.')
    ] = None,
) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    match = _ETAG.fullmatch(if_match.strip())
    if match is None:
        raise InvalidParameter("If-Match", 'must be the ETag of an earlier answer, as in "3"')
    return int(match[1])


Expected = Annotated[int | None, Depends(_expected)]


def merged(present: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The present value with a JSON merge patch applied (RFC 7396): null takes a key away, sections are merged."""
    result = dict(present)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            below = result.get(key)
            result[key] = merged(below if isinstance(below, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def as_body(error: ValidationError) -> list[dict[str, Any]]:
    """The errors of a value that was made of a body, as those of a body."""
    return [{**it, "loc": ("body", *it["loc"])} for it in error.errors()]
