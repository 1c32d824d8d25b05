"""The link on real brokers: what it tells, and how it comes back."""

import logging
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import paho.mqtt.publish
import pytest
from harness.broker import Mosquitto
from harness.link import Link as Proxy
from harness.ports import free_port
from harness.processes import NewProcess
from harness.wait import until

from edge_agent.config import Broker
from edge_agent.mqtt import Acknowledged, Connected, Disconnected, Event, Link, Received, Will

Kind = TypeVar("Kind", Connected, Disconnected, Acknowledged, Received)
MESSAGES = ["telemetry/v1/plant/pump/samples", "telemetry/v1/plant/pump/ack"]


class Listener:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def all(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in list(self.events) if isinstance(event, kind)]

    def wait(self, kind: type[Kind], count: int = 1, timeout: float = 20.0) -> Kind:
        return until(lambda: self.all(kind)[count - 1 : count], timeout, f"{kind.__name__} number {count}")[0]


@contextmanager
def link(
    port: int, listener: Callable[[Event], None], *, client_id: str = "edge-pump", **settings: Any
) -> Iterator[Link]:
    made = Link(
        Broker.of({"host": "127.0.0.1", "port": port, **settings}),
        client_id=client_id,
        will=Will("telemetry/v1/plant/pump/status", b"gone"),
        subscriptions=["telemetry/v1/plant/pump/ack"],
        listener=listener,
        pause=lambda high: min(high, 0.1),
    )
    made.start()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def mosquitto(directory: Path, config: str) -> Iterator[Mosquitto]:
    made = Mosquitto(directory, extra_config=config)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("protocol", [5, "3.1.1"])
def test_a_message_is_published_acknowledged_and_received(broker: Mosquitto, protocol: object) -> None:
    listener = Listener()
    with link(broker.port, listener, protocol=protocol) as made:
        connection = listener.wait(Connected).connection
        packet_id = made.publish(connection, "telemetry/v1/plant/pump/ack", b"echo", content_type="application/json")
        assert packet_id is not None
        assert listener.wait(Acknowledged) == Acknowledged(connection, packet_id, None)
        assert listener.wait(Received) == Received("telemetry/v1/plant/pump/ack", b"echo")


def test_thousands_of_messages_from_another_thread_all_arrive_in_order(broker: Mosquitto) -> None:
    listener = Listener()
    with link(broker.port, listener) as made:
        connection = listener.wait(Connected).connection
        for number in range(5_000):
            assert made.publish(connection, MESSAGES[1], b"%d" % number) is not None
        listener.wait(Acknowledged, 5_000)
        listener.wait(Received, 5_000)
        assert [event.payload for event in listener.all(Received)] == [b"%d" % number for number in range(5_000)]


def test_a_broker_that_was_killed_is_found_again_and_nothing_old_is_sent_by_itself(broker: Mosquitto) -> None:
    listener = Listener()
    with link(broker.port, listener) as made:
        first = listener.wait(Connected).connection
        broker.kill()
        made.publish(first, MESSAGES[1], b"into the void")
        listener.wait(Disconnected)
        assert made.publish(first, MESSAGES[1], b"later") is None
        broker.start()
        second = listener.wait(Connected, 2).connection
        assert second != first
        assert made.publish(first, MESSAGES[1], b"still") is None
        made.publish(second, MESSAGES[1], b"now")
        assert listener.wait(Received).payload == b"now"
        assert listener.wait(Acknowledged).connection == second
        assert len(listener.all(Acknowledged)) == 1


def test_it_waits_for_a_broker_that_is_not_there_yet_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    listener = Listener()
    with link(port, listener):
        until(lambda: "trying again" in caplog.text, 10, "the warning")
        made = Mosquitto(tmp_path / "late", port)
        try:
            made.start()
            listener.wait(Connected)
        finally:
            made.close()
    assert caplog.text.count("Connection refused") == 1


def test_the_limits_of_the_broker_are_told(tmp_path: Path) -> None:
    listener = Listener()
    with (
        mosquitto(tmp_path / "small", "max_inflight_messages 3\nmax_packet_size 20000") as small,
        link(small.port, listener),
    ):
        assert listener.wait(Connected) == Connected(1, 3, 20_000)


