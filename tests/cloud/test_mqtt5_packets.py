"""The bytes of MQTT 5: what is written is what paho reads, and what is read may be anything."""

from contextlib import suppress

import pytest
from harness.scripted_broker import publish
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cloud_ingest.ingest import mqtt5
from cloud_ingest.ingest.mqtt5 import MalformedPacket, Property, Type

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)


def body(data: bytes) -> memoryview:
    view = memoryview(data)
    bounds = mqtt5.body_of(view, 0)
    assert bounds is not None
    assert bounds[1] == len(data)
    return view[slice(*bounds)]


def paho_properties(**values: object) -> bytes:
    """The properties of a PUBLISH as another implementation writes them, without their length."""
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in values.items():
        setattr(properties, name, value)
    packed: bytes = properties.pack()
    length_bytes = next(at for at, byte in enumerate(packed) if byte < 0x80) + 1
    return packed[length_bytes:]


@given(topic=texts, payload=st.binary(max_size=300), packet_id=st.integers(1, 65_535), content_type=st.none() | texts)
def test_publish_is_read_as_it_was_written(
    topic: str, payload: bytes, packet_id: int, content_type: str | None
) -> None:
    properties = b"" if content_type is None else paho_properties(ContentType=content_type)
    message, found = mqtt5.read_publish(2, body(publish(topic.encode(), payload, packet_id, properties)))
    assert (message.topic, message.payload, message.content_type, found) == (topic, payload, content_type, packet_id)


@given(
    content_type=texts,
    numbers=st.lists(st.integers(1, 268_435_455), max_size=3),
    pairs=st.lists(st.tuples(texts, texts), max_size=3),
)
def test_content_type_is_found_among_all_properties_that_a_publish_may_have(
    content_type: str, numbers: list[int], pairs: list[tuple[str, str]]
) -> None:
    several = {name: them for name, them in (("SubscriptionIdentifier", numbers), ("UserProperty", pairs)) if them}
    properties = paho_properties(
        PayloadFormatIndicator=1,
        MessageExpiryInterval=70_000,
        ContentType=content_type,
        ResponseTopic="answers",
        CorrelationData=b"\x00\xff",
        TopicAlias=9,
        **several,
    )
    message, packet_id = mqtt5.read_publish(2, body(publish(b"topic", b"payload", 1, properties)))
    assert (message.content_type, message.payload, packet_id) == (content_type, b"payload", 1)


@given(st.binary(max_size=60), st.sampled_from([0, 2]))
def test_any_bytes_are_a_message_or_malformed(data: bytes, flags: int) -> None:
    with suppress(MalformedPacket):
        mqtt5.read_publish(flags, memoryview(data))


@given(st.binary(max_size=60), st.sampled_from([Type.CONNACK, Type.SUBACK, Type.UNSUBACK, Type.DISCONNECT]))
def test_any_bytes_are_an_answer_or_malformed(data: bytes, kind: Type) -> None:
    with suppress(MalformedPacket):
        answer = mqtt5.read_answer(kind, memoryview(data))
        mqtt5.reason_text(kind, answer.codes[0] if answer.codes else 0, answer.reason_string())
        answer.number(Property.SERVER_KEEP_ALIVE)


@pytest.mark.parametrize(
    "properties",
    [b"\x03\x00\x09text", b"\x7f\x00", b"\x03\x00", b"\x26\x00\x01a\x00\x05b", b"\x0b\xff\xff\xff\xff"],
    ids=["text cut short", "unknown", "length cut short", "pair cut short", "endless number"],
)
def test_properties_that_cannot_be_read_cost_the_content_type_alone(properties: bytes) -> None:
    message, packet_id = mqtt5.read_publish(2, body(publish(b"t", b"payload", 5, properties)))
    assert (message.payload, message.content_type, packet_id) == (b"payload", None, 5)


@pytest.mark.parametrize(
    ("flags", "content"),
    [
        (2, b""),
        (2, b"\x00"),
        (2, b"\x00\x02t"),
        (2, b"\x00\x01t\x00"),
        (2, b"\x00\x01t\x00\x01"),
        (2, b"\x00\x01t\x00\x01\x05abc"),
        (2, b"\x00\x01t\x00\x01\xff\xff\xff\xff\x01"),
        (2, b"\x00\x01t\x00\x00\x00"),
        (4, b"\x00\x01t\x00\x01\x00"),
        (6, b"\x00\x01t\x00\x01\x00"),
    ],
)
def test_publish_whose_payload_has_no_certain_beginning_is_malformed(flags: int, content: bytes) -> None:
    with pytest.raises(MalformedPacket):
        mqtt5.read_publish(flags, memoryview(content))


def test_length_is_waited_for_and_never_longer_than_four_bytes() -> None:
    assert mqtt5.body_of(memoryview(b"\x30"), 0) is None
    assert mqtt5.body_of(memoryview(b"\x30\xff\xff\xff"), 0) is None
    assert mqtt5.body_of(memoryview(b"\x30\xff\xff\xff\x7f"), 0) == (5, mqtt5.MAX_PACKET_BYTES)
    with pytest.raises(MalformedPacket):
        mqtt5.body_of(memoryview(b"\x30\xff\xff\xff\xff"), 0)


def test_refusal_of_an_older_broker_is_understood() -> None:
    assert mqtt5.read_answer(Type.CONNACK, memoryview(b"\x00\x01")).codes == b"\x01"


def test_reasons_are_told_in_words() -> None:
    assert mqtt5.reason_text(Type.CONNACK, 0x87, "ask the administrator") == (
        "Not authorized (0x87): ask the administrator"
    )
    assert mqtt5.reason_text(Type.SUBACK, 0xEE) == "unknown reason (0xee)"
