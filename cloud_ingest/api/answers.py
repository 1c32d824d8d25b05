"""Answers, compressed where the client can read that."""

import gzip
from typing import Any, Final

import msgspec
from fastapi import Request, Response

_COMPRESS_ABOVE_BYTES: Final = 1_024
_GZIP_LEVEL: Final = 4  # a history shrinks to a tenth with it; higher levels take twice the time for little more


def json_answer(request: Request, content: Any) -> Response:
    """`content` as JSON; NaN becomes null.

    Made here and not by a middleware, so that encoding and compressing happen in the request's own thread and don't
    hold up the event loop.
    """
    return answer(request, msgspec.json.encode(content), "application/json")


def answer(request: Request, body: bytes, media_type: str) -> Response:
    """The body, of this type."""
    headers = {"Vary": "Accept, Accept-Encoding", "Cache-Control": "no-store"}
    if len(body) > _COMPRESS_ABOVE_BYTES and accepts_gzip(request.headers.get("accept-encoding", "")):
        body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, headers=headers, media_type=media_type)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header (RFC 9110, section 12.5.3) lists gzip and does not refuse it."""
    for part in accept_encoding.lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
