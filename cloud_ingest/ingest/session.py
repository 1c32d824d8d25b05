"""The conversation with a broker on one connection, without a socket, a thread or a clock.

CONNECT -> CONNACK, SUBSCRIBE -> SUBACK, then PUBLISHes, until UNSUBSCRIBE -> UNSUBACK. Whoever has the socket hands in
the bytes that came and the time, and sends what `outgoing` gives.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from cloud_ingest.ingest import mqtt5
from cloud_ingest.ingest.mqtt5 import Answer, MalformedPacket, Property, Type
from cloud_ingest.message import Message

_ANSWER_SECONDS: Final = 10.0  # how long a broker may take to accept a connection and its subscriptions
_SUBSCRIBE_ID: Final = 1
_UNSUBSCRIBE_ID: Final = 2

_UNACCEPTABLE_PROTOCOL: Final = (0x01, 0x84)  # MQTT 3.1.1 [3.2.2.3] and MQTT 5 [3.2.2.2]
_SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: Final = 0x9E
_TOO_LARGE: Final = 0x95


class Ended(Exception):
    """The connection is of no more use. The text says why; `goodbye` is to be sent before it is closed."""

    def __init__(self, why: str, goodbye: bytes = b"") -> None:
        super().__init__(why)
        self.goodbye = goodbye


class Phase(IntEnum):
    """How far the conversation has come; each phase follows the one before."""

    CONNECTING = 1
    SUBSCRIBING = 2
    SUBSCRIBED = 3
    UNSUBSCRIBING = 4
    UNSUBSCRIBED = 5


class Terms(NamedTuple):
    """What a session is opened with. `keepalive_seconds` is what we ask for; the broker may set another."""

    client_id: str
    username: str | None
    password: str | None
    filters: Sequence[str]
    keepalive_seconds: int
    receive_maximum: int
    max_packet_bytes: int


class Session:
    """One session. Times are monotonic seconds."""

    def __init__(self, terms: Terms, now: float) -> None:
        self.phase = Phase.CONNECTING
        self.max_publish_bytes = mqtt5.MAX_PACKET_BYTES  # what the broker takes, once it has said so
        self._terms = terms
        self._keepalive = float(terms.keepalive_seconds)
        self._opened = self._received = self._sent = self._pinged = now
        self._outgoing = [
            mqtt5.connect(
                terms.client_id,
                username=terms.username,
                password=terms.password,
                keepalive_seconds=terms.keepalive_seconds,
                receive_maximum=terms.receive_maximum,
                max_packet_bytes=terms.max_packet_bytes,
            )
        ]

    def outgoing(self) -> bytes:
        """What is to be sent now; each byte is given once."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    def note_sent(self, now: float) -> None:
        """Something else was sent: the broker knows that we are there."""
        self._sent = now

    def receive(self, data: memoryview, now: float) -> tuple[list[tuple[Message, int]], int]:
        """The messages at the beginning of `data`, each with its packet identifier, and how many bytes that was.

        Raises Ended where the broker refuses or ends the connection, or sends what it may not.
        """
        self._received = now
        messages: list[tuple[Message, int]] = []
        at = 0
        try:
            while at < len(data) and (body := self._body(data, at)) is not None:
                start, end = body
                if data[at] >> 4 == Type.PUBLISH:
                    messages.append(self._message(data[at], data[start:end]))
                else:
                    self._answer(data[at] >> 4, data[start:end])
                at = end
        except MalformedPacket as exc:
            raise Ended(f"the broker broke the protocol: {exc}", mqtt5.disconnect(exc.reason)) from exc
        return messages, at

    def unsubscribe(self) -> None:
        """Asks for no more messages; the phase tells when the broker has agreed. Only once subscribed."""
        self.phase = Phase.UNSUBSCRIBING
        self._outgoing.append(mqtt5.unsubscribe(_UNSUBSCRIBE_ID, self._terms.filters))

    def keep_alive(self, now: float, *, listening: bool) -> None:
        """Pings the broker where it is due.

        Without any packet for one and a half times the keepalive the broker counts as gone, as we do for it [3.1.2.10].
        `listening` is False while what came is left unread; then its silence means nothing.

        Raises Ended.
        """
        if not listening:
            self._received = now
        if self.phase < Phase.SUBSCRIBED:
            if now - self._opened >= _ANSWER_SECONDS:
                raise Ended(f"no answer while {self.phase.name.lower()} for {_ANSWER_SECONDS:g} s")
        elif self._keepalive:
            if now - self._received >= 1.5 * self._keepalive:
                raise Ended(f"nothing came for {1.5 * self._keepalive:g} s", mqtt5.disconnect())
            if now >= self._ping_due():
                self._pinged = now
                self._outgoing.append(mqtt5.PINGREQ)

    def wait_seconds(self, now: float) -> float:
        """How long nothing needs to be done about keeping alive."""
        if self.phase < Phase.SUBSCRIBED:
            due = self._opened + _ANSWER_SECONDS
        elif self._keepalive:
            due = min(self._ping_due(), self._received + 1.5 * self._keepalive)
        else:
            return _ANSWER_SECONDS
        return max(0.0, due - now)

    def _ping_due(self) -> float:
        """After half a keepalive without a word from one side, so that a lost moment does no harm."""
        return max(min(self._sent, self._received), self._pinged) + self._keepalive / 2

    def _body(self, data: memoryview, at: int) -> tuple[int, int] | None:
        """Where the body of the packet at `at` begins and ends; None where it is not all there."""
        body = mqtt5.body_of(data, at)
        if body is None:
            return None
        size = body[1] - at
        if size > self._terms.max_packet_bytes:
            raise MalformedPacket(f"a packet of {size} bytes, more than {self._terms.max_packet_bytes}", _TOO_LARGE)
        return body if body[1] <= len(data) else None

    def _message(self, first: int, body: memoryview) -> tuple[Message, int]:
        if self.phase < Phase.SUBSCRIBING:  # a broker may send messages even before the SUBACK [3.8.4]
            raise MalformedPacket("a PUBLISH came before the CONNACK", 0x82)
        return mqtt5.read_publish(first & 0x0F, body)

    def _answer(self, kind: int, body: memoryview) -> None:
        match kind, self.phase:
            case Type.CONNACK, Phase.CONNECTING:
                self._connected(mqtt5.read_answer(Type.CONNACK, body))
            case Type.SUBACK, Phase.SUBSCRIBING:
                self._subscribed(mqtt5.read_answer(Type.SUBACK, body))
            case Type.UNSUBACK, Phase.UNSUBSCRIBING:
                mqtt5.read_answer(Type.UNSUBACK, body)  # whatever it says, there is nothing else that we could do
                self.phase = Phase.UNSUBSCRIBED
            case Type.PINGRESP, _:
                pass  # that it came is all that it says
            case Type.DISCONNECT, _:
                answer = mqtt5.read_answer(Type.DISCONNECT, body)
                raise Ended(f"the broker ended the connection: {_reason(Type.DISCONNECT, answer, answer.codes[0])}")
            case _:
                raise MalformedPacket(f"a packet of type {kind} came while {self.phase.name.lower()}", 0x82)

    def _connected(self, answer: Answer) -> None:
        code = answer.codes[0]
        if code:
            hint = "; set broker.protocol to 3.1.1" if code in _UNACCEPTABLE_PROTOCOL else ""
            raise Ended(f"the broker refused: {_reason(Type.CONNACK, answer, code)}{hint}")
        keepalive = answer.number(Property.SERVER_KEEP_ALIVE)
        if keepalive is not None:
            self._keepalive = float(keepalive)
        self.max_publish_bytes = answer.number(Property.MAXIMUM_PACKET_SIZE) or mqtt5.MAX_PACKET_BYTES
        self.phase = Phase.SUBSCRIBING
        self._outgoing.append(mqtt5.subscribe(_SUBSCRIBE_ID, self._terms.filters))

    def _subscribed(self, answer: Answer) -> None:
        filters = self._terms.filters
        if answer.packet_id != _SUBSCRIBE_ID or len(answer.codes) != len(filters):
            raise MalformedPacket("a SUBACK does not fit what was subscribed", 0x82)
        if answer.failed:
            refused = [
                f"{name} ({_reason(Type.SUBACK, answer, code)})"
                for name, code in zip(filters, answer.codes, strict=True)
                if code >= 0x80  # noqa: PLR2004 - from here on codes are failures
            ]
            shared = _SHARED_SUBSCRIPTIONS_NOT_SUPPORTED in answer.codes
            hint = "; set ingest.group to null, and run one ingester" if shared else ""
            raise Ended(f"the broker refused the subscription to {', '.join(refused)}{hint}", mqtt5.disconnect())
        self.phase = Phase.SUBSCRIBED


def _reason(kind: Type, answer: Answer, code: int) -> str:
    return mqtt5.reason_text(kind, code, answer.reason_string())
