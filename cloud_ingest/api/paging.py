"""Keyset pagination: a page ends with a cursor that says behind what the next one begins.

A cursor holds the key of the last item, so that items that appear or vanish meanwhile shift nothing.
"""

import base64
from typing import Annotated, Any

import msgspec
from pydantic import Field

from cloud_ingest.api.problems import InvalidParameter

Cursor = Annotated[
    str | None, Field(max_length=8_192, description="`next` of the page before; leave it out for the first page.")
]


def encode_cursor(*key: str) -> str:
    """The cursor behind the item with this key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def decode_cursor(cursor: str, length: int) -> tuple[str, ...]:
    """The key, which has `length` parts. Raises InvalidParameter."""
    try:
        data: Any = msgspec.json.decode(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
    except (ValueError, msgspec.DecodeError):
        data = None
    usable = isinstance(data, list) and len(data) == length and all(_is_text(part) for part in data)
    if not usable:
        raise InvalidParameter("cursor", "must be the `next` of an earlier answer")
    return tuple(data)


def _is_text(part: object) -> bool:
    return isinstance(part, str) and "\x00" not in part
