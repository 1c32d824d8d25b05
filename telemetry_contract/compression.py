"""Compression of payloads: zstd where there is a package for it, else zlib; recognised by magic bytes.

The magic numbers are those of RFC 8878 (section 3.1.1) and RFC 1950 (section 2.2: deflate with a window of 32 KiB).
JSON never begins with either.
"""

import zlib
from enum import StrEnum
from typing import Any

from telemetry_contract.errors import MalformedPayload, PayloadTooLarge

try:
    from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # Python >= 3.14
except ModuleNotFoundError:
    try:
        from backports import zstd
    except ModuleNotFoundError:
        zstd = None

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZLIB_MAGIC = 0x78


class Compression(StrEnum):
    """How a payload is compressed; the suffix of its MQTT 5 content type."""

    NONE = ""
    ZLIB = "zlib"
    ZSTD = "zstd"


def best_available() -> Compression:
    """The best compression that this installation has."""
    return Compression.ZSTD if zstd is not None else Compression.ZLIB


def detect(payload: bytes) -> Compression:
    """The compression that the payload's first bytes announce."""
    if payload[:4] == _ZSTD_MAGIC:
        return Compression.ZSTD
    if payload[:1] == bytes([_ZLIB_MAGIC]):
        return Compression.ZLIB
    return Compression.NONE


def compress(data: bytes, compression: Compression) -> bytes:
    """`data`, compressed."""
    match compression:
        case Compression.ZSTD:
            return bytes(zstd.compress(data, level=3))
        case Compression.ZLIB:
            return zlib.compress(data, level=6)
        case Compression.NONE:
            return data


def decompress(payload: bytes, *, max_bytes: int) -> bytes:
    """The payload without its compression, if it has one.

    Never holds more than `max_bytes` + 1 of it. Raises PayloadTooLarge beyond that, MalformedPayload where the data
    is damaged, ends early or is followed by more, or is zstd and this installation can't read that.
    """
    match detect(payload):
        case Compression.NONE:
            data = payload
        case Compression.ZLIB:
            data = _inflate(zlib.decompressobj(), payload, max_bytes, zlib.error)
        case Compression.ZSTD:
            if zstd is None:
                raise MalformedPayload("payload is zstd-compressed; install backports.zstd to read it")
            data = _inflate(zstd.ZstdDecompressor(), payload, max_bytes, zstd.ZstdError)
    if len(data) > max_bytes:
        raise PayloadTooLarge(f"payload is larger than {max_bytes} bytes")
    return data


def _inflate(decompressor: Any, payload: bytes, max_bytes: int, failure: type[Exception]) -> bytes:
    try:
        data = bytes(decompressor.decompress(payload, max_bytes + 1))
    except failure as exc:
        raise MalformedPayload(f"payload can't be decompressed: {exc}") from exc
    if len(data) > max_bytes:
        return data
    if not decompressor.eof:
        raise MalformedPayload("compressed payload ends early")
    if decompressor.unused_data:
        raise MalformedPayload("compressed payload is followed by other data")
    return data
