"""Each broker that `up` may start, really started and used as the agent and the ingester use it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import paho.mqtt.client as mqtt
import psutil
import pytest
from harness.absence import Absent, skip_or_fail
from harness.wait import until
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from telemetry_bridge import broker, ports
from telemetry_bridge.broker import BrokerChoice
from telemetry_bridge.child import Child
from telemetry_bridge.errors import CannotStart
from telemetry_bridge.logs import PartLog

PROTOCOLS = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}


@pytest.fixture(params=[BrokerChoice.MOSQUITTO, BrokerChoice.AMQTT])
def started(
    request: pytest.FixtureRequest, tmp_path: Path, free_port: Callable[[], int]
) -> Iterator[tuple[broker.Broker, Child, int]]:
    port = free_port()
    try:
        chosen = broker.choose(request.param, port=port, config=tmp_path / "mosquitto.conf", environ=os.environ)
    except CannotStart as exc:
        skip_or_fail(Absent(str(exc)))
    child = Child(chosen.part(os.environ), PartLog(tmp_path / "broker.log"))
    until(lambda: ports.accepts(port) or child.exit_code is not None, 20, "the broker")
    assert child.exit_code is None, child.failure()
    yield chosen, child, port
    child.end(hurry=lambda: True)


def test_messages_pass_in_the_protocol_that_the_roles_are_told(started: tuple[broker.Broker, Child, int]) -> None:
    chosen, _, port = started
    received: SimpleQueue[bytes] = SimpleQueue()
    subscribed: SimpleQueue[bool] = SimpleQueue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=PROTOCOLS[chosen.protocol])
    client.on_message = lambda _client, _userdata, message: received.put(bytes(message.payload))
    client.on_subscribe = lambda _client, _userdata, _mid, codes, _properties: subscribed.put(not codes[0].is_failure)
    client.connect("127.0.0.1", port)
    client.loop_start()
    topic = "telemetry/v1/+/+/samples"
    client.subscribe(f"$share/group/{topic}" if chosen.shared_subscriptions else topic, qos=1)
    assert subscribed.get(timeout=10)
    client.publish("telemetry/v1/site/device/samples", b"tick", qos=1).wait_for_publish(10)
    assert received.get(timeout=10) == b"tick"
    client.disconnect()
    client.loop_stop()


def test_only_this_machine_reaches_it(started: tuple[broker.Broker, Child, int]) -> None:
    _, child, port = started
    family = [child.process, *child.process.children(recursive=True)]
    listening = {
        connection.laddr
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", port)}


def test_it_ends_when_asked(started: tuple[broker.Broker, Child, int]) -> None:
    _, child, port = started
    assert child.end(hurry=lambda: False)
    assert child.exit_code == 0, child.failure()
    assert not ports.accepts(port)


def test_mosquitto_is_found_where_packages_put_it_although_the_path_does_not_lead_there(tmp_path: Path) -> None:
    try:
        chosen = broker.choose(BrokerChoice.MOSQUITTO, port=1, config=tmp_path / "c", environ={"PATH": "/nowhere"})
    except CannotStart as exc:
        skip_or_fail(Absent(str(exc)))
    assert Path(chosen.command[0]).is_file()


def test_without_mosquitto_the_python_broker_is_taken_unless_mosquitto_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "_USUAL_DIRECTORIES", ())
    config = tmp_path / "mosquitto.conf"
    chosen = broker.choose(BrokerChoice.AUTO, port=1, config=config, environ={"PATH": str(tmp_path)})
    assert chosen.name == "amqtt"
    assert not config.exists()
    with pytest.raises(CannotStart, match="apt-get install mosquitto"):
        broker.choose(BrokerChoice.MOSQUITTO, port=1, config=config, environ={"PATH": str(tmp_path)})
