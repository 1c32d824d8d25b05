"""The packets of MQTT 5 that a subscriber sends and gets, as bytes: no socket, no state.

Numbers in brackets are sections of the standard: https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html.
Written here rather than taken from a library because this is the ingester's hot path and because of what its input may
be: see `docs/decisions/0007-own-mqtt-5-reader.md`.
"""

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from cloud_ingest.message import Message

MAX_PACKET_BYTES: Final = 5 + 268_435_455  # [1.5.5], a fixed header and the longest remaining length

PINGREQ: Final = b"\xc0\x00"

_FIRST_FAILURE: Final = 0x80  # reason codes from here on say that something failed [2.4]
_MAX_HEADER_BYTES: Final = 5
_QOS_BITS: Final = 0b0110
_QOS_1: Final = 0b0010

_UINT16: Final = struct.Struct(">H")
_UINT32: Final = struct.Struct(">I")


class Type(IntEnum):
    """What a packet is: the upper half of its first byte [2.1.2]."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


class Property(IntEnum):
    """The identifiers of the properties that are used here [2.2.2.2]."""

    CONTENT_TYPE = 0x03
    SERVER_KEEP_ALIVE = 0x13
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    USER_PROPERTY = 0x26
    MAXIMUM_PACKET_SIZE = 0x27


# The bytes that the value of a property of fixed size has.
_SIZES: Final = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
}
# Those whose value has a length before it: text and binary data.
_WITH_LENGTH: Final = frozenset((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F))
_SUBSCRIPTION_IDENTIFIER: Final = 0x0B  # the one whose value has the encoding of a length


class MalformedPacket(ValueError):
    """The bytes are not a packet that a broker may send. `reason` is the code that a DISCONNECT tells it [4.13]."""

    def __init__(self, what: str, reason: int = 0x81) -> None:
        super().__init__(what)
        self.reason = reason


class Answer(NamedTuple):
    """A CONNACK, SUBACK, UNSUBACK or DISCONNECT.

    `packet_id` is 0 where the packet has none. `codes` are as bytes, one for each of what was asked; `properties` holds
    the last value of each, as bytes.
    """

    packet_id: int
    codes: bytes
    properties: dict[int, bytes]

    @property
    def failed(self) -> bool:
        """Whether a code says so."""
        return any(code >= _FIRST_FAILURE for code in self.codes)

    def number(self, which: Property) -> int | None:
        """The value of a property that is a number; None where it was not given."""
        value = self.properties.get(which)
        return None if value is None else int.from_bytes(value, "big")

    def reason_string(self) -> str:
        """What the broker adds for a person, or ""."""
        return self.properties.get(Property.REASON_STRING, b"").decode(errors="replace")


def connect(
    client_id: str,
    *,
    username: str | None,
    password: str | None,
    keepalive_seconds: int,
    receive_maximum: int,
    max_packet_bytes: int,
) -> bytes:
    """A CONNECT with a clean start and a session that ends with the connection [3.1]."""
    flags = 0x02 | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    properties = (
        bytes([Property.RECEIVE_MAXIMUM])
        + _UINT16.pack(receive_maximum)
        + bytes([Property.MAXIMUM_PACKET_SIZE])
        + _UINT32.pack(max_packet_bytes)
    )
    parts = [_text("MQTT"), bytes([5, flags]), _UINT16.pack(keepalive_seconds), _length(len(properties)), properties]
    parts += [_text(each) for each in (client_id, username, password) if each is not None]
    return _packet(Type.CONNECT, 0, parts)


def subscribe(packet_id: int, filters: Sequence[str]) -> bytes:
    """A SUBSCRIBE that asks for QoS 1 [3.8]."""
    return _packet(Type.SUBSCRIBE, 2, [_UINT16.pack(packet_id), b"\x00", *(_text(each) + b"\x01" for each in filters)])


def unsubscribe(packet_id: int, filters: Sequence[str]) -> bytes:
    """An UNSUBSCRIBE [3.10]."""
    return _packet(Type.UNSUBSCRIBE, 2, [_UINT16.pack(packet_id), b"\x00", *map(_text, filters)])


def publish(topic: str, payload: bytes, content_type: str) -> bytes:
    """A PUBLISH with QoS 0 [3.3]."""
    properties = bytes([Property.CONTENT_TYPE]) + _text(content_type)
    return _packet(Type.PUBLISH, 0, [_text(topic), _length(len(properties)), properties, payload])


def pubacks(packet_ids: Iterable[int]) -> bytes:
    """A PUBACK of success for each [3.4]."""
    return b"".join([b"\x40\x02" + _UINT16.pack(packet_id) for packet_id in packet_ids])


def disconnect(reason: int = 0) -> bytes:
    """A DISCONNECT [3.14]."""
    return b"\xe0\x00" if reason == 0 else bytes([0xE0, 1, reason])


def body_of(data: memoryview, at: int) -> tuple[int, int] | None:
    """Where the body of the packet at `at` begins and ends; None while its length is not all there.

    The end may lie beyond `data`. Raises MalformedPacket.
    """
    length = _read_length(data, at + 1)
    if length is not None:
        return length[1], length[1] + length[0]
    if len(data) - at >= _MAX_HEADER_BYTES:
        raise MalformedPacket("a remaining length has more than four bytes")
    return None


def read_publish(flags: int, body: memoryview) -> tuple[Message, int]:
    """The message of a PUBLISH, and its packet identifier: 0 for QoS 0, which nobody acknowledges.

    Lenient about what a publisher wrote and its broker passed on (topic and properties), as far as it is clear where
    the payload begins: ending the connection for it would let one device stop all others. A topic that is not UTF-8
    becomes its `repr`, properties that can't be read none.

    Raises MalformedPacket.
    """
    qos = flags & _QOS_BITS
    at = 2
    try:
        at += _UINT16.unpack_from(body)[0]
        topic = body[2:at]
        packet_id = 0
        if qos == _QOS_1:
            packet_id = _UINT16.unpack_from(body, at)[0]
            at += 2
    except struct.error:
        raise MalformedPacket("a PUBLISH ends within its topic or packet identifier") from None
    if qos > _QOS_1 or (packet_id == 0 and qos == _QOS_1):
        raise MalformedPacket("a PUBLISH has a quality of service or an identifier that it must not have", 0x82)
    length = _read_length(body, at)
    if length is None or length[1] + length[0] > len(body):
        raise MalformedPacket("a PUBLISH ends within its properties")
    start = length[1] + length[0]
    try:
        name = str(topic, "utf-8")
    except UnicodeDecodeError:
        name = repr(bytes(topic))
    content_type = _content_type(bytes(body[length[1] : start])) if length[0] else None
    return Message(name, bytes(body[start:]), content_type), packet_id


def read_answer(kind: Type, body: memoryview) -> Answer:
    """The content of a CONNACK, SUBACK, UNSUBACK or DISCONNECT [3.2, 3.9, 3.11, 3.14].

    A CONNACK without properties is accepted: a broker that only speaks an older version refuses in that. Raises
    MalformedPacket.
    """
    try:
        match kind:
            case Type.SUBACK | Type.UNSUBACK:
                properties, at = _properties_at(body, 2)
                return Answer(_UINT16.unpack_from(body)[0], bytes(body[at:]), properties)
            case Type.CONNACK:
                return Answer(0, bytes([body[1]]), _properties_at(body, 2)[0] if len(body) > 2 else {})  # noqa: PLR2004
            case Type.DISCONNECT:
                code = body[0] if len(body) else 0
                return Answer(0, bytes([code]), _properties_at(body, 1)[0] if len(body) > 1 else {})
            case _:
                raise MalformedPacket(f"a {kind.name} is no answer", 0x82)
    except (struct.error, IndexError):
        raise MalformedPacket(f"a {kind.name} ends too early") from None


def reason_text(kind: Type, code: int, reason_string: str = "") -> str:
    """A reason code in words [2.4]."""
    try:
        name = ReasonCode(getattr(PacketTypes, kind.name), identifier=code).getName()
    except (KeyError, ValueError):  # codes of other packets, or of nothing
        name = "unknown reason"
    return f"{name} (0x{code:02x})" + (f": {reason_string:.200}" if reason_string else "")


@lru_cache(maxsize=1_024)
def _content_type(properties: bytes) -> str | None:
    """Cached: thousands of messages a second have the same few properties."""
    try:
        value = _read_properties(memoryview(properties)).get(Property.CONTENT_TYPE)
    except MalformedPacket:
        return None
    return None if value is None else value.decode(errors="replace")


def _properties_at(body: memoryview, at: int) -> tuple[dict[int, bytes], int]:
    """The properties that begin with their length at `at`, and where they end."""
    length = _read_length(body, at)
    if length is None or length[1] + length[0] > len(body):
        raise MalformedPacket("a packet ends within its properties")
    end = length[1] + length[0]
    return _read_properties(body[length[1] : end]), end


def _read_properties(data: memoryview) -> dict[int, bytes]:
    properties: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        identifier = data[at]
        start = at + 1
        at = _end_of_value(identifier, data, start)
        if at > len(data):
            raise MalformedPacket(f"property 0x{identifier:02x} ends too early")
        if identifier in _WITH_LENGTH:
            start += 2
        properties[identifier] = bytes(data[start:at])
    return properties


def _end_of_value(identifier: int, data: memoryview, start: int) -> int:
    if identifier in _SIZES:
        return start + _SIZES[identifier]
    if identifier in _WITH_LENGTH:
        return _end_of_text(data, start)
    if identifier == Property.USER_PROPERTY:
        return _end_of_text(data, _end_of_text(data, start))
    if identifier == _SUBSCRIPTION_IDENTIFIER and (length := _read_length(data, start)) is not None:
        return length[1]
    raise MalformedPacket(f"property 0x{identifier:02x} is not known")


def _end_of_text(data: memoryview, start: int) -> int:
    if start + 2 > len(data):
        raise MalformedPacket("a property ends too early")
    return start + 2 + int(_UINT16.unpack_from(data, start)[0])


def _read_length(data: memoryview, at: int) -> tuple[int, int] | None:
    """A variable byte integer [1.5.5] and where it ends; None where it ends beyond `data` or has over four bytes."""
    value = shift = 0
    for position in range(at, min(at + 4, len(data))):
        digit = data[position]
        value |= (digit & 0x7F) << shift
        if digit < 0x80:  # noqa: PLR2004 - the bit that says that more follow
            return value, position + 1
        shift += 7
    return None


def _packet(kind: Type, flags: int, parts: Sequence[bytes]) -> bytes:
    body = b"".join(parts)
    return bytes([kind << 4 | flags]) + _length(len(body)) + body


def _length(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, digit = divmod(value, 128)
        encoded.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _UINT16.pack(len(encoded)) + encoded