def test_a_refusal_is_told_with_its_reason(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    listener = Listener()
    with mosquitto(tmp_path / "strict", f"acl_file {acl}") as strict, link(strict.port, listener) as made:
        made.publish(listener.wait(Connected).connection, MESSAGES[0], b"")
        assert str(listener.wait(Acknowledged).failure) == "Not authorized"


def test_a_clean_end_publishes_no_last_will(broker: Mosquitto) -> None:
    watcher, listener = Listener(), Listener()
    watching = Link(
        Broker(host="127.0.0.1", port=broker.port),
        client_id="watcher",
        will=Will("other", b""),
        subscriptions=["telemetry/v1/plant/pump/status"],
        listener=watcher,
    )
    watching.start()
    with closing(watching):
        connection = watcher.wait(Connected).connection
        with link(broker.port, listener):
            listener.wait(Connected)
        watching.publish(connection, "telemetry/v1/plant/pump/status", b"marker")
        assert watcher.wait(Received).payload == b"marker"


def test_a_client_id_that_is_used_twice_is_said(broker: Mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    with link(broker.port, listener):
        listener.wait(Connected)
        with link(broker.port, Listener()):
            until(lambda: "does another client use the client id edge-pump" in caplog.text, 10, "the warning")


def test_a_wrong_password_is_said_and_the_right_one_is_found_in_the_file_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = shutil.which("mosquitto_passwd")
    if program is None:
        pytest.skip("mosquitto_passwd is not installed")
    passwords, secret = tmp_path / "passwords", tmp_path / "secret"
    subprocess.run([program, "-b", "-c", str(passwords), "pump", "right"], check=True)
    passwords.chmod(0o644)
    secret.write_text("not-it\n")
    listener = Listener()
    config = f"allow_anonymous false\npassword_file {passwords}"
    with (
        mosquitto(tmp_path / "closed", config) as closed,
        link(closed.port, listener, username="pump", password_file=str(secret)),
    ):
        until(lambda: "refused the connection: Not authorized" in caplog.text, 10, "the refusal")
        assert listener.events == []
        secret.unlink()
        until(lambda: f"password_file {secret}: No such file" in caplog.text, 10, "the missing file")
        secret.write_text("right\n")
        listener.wait(Connected)
    assert "not-it" not in caplog.text
    assert caplog.text.count("Not authorized") == 1


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_with_a_certificate_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = _certificates(tmp_path)
    config = (
        f"cafile {files['ca']}\ncertfile {files['server']}\nkeyfile {files['server_key']}\nrequire_certificate true"
    )
    listener, stranger = Listener(), Listener()
    tls = {"ca_file": str(files["ca"])}
    with mosquitto(tmp_path / "tls", config) as secure:
        own = {**tls, "certificate_file": str(files["client"]), "key_file": str(files["client_key"])}
        with link(secure.port, listener, tls=own) as made:
            connection = listener.wait(Connected).connection
            large = b"x" * 1_000_000
            made.publish(connection, MESSAGES[1], large)
            assert listener.wait(Received).payload == large
        with link(secure.port, stranger, tls={}):
            until(lambda: "certificate verify failed" in caplog.text, 10, "the mistrust of an unknown authority")
        assert stranger.events == []


def test_a_changed_certificate_is_used_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    files = {}
    for directory in (first, second):
        directory.mkdir()
        files[directory] = _certificates(directory)
    both = tmp_path / "authorities.pem"
    both.write_text("".join(found["ca"].read_text() for found in files.values()))
    own = files[first]
    config = f"cafile {both}\ncertfile {own['server']}\nkeyfile {own['server_key']}\nrequire_certificate true"
    used = {"ca_file": own["ca"], "certificate_file": own["client"], "key_file": own["client_key"]}
    listener = Listener()
    with (
        mosquitto(tmp_path / "tls", f"{config}\nuse_subject_as_username true\nlog_type all") as secure,
        link(secure.port, listener, tls={name: str(file) for name, file in used.items()}),
    ):
        listener.wait(Connected)
        files[second]["client"].replace(own["client"])
        until(lambda: "the connection stays as it is" in caplog.text, 20, "a certificate without its key to be refused")
        assert listener.all(Disconnected) == []
        files[second]["client_key"].replace(own["client_key"])
        listener.wait(Connected, 2)
    assert caplog.text.count("the files of broker.tls have changed") == 1


@pytest.mark.slow
def test_an_end_that_is_silent_is_left_within_one_and_a_half_keepalives(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    through, direct = Listener(), Listener()
    with (
        Proxy(broker.port) as proxy,
        link(proxy.port, through, keepalive_seconds=5),
        link(broker.port, direct, client_id="other", keepalive_seconds=5),
    ):
        through.wait(Connected)
        direct.wait(Connected)
        proxy.silence()
        through.wait(Disconnected)
        assert "silent for 1.5 keepalives" in caplog.text
        assert direct.all(Disconnected) == [], "who has nothing to say is not silent"


def _certificates(directory: Path) -> dict[str, Path]:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    files = {
        name: directory / f"{name}.pem" for name in ("ca", "ca_key", "server", "server_key", "client", "client_key")
    }

    def openssl(*arguments: str | Path) -> None:
        subprocess.run([program, *map(str, arguments)], check=True, capture_output=True)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *new_key, "-keyout", files["ca_key"], "-out", files["ca"], "-subj", "/CN=authority")
    for name in ("server", "client"):
        request, extensions = directory / f"{name}.csr", directory / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        openssl("req", *new_key, "-keyout", files[f"{name}_key"], "-out", request, "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", request, "-CA", files["ca"], "-CAkey", files["ca_key"], "-CAcreateserial"),
            *("-extfile", extensions, "-out", files[name]),
        )
    for file in files.values():
        file.chmod(0o644)
    return files


def test_a_broker_of_mqtt_3_only_is_named_as_a_possible_cause(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                connection.recv(1)
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        with link(server.getsockname()[1], Listener()):
            until(lambda: "does it speak MQTT 5?" in caplog.text, 10, "the hint")
            thread.join(10)


def test_a_broker_that_answers_nothing_does_not_keep_it_from_ending() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, link(server.getsockname()[1], Listener()) as made:
        connection, _ = server.accept()
        with connection:
            made.close()


def test_a_dropped_connection_is_followed_by_the_next(broker: Mosquitto) -> None:
    listener = Listener()
    with link(broker.port, listener) as made:
        listener.wait(Connected)
        made.drop()
        listener.wait(Disconnected)
        listener.wait(Connected, 2)


def test_it_works_with_a_broker_in_pure_python(tmp_path: Path, new_process: NewProcess) -> None:
    port = free_port()
    config = tmp_path / "amqtt.yaml"
    config.write_text(
        f"listeners: {{default: {{type: tcp, bind: '127.0.0.1:{port}'}}}}\n"
        "plugins: {amqtt.plugins.authentication.AnonymousAuthPlugin: {allow_anonymous: true}}\n"
    )
    new_process([Path(sys.executable).with_name("amqtt"), "-c", config]).start()
    listener = Listener()
    with link(port, listener, protocol="3.1.1") as made:
        connection = listener.wait(Connected).connection
        for number in range(50):
            made.publish(connection, MESSAGES[1], b"%d" % number)
        listener.wait(Acknowledged, 50)
        listener.wait(Received, 50)


def test_messages_of_others_are_received_whatever_they_hold(broker: Mosquitto) -> None:
    listener = Listener()
    with link(broker.port, listener):
        listener.wait(Connected)
        for payload in (b"", b"\x00\xff", b"x" * 100_000):
            paho.mqtt.publish.single(MESSAGES[1], payload, hostname=broker.host, port=broker.port)
        listener.wait(Received, 3)
        assert [len(event.payload) for event in listener.all(Received)] == [0, 2, 100_000]


@pytest.fixture(autouse=True)
def _log_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
