"""Desired configuration in the cloud: asked for over the API, published by the worker, and what devices say of it."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx2
import pytest
from harness.api import ok, serving
from harness.broker import Mosquitto
from harness.cloud import at_work
from harness.device import Device
from harness.wait import until
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from cloud_ingest.store.database import connect
from cloud_ingest.store.desired import Wanted, want, wanted_since
from cloud_ingest.store.migrate import migrate
from cloud_ingest.worker import main
from cloud_ingest.worker.desired_publisher import is_unknown, payload
from telemetry_contract.codec import decode_desired
from telemetry_contract.desired import settings_of
from telemetry_contract.payload import DesiredState

ADDRESS = "/api/v1/devices/pump/config"
FAST = {"sampling": {"interval_seconds": 0.5}}
SLOW = {"sampling": {"interval_seconds": 60.0}, "labels": {"building": "north"}}

working = partial(at_work, main.run)


@pytest.fixture
def database(database_url: str) -> str:
    """With one device."""
    migrate(database_url)
    with connect(database_url, "test") as connection:
        connection.execute("insert into telemetry.device (name, site) values ('pump', 'plant'), ('fan', 'plant')")
    return database_url


@pytest.fixture
def client(database: str) -> Iterator[httpx2.Client]:
    with serving(database) as client:
        yield client


def put(client: httpx2.Client, settings: Any, address: str = ADDRESS) -> Any:
    response = client.put(address, json=settings)
    assert response.status_code == 200, response.text
    return response.json()


def retained(broker: Mosquitto) -> dict[str, bytes]:
    """What who subscribes now is told of configurations."""
    found: dict[str, bytes] = {}
    ended = threading.Event()

    def on_message(_client: Client, _userdata: Any, message: MQTTMessage) -> None:
        if message.topic == "end":
            ended.set()
        else:
            found[message.topic] = bytes(message.payload)

    def end(client: Client, *_: Any) -> None:
        client.publish("end")

    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = on_message
    client.on_subscribe = end
    client.connect(broker.host, broker.port)
    client.loop_start()
    client.subscribe([("end", 0), ("telemetry/v1/+/+/config", 1)])
    try:
        until(ended.is_set, 10, "the retained messages")
    finally:
        client.disconnect()
        client.loop_stop()
    return found


def test_what_is_wanted_is_told_back_with_a_new_version_each_time(client: httpx2.Client) -> None:
    empty = {"device": "pump", "version": None, "settings": None, "changed_at": None, "reported": None}
    assert ok(client, ADDRESS) == empty
    assert client.delete(ADDRESS).json() == empty
    first = put(client, FAST)
    assert first["settings"] == FAST
    assert ok(client, ADDRESS) == first
    again = put(client, FAST)
    assert again["version"] > first["version"]
    other = put(client, {}, "/api/v1/devices/fan/config")
    assert (other["settings"], other["version"] > again["version"]) == ({}, True)
    gone = client.delete(ADDRESS).json()
    assert (gone["settings"], gone["version"] > other["version"]) == (None, True)
    assert client.delete(ADDRESS).json() == gone, "nothing changed"


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_of_a_device_that_was_never_heard_of_nothing_is_wanted(client: httpx2.Client, method: str) -> None:
    body = FAST if method == "put" else None
    response = client.request(method.upper(), "/api/v1/devices/nobody/config", json=body)
    assert (response.status_code, response.json()["detail"]) == (404, "there is no device nobody")


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (b'{"broker":{"host":"x"}}', "broker", "is not a key that may be set"),
        (b'{"sampling":{"interval_seconds":0}}', "sampling.interval_seconds", "must be at least 0.05, got 0.0"),
        (b'{"labels":{"a-b":"c"}}', "labels.a-b", "is not the name of a label"),
        (b'{"labels":{"a":"\\u0000"}}', "labels.a", "must be 1 to 128 printable characters"),
        (b'{"collectors":{"a\\u0000":{}}}', "collectors.a\0", "is not the name of a collector"),
        (b"[]", "body", "must be object, got array"),
        (b"null", "body", "must be object, got null"),
        (b"{", "body", "must be JSON"),
    ],
)
def test_what_may_not_be_wanted_is_refused_with_its_key(
    client: httpx2.Client, body: bytes, field: str, message: str
) -> None:
    response = client.put(ADDRESS, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422, response.text
    [error] = response.json()["errors"]
    assert error["field"] == field
    assert error["message"].startswith(message)
    assert ok(client, ADDRESS)["version"] is None


def test_a_change_reaches_the_device_and_its_word_comes_back(
    client: httpx2.Client, database: str, broker: Mosquitto
) -> None:
    with Device(broker) as device, working(database, broker):
        version = put(client, FAST)["version"]
        until(lambda: device.configs, 15, "the configuration")
        sent = decode_desired(device.configs[0])
        assert (sent.version, settings_of(FAST).sampling) == (version, sent.sampling)
        reported = DesiredState(state="reverted", version=version, reason="no sample")
        device.send_status(desired=reported, time=1_700_000_000_000)
        until(lambda: ok(client, ADDRESS)["reported"], 15, "what the device says")
        told = ok(client, ADDRESS)["reported"]
        assert told.pop("at").endswith("Z")
        assert told == {"state": "reverted", "version": version, "reason": "no sample", "in_effect": None}
        client.delete(ADDRESS)
        until(lambda: device.configs[-1] == b"", 15, "the empty message")
    assert retained(broker) == {}


def test_a_broker_that_forgot_is_told_again_by_the_worker_that_meets_it(
    client: httpx2.Client, database: str, broker: Mosquitto
) -> None:
    first = put(client, FAST)["version"]
    topic = "telemetry/v1/plant/pump/config"
    with working(database, broker):
        until(lambda: topic in retained(broker), 15, "what was wanted before the worker began")
        broker.kill()
        broker.start()
        until(lambda: topic in retained(broker), 40, "what a new broker is told")
        assert decode_desired(retained(broker)[topic]).version == first
        second = put(client, SLOW)["version"]
        until(lambda: decode_desired(retained(broker)[topic]).version == second, 15, "the change")


def test_a_status_that_knows_an_earlier_version_is_answered(
    client: httpx2.Client, database: str, broker: Mosquitto
) -> None:
    with Device(broker) as device, Device(broker, "fan") as fan, working(database, broker):
        version = put(client, FAST)["version"]
        until(lambda: device.configs, 15, "the configuration")
        known = DesiredState(state="applied", version=version, in_effect=version)
        device.send_status(desired=known, time=1)
        fan.send_status(desired=known, time=1)
        put(client, FAST, "/api/v1/devices/fan/config")
        until(lambda: fan.configs, 15, "a message after that status was read")
        count = len(device.configs)
        device.send_status(time=2)  # as of a device with a new card
        until(lambda: len(device.configs) == count + 1, 15, "the answer")
        device.send_status(desired=DesiredState(state="refused", version=version + 7), time=3)
        until(lambda: len(device.configs) == count + 2, 15, "the answer to what it can't have heard")
        assert all(decode_desired(each).version == version for each in device.configs)
        assert count == 1, "one that knew it was answered"


def test_who_has_seen_a_version_has_seen_all_lower_ones(database: str) -> None:
    with connect(database, "slow") as slow, connect(database, "quick") as quick, connect(database, "reader") as reader:
        began = threading.Event()

        def write() -> None:
            with quick.transaction():
                began.set()
                want(quick, "fan", settings_of(FAST))

        other = threading.Thread(target=write)
        with slow.transaction():
            want(slow, "pump", settings_of(FAST))
            other.start()
            assert began.wait(10)
            waits = "select 1 from pg_stat_activity where application_name = 'quick' and wait_event_type = 'Lock'"
            until(lambda: reader.execute(waits).fetchone(), 10, "the other one to wait")
            assert wanted_since(reader, 0) == []
        other.join(10)
        assert [each.device for each in wanted_since(reader, 0)] == ["pump", "fan"]
        newest = wanted_since(reader, 0)[-1]
        assert wanted_since(reader, newest.version) == []


states = st.none() | st.builds(DesiredState, state=st.just("applied"), version=st.integers(1, 3))


@given(st.none() | st.just(FAST), st.integers(1, 3), states)
def test_only_what_a_device_does_not_know_is_sent(
    settings: dict[str, Any] | None, version: int, reported: DesiredState | None
) -> None:
    wanted = Wanted("plant", "pump", version, settings)
    knows = reported is not None and (settings is None or reported.version == version)
    if settings is None:
        assert is_unknown(wanted, reported) == knows
        assert payload(wanted) == b""
    else:
        assert is_unknown(wanted, reported) != knows
        assert json.loads(payload(wanted)) == {"v": 1, "version": version, **settings}
