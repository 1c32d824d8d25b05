"""The conversation with a broker, with a clock that the test turns."""

from collections.abc import Iterable, Sequence

import pytest
from harness.scripted_broker import packet, publish
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.ingest import mqtt5
from cloud_ingest.ingest.session import Ended, Phase, Session, Terms
from cloud_ingest.ingest.transport import ReceiveBuffer
from cloud_ingest.message import Message

CONNACK = packet(0x20, b"\x00\x00\x00")
SUBACK = packet(0x90, b"\x00\x01\x00\x01\x01")
UNSUBACK = packet(0xB0, b"\x00\x02\x00\x00\x00")
PINGRESP = b"\xd0\x00"


def new_session(username: str | None = None, password: str | None = None) -> Session:
    terms = Terms(
        client_id="ingester",
        username=username,
        password=password,
        filters=["$share/g/a/+", "$share/g/b/+"],
        keepalive_seconds=20,
        receive_maximum=100,
        max_packet_bytes=1_000,
    )
    return Session(terms, 0.0)


def subscribed() -> Session:
    session = new_session()
    session.receive(memoryview(CONNACK + SUBACK), 0.0)
    session.outgoing()
    return session


def phase(session: Session) -> Phase:
    return session.phase


def kinds(data: bytes) -> list[int]:
    """The first byte of each packet."""
    found = []
    at = 0
    while at < len(data):
        found.append(data[at])
        bounds = mqtt5.body_of(memoryview(data), at)
        assert bounds is not None
        at = bounds[1]
    return found


def test_conversation_from_connect_to_unsubscribe() -> None:
    session = new_session(username="ingester", password="secret")  # noqa: S106
    connect = session.outgoing()
    # Clean start, user name and password; receive maximum 100, packets of at most 1000 bytes: no other property
    assert connect.startswith(b"\x10\x2f\x00\x04MQTT\x05\xc2\x00\x14\x08\x21\x00\x64\x27\x00\x00\x03\xe8")
    assert connect.endswith(b"\x00\x08ingester\x00\x08ingester\x00\x06secret")
    assert session.outgoing() == b""
    session.receive(memoryview(CONNACK), 0.0)
    assert session.outgoing() == packet(0x82, b"\x00\x01\x00\x00\x0c$share/g/a/+\x01\x00\x0c$share/g/b/+\x01")
    session.receive(memoryview(SUBACK), 0.0)
    assert phase(session) is Phase.SUBSCRIBED
    session.unsubscribe()
    assert kinds(session.outgoing()) == [0xA2]
    session.receive(memoryview(UNSUBACK), 0.0)
    assert phase(session) is Phase.UNSUBSCRIBED


@given(st.lists(st.binary(max_size=40), max_size=20), st.lists(st.integers(1, 30), max_size=60))
def test_messages_are_the_same_however_the_stream_is_cut(payloads: list[bytes], cuts: Iterable[int]) -> None:
    stream = b"".join(publish(b"a/1", payload, number) for number, payload in enumerate(payloads, start=1))
    session = subscribed()
    buffer = ReceiveBuffer(8)
    got: list[tuple[Message, int]] = []
    left = stream
    for size in [*cuts, *[50] * len(stream)]:
        room = buffer.room()
        part = left[: min(size, len(room))]
        left = left[len(part) :]
        room[: len(part)] = part
        buffer.add(len(part))
        messages, used = session.receive(buffer.content(), 0.0)
        buffer.use(used)
        got += messages
    assert got == [(Message("a/1", payload), number) for number, payload in enumerate(payloads, start=1)]
    assert len(buffer.content()) == 0


def test_buffer_grows_for_what_does_not_fit_and_shrinks_again() -> None:
    buffer = ReceiveBuffer(8)
    for _ in range(5):
        room = buffer.room()
        room[:] = b"x" * len(room)
        buffer.add(len(room))
    assert bytes(buffer.content()) == b"x" * 128
    buffer.use(127)
    assert bytes(buffer.content()) == b"x"
    buffer.use(1)
    assert len(buffer.room()) == 8


def test_ping_is_sent_after_half_a_keepalive_of_silence_from_either_side() -> None:
    session = subscribed()
    session.keep_alive(9.9, listening=True)
    assert session.outgoing() == b""
    assert session.wait_seconds(9.0) == pytest.approx(1.0)
    session.keep_alive(10.0, listening=True)
    assert session.outgoing() == mqtt5.PINGREQ
    session.keep_alive(15.0, listening=True)
    assert session.outgoing() == b""  # one at a time
    session.receive(memoryview(PINGRESP), 15.0)
    session.note_sent(18.0)
    session.receive(memoryview(publish(b"a/1", b"", 1)), 21.0)
    session.keep_alive(27.9, listening=True)
    assert session.outgoing() == b""
    session.keep_alive(28.0, listening=True)  # the broker has heard nothing since 18
    assert session.outgoing() == mqtt5.PINGREQ


