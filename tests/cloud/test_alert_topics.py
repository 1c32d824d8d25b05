"""Open alerts on retained topics: what the broker holds becomes what the database says, whatever happens to either."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness import alerts
from harness.api import Source
from harness.broker import Mosquitto
from harness.cloud import at_work
from harness.ports import free_port
from harness.wait import until
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from cloud_ingest.store.migrate import migrate
from cloud_ingest.worker import main
from cloud_ingest.worker.alert_topics import differences
from telemetry_contract.alerts import FILTER, alert_topic
from telemetry_contract.errors import InvalidTopic

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schema/telemetry-v1.schema.json").read_text())
TOPIC = "telemetry/v1/plant/pump/alerts/hot"

working = partial(at_work, main.run)


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    alerts.threshold(database_url)
    return database_url


@contextmanager
def listening(broker: Mosquitto) -> Iterator[dict[str, Any]]:
    """What is retained, kept up to date until the block ends: topic -> document."""
    held: dict[str, Any] = {}

    def arrive(_client: Client, _userdata: object, message: MQTTMessage) -> None:
        if message.payload:
            held[message.topic] = json.loads(message.payload)
        else:
            held.pop(message.topic, None)

    def subscribe(client: Client, *_: object) -> None:
        client.subscribe(FILTER, 1)

    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = arrive
    client.on_connect = subscribe
    client.connect(broker.host, broker.port)
    client.loop_start()
    try:
        yield held
    finally:
        client.disconnect()
        client.loop_stop()


def test_an_open_alert_is_retained_until_it_ends(url: str, broker: Mosquitto) -> None:
    now = alerts.now_ms()
    pump, other = Source(url, "pump"), 'temperature_celsius{sensor="oil"}'
    with working(url, broker), listening(broker) as held:
        alerts.episode(pump, now, None)
        until(lambda: TOPIC in held, 30, "the alert")
        document = held[TOPIC]
        Draft202012Validator(SCHEMA).validate(document)
        assert document == {
            "v": 1,
            "rule": "hot",
            "severity": "warning",
            "since": now,
            "alerts": [{"series": "temperature_celsius", "severity": "warning", "state": "firing", "since": now}],
        }
        alerts.episode(pump, now, None, 95.0, other)
        until(lambda: len(held[TOPIC]["alerts"]) == 2, 30, "the second series")
        assert (held[TOPIC]["severity"], held[TOPIC]["alerts"][1]["series"]) == ("critical", other)
        pump.write({now + 1_000: {"temperature_celsius": 0.0}, now + 1_001: {other: 0.0}})
        until(lambda: TOPIC not in held, 30, "the end")
    with listening(broker) as after:
        assert TOPIC not in after


@pytest.mark.slow
def test_a_broker_that_forgot_is_told_again_and_what_ended_meanwhile_is_cleared(url: str, tmp_path: Path) -> None:
    now = alerts.now_ms()
    pump, valve = Source(url, "pump"), Source(url, "valve")
    broker = Mosquitto(tmp_path / "broker", free_port())
    broker.start()
    try:
        with working(url, broker), listening(broker) as held:
            alerts.episode(pump, now, None)
            until(lambda: TOPIC in held, 30, "the alert")
            broker.kill()
            held.clear()
            broker.start()
            until(lambda: TOPIC in held, 60, "the alert at the broker that forgot it")
            alerts.episode(valve, now, None)
            until(lambda: len(held) == 2, 30, "another")
        # Nobody is there to clear it
        valve.write({now + 1_000: {"temperature_celsius": 0.0}})
        with listening(broker) as held:
            until(lambda: len(held) == 2, 30, "what is still retained")
            with working(url, broker), working(url, broker):
                until(lambda: list(held) == [TOPIC], 30, "what has ended to be cleared by the next workers")
    finally:
        broker.close()


def test_without_the_setting_nothing_is_published(url: str, broker: Mosquitto) -> None:
    alerts.episode(Source(url, "pump"), alerts.now_ms(), None)
    with working(url, broker, NOTIFICATIONS__MQTT_TOPICS="false"), listening(broker) as held:
        until(lambda: _worker_listens(broker), 30, "the worker at the broker")
    assert held == {}
    assert "cloud-alerts-" not in broker.output()


def _worker_listens(broker: Mosquitto) -> bool:
    return "cloud-worker-" in broker.output()


payload_sets = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([b"1", b"2"]))


@given(payload_sets, payload_sets)
def test_what_is_published_makes_the_broker_hold_what_is_wanted(
    wanted: dict[str, bytes], held: dict[str, bytes]
) -> None:
    changed = differences(wanted, held)
    after = {topic: payload for topic, payload in {**held, **changed}.items() if payload}
    assert after == wanted
    assert differences(wanted, after) == {}


@pytest.mark.parametrize("rule", ["", "a/b", "a+", "#", "a\0"])
def test_a_name_that_can_not_be_part_of_a_topic_makes_none(rule: str) -> None:
    with pytest.raises(InvalidTopic):
        alert_topic("plant", "pump", rule)
