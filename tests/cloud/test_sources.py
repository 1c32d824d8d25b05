"""What the ingester may expect of a source, whichever client it is made of."""

import hashlib
import logging
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
from harness.absence import Absent, skip_or_fail
from harness.broker import Mosquitto
from harness.certificates import Authority
from harness.link import Link
from harness.ports import free_port
from harness.scripted_broker import DISCONNECT, PINGREQ, PUBACK, UNSUBSCRIBE, ScriptedBroker, packet, publish
from harness.wait import until
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from cloud_ingest import config
from cloud_ingest.errors import ConfigError
from cloud_ingest.ingest.main import BrokerSource
from cloud_ingest.ingest.mqtt5_source import Mqtt5Source
from cloud_ingest.ingest.mqtt_source import MqttSource
from cloud_ingest.ingest.source import Received

TOPIC = "telemetry/v1/plant/pump/samples"


class Kind(NamedTuple):
    """One way to make a source, and the settings that go with it."""

    make: Callable[[config.Config], BrokerSource]
    settings: dict[str, str]


KINDS = {
    "paho": Kind(MqttSource, {}),
    "paho-3.1.1": Kind(MqttSource, {"BROKER__PROTOCOL": "3.1.1", "INGEST__GROUP": "null"}),
    "mqtt5": Kind(Mqtt5Source, {}),
}
version_5 = pytest.mark.parametrize("kind", [KINDS["paho"], KINDS["mqtt5"]], ids=["paho", "mqtt5"])


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    assert isinstance(request.param, Kind)
    return request.param