def test_silence_for_one_and_a_half_keepalives_ends_the_connection_unless_we_do_not_listen() -> None:
    session = subscribed()
    session.keep_alive(29.9, listening=True)
    with pytest.raises(Ended, match="nothing came for 30 s"):
        session.keep_alive(30.0, listening=True)
    session = subscribed()
    for second in range(100):
        session.keep_alive(float(second), listening=False)
    assert kinds(session.outgoing()) == [0xC0] * 9
    session.keep_alive(128.9, listening=True)
    with pytest.raises(Ended):
        session.keep_alive(129.0, listening=True)


def test_keepalive_is_what_the_broker_says() -> None:
    session = new_session()
    session.receive(memoryview(packet(0x20, b"\x00\x00\x03\x13\x00\x02") + SUBACK), 0.0)
    session.outgoing()
    session.keep_alive(1.0, listening=True)
    assert session.outgoing() == mqtt5.PINGREQ
    with pytest.raises(Ended):
        session.keep_alive(3.0, listening=True)


@pytest.mark.parametrize("answers", [b"", CONNACK])
def test_broker_that_does_not_answer_is_given_up(answers: bytes) -> None:
    session = new_session()
    session.receive(memoryview(answers), 0.0)
    session.keep_alive(9.9, listening=True)
    assert session.wait_seconds(9.0) == pytest.approx(1.0)
    with pytest.raises(Ended, match="no answer"):
        session.keep_alive(10.0, listening=True)


@pytest.mark.parametrize(
    ("packets", "told", "goodbye"),
    [
        ([packet(0x20, b"\x00\x87\x00")], "refused: Not authorized", b""),
        ([packet(0x20, b"\x00\x01")], "broker.protocol to 3.1.1", b""),
        ([CONNACK, packet(0x90, b"\x00\x01\x00\x01\x9e")], "ingest.group to null", b"\xe0\x00"),
        ([CONNACK, packet(0x90, b"\x00\x01\x00\x01\x87")], r"\$share/g/b/\+ \(Not authorized", b"\xe0\x00"),
        ([CONNACK, packet(0x90, b"\x00\x09\x00\x01\x01")], "does not fit", b"\xe0\x01\x82"),
        ([CONNACK, packet(0x90, b"\x00\x01\x00\x01")], "does not fit", b"\xe0\x01\x82"),
        ([SUBACK], "while connecting", b"\xe0\x01\x82"),
        ([publish(b"a/1", b"", 1)], "before the CONNACK", b"\xe0\x01\x82"),
        ([CONNACK, SUBACK, UNSUBACK], "while subscribed", b"\xe0\x01\x82"),
        ([CONNACK, SUBACK, CONNACK], "while subscribed", b"\xe0\x01\x82"),
        ([CONNACK, SUBACK, b"\x00\x00"], "type 0 came", b"\xe0\x01\x82"),
        ([CONNACK, SUBACK, publish(b"a/1", bytes(1_001), 1)[:10]], "of 10.. bytes, more than 1000", b"\xe0\x01\x95"),
        ([CONNACK, SUBACK, packet(0xE0, b"")], "ended the connection: Normal disconnection", b""),
        ([CONNACK, SUBACK, packet(0xE0, b"\x8e\x08\x1f\x00\x05twice")], r"Session taken over \(0x8e\): twice", b""),
    ],
)
def test_reason_of_the_end_is_told_to_both_sides(packets: Sequence[bytes], told: str, goodbye: bytes) -> None:
    session = new_session()
    with pytest.raises(Ended, match=told) as ended:
        session.receive(memoryview(b"".join(packets)), 0.0)
    assert ended.value.goodbye == goodbye


def test_messages_before_the_end_of_the_same_reading_do_not_count() -> None:
    session = subscribed()
    with pytest.raises(Ended):
        session.receive(memoryview(publish(b"a/1", b"", 1) + b"\x00\x00"), 0.0)


def test_messages_may_come_before_the_suback() -> None:
    session = new_session()
    messages, _ = session.receive(memoryview(CONNACK + publish(b"a/1", b"early", 1) + SUBACK), 0.0)
    assert [message.payload for message, _ in messages] == [b"early"]


def test_size_of_what_we_publish_is_bounded_by_what_the_broker_takes() -> None:
    session = new_session()
    session.receive(memoryview(packet(0x20, b"\x00\x00\x05\x27\x00\x00\x40\x00")), 0.0)
    assert session.max_publish_bytes == 0x4000
