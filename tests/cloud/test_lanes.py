"""Two connections, so that the present does not queue behind the past."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from harness.broker import Mosquitto
from harness.wait import until
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from cloud_ingest import config
from cloud_ingest.ingest.lanes import Lanes
from cloud_ingest.ingest.source import Received

LIVE = "telemetry/v1/plant/pump/samples"
BACKLOG = "telemetry/v1/plant/pump/backlog"


@pytest.fixture
def lanes(broker: Mosquitto) -> Iterator[Lanes]:
    environ = {
        "CLOUD_INGEST_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "CLOUD_INGEST_BROKER__HOST": broker.host,
        "CLOUD_INGEST_BROKER__PORT": str(broker.port),
        "CLOUD_INGEST_INGEST__BACKLOG_RECEIVE_MAXIMUM": "40",
    }
    with closing(Lanes(config.load(None, environ))) as lanes:
        lanes.start()
        until(lambda: lanes.is_connected, 10, "both subscriptions")
        yield lanes


def send(broker: Mosquitto, topic: str, first: int, last: int) -> None:
    """Published and with the broker."""
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(0)
    client.connect(broker.host, broker.port)
    client.loop_start()
    for sent in [client.publish(topic, b"%d" % number, 1) for number in range(first, last + 1)]:
        sent.wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def of(received: list[Received], topic: str) -> list[int]:
    return [int(each.message.payload) for each in received if each.message.topic == topic]


def collect(lanes: Lanes, number: int) -> list[Received]:
    """So many messages, acknowledged as they come."""
    received: list[Received] = []

    def enough() -> bool:
        arrived = lanes.receive(1_000, 0.1)
        lanes.acknowledge(arrived)
        received.extend(arrived)
        return len(received) >= number

    until(enough, 20, f"{number} messages")
    return received


def test_live_messages_overtake_a_backlog_that_came_before(lanes: Lanes, broker: Mosquitto) -> None:
    send(broker, BACKLOG, 1, 300)
    send(broker, LIVE, 1, 100)
    received = collect(lanes, 400)
    assert of(received, LIVE) == list(range(1, 101))
    assert of(received, BACKLOG) == list(range(1, 301))
    last_live = max(index for index, each in enumerate(received) if each.message.topic == LIVE)
    assert len(of(received[last_live:], BACKLOG)) > 100


def test_only_so_much_backlog_is_taken_before_it_is_acknowledged(lanes: Lanes, broker: Mosquitto) -> None:
    send(broker, BACKLOG, 1, 100)
    taken: list[Received] = []

    def all_that_comes() -> bool:
        arrived = lanes.receive(1_000, 0.3)
        taken.extend(arrived)
        return not arrived and bool(taken)

    until(all_that_comes, 10, "the broker to hold back")
    assert of(taken, BACKLOG) == list(range(1, 41))
    send(broker, LIVE, 1, 1)
    assert of(collect(lanes, 1), LIVE) == [1]
    lanes.acknowledge(taken)
    assert of(collect(lanes, 60), BACKLOG) == list(range(41, 101))


def test_no_more_than_asked_for_is_given(lanes: Lanes, broker: Mosquitto) -> None:
    send(broker, BACKLOG, 1, 20)
    send(broker, LIVE, 1, 20)
    received: list[Received] = []
    for _ in range(40):
        arrived = lanes.receive(1, 5.0)
        assert len(arrived) == 1
        received += arrived
    assert sorted(of(received, LIVE)) == sorted(of(received, BACKLOG)) == list(range(1, 21))
    assert lanes.receive(10, 0.0) == []


def test_whoever_waits_is_woken_by_either_lane(lanes: Lanes, broker: Mosquitto) -> None:
    for topic in (BACKLOG, LIVE):
        sender = threading.Timer(0.3, send, (broker, topic, 7, 7))
        sender.start()
        assert of(lanes.receive(10, 20.0), topic) == [7]
        sender.join()


def test_both_lanes_return_after_the_broker_was_killed_and_an_old_token_acknowledges_nothing(
    lanes: Lanes, broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    send(broker, BACKLOG, 1, 3)
    send(broker, LIVE, 1, 3)
    old = collect(lanes, 6)
    broker.kill()
    until(lambda: not lanes.is_connected, 10, "the loss to be noticed")
    broker.start()
    until(lambda: lanes.is_connected, 20, "both subscriptions")
    send(broker, BACKLOG, 4, 6)
    send(broker, LIVE, 4, 6)
    lanes.acknowledge(old)
    received = collect(lanes, 6)
    assert (of(received, LIVE), of(received, BACKLOG)) == ([4, 5, 6], [4, 5, 6])
    said = [record.getMessage() for record in caplog.records]
    assert len([it for it in said if it.startswith("no broker at")]) == 1
    assert len([it for it in said if it.startswith("connected to the broker")]) == 1


def test_after_leaving_only_what_came_before_is_received(lanes: Lanes, broker: Mosquitto) -> None:
    send(broker, BACKLOG, 1, 5)
    send(broker, LIVE, 1, 5)
    lanes.leave(10)
    send(broker, BACKLOG, 6, 9)
    send(broker, LIVE, 6, 9)
    received = collect(lanes, 10)
    assert sorted(of(received, LIVE)) == sorted(of(received, BACKLOG)) == [1, 2, 3, 4, 5]
    assert lanes.receive(10, 0.3) == []
