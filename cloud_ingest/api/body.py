"""The body of a request, read with a limit and without its content coding."""

import zlib
from http import HTTPStatus
from typing import Any, Final

from fastapi import HTTPException, Request

from telemetry_contract.compression import Compression, decompress, detect
from telemetry_contract.errors import PayloadError, PayloadTooLarge

CODINGS: Final = ("gzip", "zstd", "identity")

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS  # zlib's manual: 16 more than the window means a gzip header


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body as it came. Raises HTTPException (413) as soon as there is more of it than allowed."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(data)


def decoded_body(data: bytes, coding: str | None, max_bytes: int) -> bytes:
    """`data` without the coding that Content-Encoding names.

    Raises HTTPException: 413 where it has more than `max_bytes` then, 415 for a coding that is not known, 422 where it
    is damaged.
    """
    match (coding or "identity").strip().lower():
        case "identity":
            return data
        case "gzip":
            return _gunzip(data, max_bytes)
        case "zstd":
            return _unzstd(data, max_bytes)
        case _:
            raise HTTPException(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"Content-Encoding is not one of {', '.join(CODINGS)}",
                {"Accept-Encoding": ", ".join(CODINGS[:-1])},
            )


def _gunzip(data: bytes, max_bytes: int) -> bytes:
    decompressor: Any = zlib.decompressobj(_GZIP_WINDOW)
    try:
        plain = bytes(decompressor.decompress(data, max_bytes + 1))
    except zlib.error as exc:
        raise _damaged(str(exc)) from exc
    if len(plain) > max_bytes:
        raise _too_large(max_bytes)
    if not decompressor.eof or decompressor.unused_data:
        raise _damaged("it ends early, or is followed by other data")
    return plain


def _unzstd(data: bytes, max_bytes: int) -> bytes:
    if detect(data) is not Compression.ZSTD:
        raise _damaged("it is not zstd")
    try:
        return decompress(data, max_bytes=max_bytes)
    except PayloadTooLarge as exc:
        raise _too_large(max_bytes) from exc
    except PayloadError as exc:
        raise _damaged(str(exc)) from exc


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {max_bytes} bytes")


def _damaged(why: str) -> HTTPException:
    return HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, f"the body can't be decompressed: {why}")