class Server(Protocol):
    """Whatever listens."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class Address(NamedTuple):
    host: str
    port: int


class Open(Protocol):
    """Makes a source of the kind under test, started, and subscribed unless told not to wait."""

    def __call__(
        self, server: Server, settings: Mapping[str, str] | None = None, *, wait: bool = True
    ) -> BrokerSource: ...


def settings_of(server: Server, settings: Mapping[str, str]) -> config.Config:
    values = {"BROKER__HOST": server.host, "BROKER__PORT": str(server.port), **settings}
    environ = {f"CLOUD_INGEST_{name}": value for name, value in values.items()}
    return config.load(None, {"CLOUD_INGEST_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", **environ})


@pytest.fixture
def open_source(kind: Kind) -> Iterator[Open]:
    with ExitStack() as opened:

        def make(server: Server, settings: Mapping[str, str] | None = None, *, wait: bool = True) -> BrokerSource:
            source = opened.enter_context(
                closing(kind.make(settings_of(server, {**kind.settings, **(settings or {})})))
            )
            source.start()
            if wait:
                until(lambda: source.is_connected, 10, "subscription")
            return source

        yield make


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """One that queues whatever comes, where the usual one drops what is beyond a thousand messages."""
    try:
        mosquitto = Mosquitto(tmp_path / "broker", extra_config="max_queued_messages 0\n")
    except Absent as absent:
        skip_or_fail(absent)
    with closing(mosquitto):
        mosquitto.start()
        yield mosquitto


class Publisher:
    """Publishes with QoS 1 unless told otherwise."""

    def __init__(self, broker: Server) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.max_inflight_messages_set(0)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()

    def send(self, *payloads: bytes, topic: str = TOPIC, qos: int = 1) -> None:
        """Returns when the broker has all of them."""
        sent = [self._client.publish(topic, payload, qos) for payload in payloads]
        for each in sent:
            each.wait_for_publish(30)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def publisher(broker: Mosquitto) -> Iterator[Publisher]:
    with closing(Publisher(broker)) as publisher:
        yield publisher


def receive(source: BrokerSource, number: int, timeout: float = 10, *, acknowledging: bool = False) -> list[Received]:
    """So many messages, or AssertionError."""
    received: list[Received] = []

    def enough() -> bool:
        arrived = source.receive(number - len(received), 0.1)
        if acknowledging:
            source.acknowledge(arrived)
        received.extend(arrived)
        return len(received) >= number

    until(enough, timeout, f"{number} messages; there are {len(received)}")
    return received


def rest(source: BrokerSource, quiet_seconds: float = 0.4) -> list[Received]:
    """What comes until nothing comes for a while."""
    received = []
    while arrived := source.receive(1_000, quiet_seconds):
        received += arrived
    return received


def payloads(received: list[Received]) -> list[bytes]:
    return [each.message.payload for each in received]


def numbered(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last + 1)]


def test_messages_come_in_order_and_whole(open_source: Open, broker: Mosquitto, publisher: Publisher) -> None:
    source = open_source(broker)
    publisher.send(*numbered(1, 500))
    publisher.send(b"\x00\xff{}", topic="telemetry/v1/plant/p\N{LATIN SMALL LETTER E WITH ACUTE}/backlog")
    received = receive(source, 501, acknowledging=True)
    assert payloads(received) == [*numbered(1, 500), b"\x00\xff{}"]
    assert {each.message.topic for each in received[:500]} == {TOPIC}
    assert received[500].message.topic == "telemetry/v1/plant/p\N{LATIN SMALL LETTER E WITH ACUTE}/backlog"


def test_receive_gives_at_most_what_was_asked_for_and_waits_no_longer_than_told(
    open_source: Open, broker: Mosquitto, publisher: Publisher
) -> None:
    source = open_source(broker)
    assert source.receive(10, 0.0) == []
    assert source.receive(10, 0.05) == []
    publisher.send(*numbered(1, 7))
    first = receive(source, 3)
    assert payloads(first + rest(source)) == numbered(1, 7)


@pytest.mark.slow
def test_many_small_messages(open_source: Open, broker: Mosquitto, publisher: Publisher) -> None:
    source = open_source(broker, {"INGEST__RECEIVE_MAXIMUM": "500"})
    sent = numbered(1, 50_000)
    sending = threading.Thread(target=lambda: publisher.send(*sent))
    sending.start()
    received = receive(source, len(sent), 90, acknowledging=True)
    sending.join()
    assert payloads(received) == sent


def test_large_messages(open_source: Open, broker: Mosquitto, publisher: Publisher) -> None:
    source = open_source(broker)
    sent = [bytes([number]) * 1024**2 for number in range(8)]
    publisher.send(*sent, b"small")
    received = receive(source, 9)
    source.acknowledge(received)
    assert [hashlib.sha256(it).digest() for it in payloads(received[:8])] == [
        hashlib.sha256(it).digest() for it in sent
    ]
    assert received[8].message.payload == b"small"


@version_5
def test_content_type_is_passed_on(open_source: Open) -> None:
    with ScriptedBroker() as broker:
        source = open_source(broker)
        user_property = b"\x26\x00\x01a\x00\x01b"
        broker.send(publish(TOPIC.encode(), b"1", 1, b"\x01\x01" + user_property + b"\x03\x00\x09text/json"))
        broker.send(publish(TOPIC.encode(), b"2", 2))
        first, second = receive(source, 2)
    assert (first.message.content_type, second.message.content_type) == ("text/json", None)


@version_5
def test_broker_holds_back_what_is_beyond_the_receive_maximum(
    open_source: Open, broker: Mosquitto, publisher: Publisher
) -> None:
    source = open_source(broker, {"INGEST__RECEIVE_MAXIMUM": "5"})
    publisher.send(*numbered(1, 20))
    first = receive(source, 5)
    assert rest(source) == []
    source.acknowledge(first)
    # Mosquitto 2.0 then sends more than five again; what matters here is that it goes on
    assert payloads(receive(source, 15, acknowledging=True)) == numbered(6, 20)


@version_5
def test_acknowledgements_go_out_once_each_and_in_order(open_source: Open) -> None:
    with ScriptedBroker() as broker:
        source = open_source(broker)
        broker.send(b"".join(publish(TOPIC.encode(), b"x", number) for number in (7, 3, 9, 65_535)))
        received = receive(source, 4)
        assert broker.bodies(PUBACK) == []
        source.acknowledge(received[:3])
        source.acknowledge(received[3:])
        broker.wait_for(PUBACK, 4)
        source.close()
        broker.wait_for(DISCONNECT)
        acknowledged = [int.from_bytes(body[:2], "big") for body in broker.bodies(PUBACK)]
    assert acknowledged == [7, 3, 9, 65_535]


@pytest.fixture
def cut(caplog: pytest.LogCaptureFixture) -> Callable[[Link], None]:
    """Cuts a link that a source uses, and waits until the source has subscribed anew."""
    caplog.set_level(logging.INFO)

    def subscriptions() -> int:
        return caplog.text.count("connected to the broker at")

    def cut(link: Link) -> None:
        before = subscriptions()
        link.cut()
        until(lambda: subscriptions() > before, 15, "a new subscription")

    return cut


def test_session_ends_with_its_connection(
    open_source: Open, broker: Mosquitto, publisher: Publisher, cut: Callable[[Link], None]
) -> None:
    with Link(broker.port) as link:
        source = open_source(link)
        publisher.send(b"unacknowledged")
        receive(source, 1)
        cut(link)
        publisher.send(b"new")
        assert payloads(rest(source)) == [b"new"]


@version_5
def test_acknowledgement_of_an_earlier_connection_acknowledges_nothing(
    open_source: Open, broker: Mosquitto, publisher: Publisher, cut: Callable[[Link], None]
) -> None:
    with Link(broker.port) as link:
        source = open_source(link, {"INGEST__RECEIVE_MAXIMUM": "1"})
        publisher.send(b"old")
        old = receive(source, 1)
        cut(link)
        publisher.send(b"first", b"second")  # the first has the packet identifier that the old one had
        first = receive(source, 1)
        source.acknowledge(old)
        assert rest(source) == []
        source.acknowledge(first)
        assert payloads(receive(source, 1)) == [b"second"]


def test_message_that_needs_no_acknowledgement(
    open_source: Open, broker: Mosquitto, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source = open_source(broker)
    publisher.send(b"at most once", qos=0)
    received = receive(source, 1)
    source.acknowledge(received)
    publisher.send(b"at least once")
    source.acknowledge(receive(source, 1))
    publisher.send(b"one more")
    assert payloads(receive(source, 1)) == [b"one more"]
    assert "no broker" not in caplog.text
    assert "Protocol error" not in broker.output()


def test_broker_that_was_killed_is_found_again(
    open_source: Open, broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source = open_source(broker)
    for turn in range(2):
        broker.kill()
        until(lambda: not source.is_connected, 10, "loss of the connection")
        broker.start()
        until(lambda: source.is_connected, 20, "subscription")
        with closing(Publisher(broker)) as publisher:
            publisher.send(b"%d" % turn)
            received = receive(source, 1)
            assert payloads(received) == [b"%d" % turn]
            source.acknowledge(received)
    ups = [record for record in caplog.records if "connected to the broker at" in record.getMessage()]
    downs = [record for record in caplog.records if "no broker at" in record.getMessage()]
    assert (len(ups), len(downs)) == (3, 2)  # a line a change of state, whatever the number of attempts


def test_broker_that_is_not_there_yet_is_waited_for(open_source: Open, tmp_path: Path) -> None:
    try:
        broker = Mosquitto(tmp_path / "broker")
    except Absent as absent:
        skip_or_fail(absent)
    source = open_source(broker, wait=False)
    assert source.receive(1, 0.3) == []
    source.leave(0.1)
    with closing(broker):
        other = open_source(broker, wait=False)
        broker.start()
        until(lambda: other.is_connected, 20, "subscription")


@version_5
def test_connection_that_fell_silent_is_given_up(open_source: Open, caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedBroker(answer_pings=False) as broker:
        open_source(broker, {"BROKER__KEEPALIVE_SECONDS": "1"})
        broker.wait_for(PINGREQ)
        until(lambda: broker.connections >= 2, 10, "a new connection")
        assert "no broker at" in caplog.text


def test_idle_connection_stays(open_source: Open, broker: Mosquitto) -> None:
    with Link(broker.port) as link:
        source = open_source(link, {"BROKER__KEEPALIVE_SECONDS": "1"})
        # Mosquitto ends a connection after one and a half keepalives without a packet.
        assert source.receive(1, 3.0) == []
        assert source.is_connected
        assert "exceeded timeout" not in broker.output()
        link.silence()
        until(lambda: not source.is_connected, 10, "notice of the silence")


@version_5
def test_members_of_a_group_share_the_messages(open_source: Open, broker: Mosquitto, publisher: Publisher) -> None:
    one, two = open_source(broker), open_source(broker)
    publisher.send(*numbered(1, 100))
    parts = [payloads(rest(source)) for source in (one, two)]
    assert sorted(parts[0] + parts[1]) == sorted(numbered(1, 100))
    assert all(parts)


@version_5
def test_who_leaves_gets_what_the_broker_held_for_it_and_nothing_more(
    open_source: Open, broker: Mosquitto, publisher: Publisher
) -> None:
    source = open_source(broker, {"INGEST__RECEIVE_MAXIMUM": "10"})
    publisher.send(*numbered(1, 100))
    received = receive(source, 10)
    source.leave(10)
    publisher.send(b"after")
    source.acknowledge(received)
    while arrived := source.receive(10, 0.4):
        received += arrived
        source.acknowledge(arrived)
    assert payloads(received) == numbered(1, 100)
    source.close()
    assert not source.is_connected


@version_5
def test_leaving_waits_for_the_broker_also_after_a_reconnect(open_source: Open) -> None:
    with ScriptedBroker() as broker:
        source = open_source(broker)
        broker.send(packet(DISCONNECT, b"\x8b\x00"))
        until(lambda: broker.connections >= 2, 10, "a new connection")
        until(lambda: source.is_connected, 10, "subscription")
        source.leave(10)
        assert len(broker.bodies(UNSUBSCRIBE)) == 1


def test_leaving_without_a_connection_returns_at_once(open_source: Open, broker: Mosquitto) -> None:
    source = open_source(broker)
    broker.kill()
    until(lambda: not source.is_connected, 10, "loss of the connection")
    left = threading.Thread(target=lambda: source.leave(60))
    left.start()
    left.join(5)
    assert not left.is_alive()


def test_what_is_published_reaches_others_and_is_dropped_without_a_connection(
    open_source: Open, broker: Mosquitto, kind: Kind
) -> None:
    got: list[MQTTMessage] = []
    listener = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    subscribed = threading.Event()
    listener.on_subscribe = lambda *_: subscribed.set()
    listener.on_message = lambda _client, _userdata, message: got.append(message)
    listener.on_connect = lambda client, *_: client.subscribe("telemetry/v1/+/+/ack")
    source = open_source(broker)
    listener.connect(broker.host, broker.port)
    listener.loop_start()
    try:
        assert subscribed.wait(10)
        source.publish("telemetry/v1/plant/pump/ack", b"one", "application/json")
        until(lambda: got, 10, "message")
        broker.kill()
        until(lambda: not source.is_connected, 10, "loss of the connection")
        subscribed.clear()
        source.publish("telemetry/v1/plant/pump/ack", b"lost", "application/json")
        broker.start()
        assert subscribed.wait(20)
        until(lambda: source.is_connected, 20, "subscription")
        source.publish("telemetry/v1/plant/pump/ack", b"two", "application/json")
        until(lambda: len(got) >= 2, 10, "second message")
    finally:
        listener.disconnect()
        listener.loop_stop()
    assert [(it.payload, it.qos, it.retain) for it in got] == [(b"one", 0, False), (b"two", 0, False)]
    if kind is not KINDS["paho-3.1.1"]:
        assert getattr(got[0].properties, "ContentType", None) == "application/json"


@pytest.fixture
def tls_broker(tmp_path: Path, authority: Authority) -> Iterator[tuple[Mosquitto, Server]]:
    """A broker that asks for a certificate on its second port: the broker, and the address of that port."""

    server = authority.issue("server")
    port = free_port()
    lines = [
        f"listener {port} 127.0.0.1",
        f"cafile {authority.certificate}",
        f"certfile {server.certificate}",
        f"keyfile {server.key}",
        "require_certificate true",
    ]
    try:
        broker = Mosquitto(tmp_path / "tls-broker", extra_config="\n".join(lines) + "\n")
    except Absent as absent:
        skip_or_fail(absent)
    with closing(broker):
        broker.start()
        yield broker, Address("127.0.0.1", port)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    try:
        return Authority(tmp_path / "certificates")
    except Absent as absent:
        skip_or_fail(absent)


def tls_settings(authority: Authority, name: str = "ingester") -> dict[str, str]:
    client = authority.issue(name)
    return {
        "BROKER__TLS__CA_FILE": str(authority.certificate),
        "BROKER__TLS__CERTIFICATE_FILE": str(client.certificate),
        "BROKER__TLS__KEY_FILE": str(client.key),
    }


def test_encrypted_connection_with_certificates_on_both_sides(
    open_source: Open, tls_broker: tuple[Mosquitto, Server], authority: Authority
) -> None:
    broker, encrypted = tls_broker
    source = open_source(encrypted, tls_settings(authority))
    with closing(Publisher(broker)) as publisher:
        sent = [*numbered(1, 300), b"x" * 1024**2, *numbered(301, 400)]
        publisher.send(*sent)
        assert payloads(receive(source, len(sent), acknowledging=True)) == sent
        broker.kill()
        until(lambda: not source.is_connected, 10, "loss of the connection")
        broker.start()
        until(lambda: source.is_connected, 20, "subscription")


# paho leaves the socket of a failed handshake to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_broker_with_a_certificate_of_somebody_else_is_not_talked_to(
    open_source: Open,
    tls_broker: tuple[Mosquitto, Server],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = Authority(tmp_path / "others", "other")
    source = open_source(tls_broker[1], tls_settings(other), wait=False)
    until(lambda: "no broker at" in caplog.text, 10, "the reason in the log")
    assert "certificate verify failed" in caplog.text
    assert not source.is_connected


def test_missing_files_are_named_before_anything_starts(kind: Kind, broker: Mosquitto, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match=r"broker\.tls\.ca_file .*missing\.pem"):
        kind.make(settings_of(broker, {**kind.settings, "BROKER__TLS__CA_FILE": missing}))
    with pytest.raises(ConfigError, match=r"broker\.password_file .*missing\.pem"):
        kind.make(settings_of(broker, {**kind.settings, "BROKER__USERNAME": "u", "BROKER__PASSWORD_FILE": missing}))


def mosquitto_hash(password: str) -> str:
    """As `mosquitto_passwd` writes it: PBKDF2 with SHA-512."""
    salt = b"0123456789ab"
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"$7$101${b64encode(salt).decode()}${b64encode(digest).decode()}"


def test_wrong_password_is_said_once_and_a_right_one_taken_up(
    open_source: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users = tmp_path / "users"
    users.write_text(f"ingester:{mosquitto_hash('right')}\n")
    try:
        broker = Mosquitto(tmp_path / "broker", extra_config=f"allow_anonymous false\npassword_file {users}\n")
    except Absent as absent:
        skip_or_fail(absent)
    password = tmp_path / "password"
    password.write_text("wrong\n")
    with closing(broker):
        broker.start()
        source = open_source(
            broker, {"BROKER__USERNAME": "ingester", "BROKER__PASSWORD_FILE": str(password)}, wait=False
        )
        until(lambda: "no broker at" in caplog.text, 10, "the reason in the log")
        password.unlink()
        assert source.receive(1, 1.0) == []  # a file that is gone for a moment ends nothing
        password.write_text("right\n")
        until(lambda: source.is_connected, 20, "subscription")
    assert "the broker refused: " in caplog.text
    assert "wrong" not in caplog.text
    assert caplog.text.count("no broker at") <= 2  # the refusal, and the end of the broker


@version_5
@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ((0x86, 1), "the broker refused: Bad user name or password"),
        ((0x87, 1), "the broker refused: Not authorized"),
        ((0, 0x87), "samples (Not authorized"),
        ((0, 0x9E), "Shared subscription not supported"),
    ],
)
def test_refusal_is_told_in_words_and_tried_again(
    open_source: Open, answers: tuple[int, int], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedBroker(connack=answers[0], suback=answers[1]) as broker:
        source = open_source(broker, wait=False)
        until(lambda: broker.connections >= 2, 15, "a second attempt")
        assert told.lower() in caplog.text.lower()
        assert caplog.text.count("no broker at") + caplog.text.count("the broker refused the subscription") >= 1
        assert not source.is_connected
        broker.connack, broker.suback = 0, 1
        until(lambda: source.is_connected, 20, "subscription")


@version_5
def test_broker_that_says_goodbye_is_quoted(open_source: Open, caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedBroker() as broker:
        source = open_source(broker)
        broker.send(packet(DISCONNECT, b"\x8b\x00"))
        until(lambda: "no broker at" in caplog.text, 10, "the reason in the log")
        assert "Server shutting down" in caplog.text
        until(lambda: broker.connections >= 2, 10, "a new connection")
        until(lambda: source.is_connected, 10, "subscription")


@version_5
@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x00\x00",
        b"\x32\xff\xff\xff\xff\x01",
        packet(0x32, b"\x00\x09x"),
        b"\x36\x00",
    ],
    ids=["reserved type", "endless length", "cut short", "quality of service 3"],
)
def test_broker_that_sends_rubbish_is_left_and_tried_again(
    open_source: Open, rubbish: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedBroker() as broker:
        source = open_source(broker)
        broker.send(publish(TOPIC.encode(), b"before", 1))
        assert payloads(receive(source, 1)) == [b"before"]
        broker.send(rubbish)
        until(lambda: broker.connections >= 2, 15, "a new connection")
        until(lambda: source.is_connected, 10, "subscription")
        assert "no broker at" in caplog.text
        broker.send(publish(TOPIC.encode(), b"after", 1))
        assert payloads(receive(source, 1)) == [b"after"]


@version_5
def test_topic_that_is_not_utf_8_harms_only_its_own_message(
    open_source: Open, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedBroker() as broker:
        source = open_source(broker)
        broker.send(publish(b"telemetry/v1/plant/\xff\xfe/samples", b"bad", 1) + publish(TOPIC.encode(), b"good", 2))
        bad, good = receive(source, 2)
        assert bad.message.topic == repr(b"telemetry/v1/plant/\xff\xfe/samples")
        assert (bad.message.payload, good.message.payload) == (b"bad", b"good")
        source.acknowledge([bad, good])
        broker.wait_for(PUBACK, 2)
        assert broker.connections == 1
        assert "no broker" not in caplog.text


@pytest.mark.parametrize("keepalive", ["1", "600"])
def test_no_more_is_read_than_there_is_room_for(keepalive: str, caplog: pytest.LogCaptureFixture) -> None:
    """Of the source that has its own socket: what the other has read it can't leave unread."""
    megabytes = 100
    message = bytes(1024**2)
    sent = 0
    with (
        ScriptedBroker(answer_pings=False) as broker,
        closing(Mqtt5Source(settings_of(broker, {"BROKER__KEEPALIVE_SECONDS": keepalive}))) as source,
    ):
        source.start()
        until(lambda: source.is_connected, 10, "subscription")

        def send() -> None:
            nonlocal sent
            for number in range(1, megabytes + 1):
                broker.send(publish(TOPIC.encode(), message, number))
                sent = number

        sending = threading.Thread(target=send)
        sending.start()
        until(lambda: sent >= 64, 10, "it to be full")
        if keepalive == "1":
            broker.wait_for(PINGREQ, 5)  # for 2.5 keepalives: as it does not read, silence means nothing to it
        else:
            sending.join(0.5)
        assert sending.is_alive()
        received = receive(source, megabytes, 20)
        sending.join()
        assert payloads(received) == [message] * megabytes
        assert broker.connections == 1
    assert "nothing came" not in caplog.text
