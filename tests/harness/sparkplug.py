"""Sparkplug B payloads written byte by byte, after the field numbers of the Eclipse Sparkplug 3.0 specification (6.4).

Protobuf's wire format: a key (field number and wire type) as a varint, then a varint (0), eight bytes (1), a length and
so many bytes (2), or four bytes (5).
"""

import struct
from dataclasses import dataclass

INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64, FLOAT, DOUBLE, BOOLEAN, STRING = range(1, 13)


@dataclass(frozen=True)
class Metric:
    """A metric to be sent; `value` None is sent as null."""

    name: str | None = None
    value: float | str | None = None
    datatype: int | None = None
    alias: int | None = None
    timestamp: int | None = None
    historical: bool = False
    transient: bool = False
    encode_as: int | None = None  # the data type that shapes the value, where the message leaves it out


def payload(*metrics: Metric, seq: int | None = None, timestamp: int | None = None) -> bytes:
    """The bytes of a message."""
    parts = [b"" if timestamp is None else _number(1, timestamp)]
    parts += [_bytes(2, _metric(each)) for each in metrics]
    parts.append(b"" if seq is None else _number(3, seq))
    return b"".join(parts)


def _metric(metric: Metric) -> bytes:
    parts = []
    if metric.name is not None:
        parts.append(_bytes(1, metric.name.encode()))
    for field, number in ((2, metric.alias), (3, metric.timestamp), (4, metric.datatype)):
        if number is not None:
            parts.append(_number(field, number))
    for field, flag in ((5, metric.historical), (6, metric.transient), (7, metric.value is None)):
        if flag:
            parts.append(_number(field, 1))
    parts.append(_value(metric))
    return b"".join(parts)


def _value(metric: Metric) -> bytes:
    value = metric.value
    datatype = metric.datatype if metric.encode_as is None else metric.encode_as
    if value is None:
        return b""
    if isinstance(value, str):
        return _bytes(15, value.encode())
    match datatype:
        case 9:
            return _key(12, 5) + struct.pack("<f", value)
        case 10:
            return _key(13, 1) + struct.pack("<d", value)
        case 11:
            encoded = _number(14, int(value))
        case 4 | 8:
            encoded = _number(11, int(value) % 2**64)
        case _:
            encoded = _number(10, int(value) % 2**32)
    return encoded


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, digit = divmod(value, 128)
        encoded.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(encoded)
