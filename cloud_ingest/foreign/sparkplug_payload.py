"""Sparkplug B payloads: protobuf bytes <-> what of them matters here.

Field numbers and data types after the Eclipse Sparkplug 3.0 specification, section 6.4 ("Sparkplug B Payload"). What is
not described here (data sets, templates, properties, metadata) protobuf skips.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_Field = descriptor_pb2.FieldDescriptorProto


class MalformedSparkplug(ValueError):
    """The bytes are no Sparkplug B payload."""


class DataType(IntEnum):
    """The data types whose values are samples."""

    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    UINT8 = 5
    UINT16 = 6
    UINT32 = 7
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    BOOLEAN = 11


_SIGNED_BITS: Final = {DataType.INT8: 8, DataType.INT16: 16, DataType.INT32: 32, DataType.INT64: 64}
_SAMPLES: Final = frozenset(DataType)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as it was sent. `raw` is the number in its protobuf form, None where it is null or text."""

    name: str | None
    alias: int | None
    timestamp_ms: int | None
    datatype: int | None
    is_historical: bool
    is_transient: bool
    is_text: bool
    raw: float | None


@dataclass(frozen=True, slots=True)
class Payload:
    """A message as it was sent."""

    timestamp_ms: int | None
    seq: int | None
    metrics: list[Metric]


def decode_payload(data: bytes) -> Payload:
    """The payload that the bytes are. Raises MalformedSparkplug."""
    message = _payload_class()
    try:
        message.ParseFromString(data)
    except DecodeError as exc:
        raise MalformedSparkplug(f"not a Sparkplug B payload: {exc}") from exc
    return Payload(_given(message, "timestamp"), _given(message, "seq"), [_metric(each) for each in message.metrics])


def rebirth_command(now_ms: int) -> bytes:
    """The payload of an NCMD that asks a node for its births (specification, section 5.9.1)."""
    message = _payload_class()
    message.timestamp = now_ms
    message.metrics.add(name="Node Control/Rebirth", datatype=DataType.BOOLEAN.value, boolean_value=True)
    return bytes(message.SerializeToString())


def sample_of(raw: float, datatype: int) -> float | None:
    """The value of a number of this data type; None where the type is of no samples.

    Signed integers travel as unsigned ones in two's complement, of their own width or of a wider one.
    """
    if datatype not in _SAMPLES:
        return None
    bits = _SIGNED_BITS.get(DataType(datatype))
    if bits is not None and isinstance(raw, int):
        raw &= (1 << bits) - 1
        return float(raw - (1 << bits) if raw >> (bits - 1) else raw)
    return float(raw)


def _metric(message: Any) -> Metric:
    kind = message.WhichOneof("value")
    is_text = kind == "string_value" and not message.is_null
    null = message.is_null or is_text or kind is None
    return Metric(
        name=_given(message, "name"),
        alias=_given(message, "alias"),
        timestamp_ms=_given(message, "timestamp"),
        datatype=_given(message, "datatype"),
        is_historical=message.is_historical,
        is_transient=message.is_transient,
        is_text=is_text,
        raw=None if null else getattr(message, kind),
    )


def _given(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _described() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b.proto", package="telemetry.sparkplug", syntax="proto2")
    metric = file.message_type.add(name="Metric")
    for name, number, type_ in (
        ("name", 1, _Field.TYPE_STRING),
        ("alias", 2, _Field.TYPE_UINT64),
        ("timestamp", 3, _Field.TYPE_UINT64),
        ("datatype", 4, _Field.TYPE_UINT32),
        ("is_historical", 5, _Field.TYPE_BOOL),
        ("is_transient", 6, _Field.TYPE_BOOL),
        ("is_null", 7, _Field.TYPE_BOOL),
    ):
        metric.field.add(name=name, number=number, type=type_, label=_Field.LABEL_OPTIONAL)
    metric.oneof_decl.add(name="value")
    for name, number, type_ in (
        ("int_value", 10, _Field.TYPE_UINT32),
        ("long_value", 11, _Field.TYPE_UINT64),
        ("float_value", 12, _Field.TYPE_FLOAT),
        ("double_value", 13, _Field.TYPE_DOUBLE),
        ("boolean_value", 14, _Field.TYPE_BOOL),
        ("string_value", 15, _Field.TYPE_BYTES),  # as bytes: what it says does not matter
    ):
        metric.field.add(name=name, number=number, type=type_, label=_Field.LABEL_OPTIONAL, oneof_index=0)
    payload = file.message_type.add(name="Payload")
    payload.field.add(name="timestamp", number=1, type=_Field.TYPE_UINT64, label=_Field.LABEL_OPTIONAL)
    payload.field.add(
        name="metrics",
        number=2,
        type=_Field.TYPE_MESSAGE,
        type_name=".telemetry.sparkplug.Metric",
        label=_Field.LABEL_REPEATED,
    )
    payload.field.add(name="seq", number=3, type=_Field.TYPE_UINT64, label=_Field.LABEL_OPTIONAL)
    return file


def _make_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_described())  # type: ignore[no-untyped-call,unused-ignore]
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("telemetry.sparkplug.Payload"))


_payload_class: Final = _make_class()
