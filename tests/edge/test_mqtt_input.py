import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness.broker import Mosquitto
from harness.ports import free_port
from harness.wait import until
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import publish

from edge_agent.collectors import mqtt_input as module
from edge_agent.collectors.formats import Found
from edge_agent.collectors.mqtt_input import MAX_PAYLOAD_BYTES, MqttInput, reader
from edge_agent.collectors.registry import groups
from edge_agent.config import Broker, Config, MqttTopic, load
from edge_agent.config import MqttInput as MqttInputConfig
from edge_agent.errors import CollectorError, ConfigError
from edge_agent.statistics import Statistics
from edge_agent.topic_pattern import TopicPattern


@pytest.mark.parametrize(
    ("pattern", "topic", "labels"),
    [
        ("a/b", "a/b", {}),
        ("a/b", "a/c", None),
        ("a/b", "a", None),
        ("a/b", "a/b/c", None),
        ("a/+/c", "a/b/c", {}),
        ("a/{x}/c", "a/b/c", {"x": "b"}),
        ("{x}/{y}", "a/b", {"x": "a", "y": "b"}),
        ("a/{x}", "a/", {"x": ""}),
        ("a/#", "a/b/c", {}),
        ("a/#", "a", {}),
        ("a/{x}/#", "a/b/c/d", {"x": "b"}),
        ("a/{x}/#", "a", None),
        ("#", "a/b", {}),
        ("#", "$SYS/x", None),
        ("+/x", "$SYS/x", None),
        ("{a}/x", "$SYS/x", None),
        ("$SYS/{x}", "$SYS/uptime", {"x": "uptime"}),
    ],
)
def test_topics_match_and_give_labels(pattern: str, topic: str, labels: dict[str, str] | None) -> None:
    assert TopicPattern.parse(pattern).labels(topic) == labels


def test_a_label_is_any_level_to_the_broker() -> None:
    assert TopicPattern.parse("zigbee2mqtt/{sensor}/+/#").filter == "zigbee2mqtt/+/+/#"


@pytest.mark.parametrize(
    "pattern", ["", "a/b+", "a/#/b", "a#", "{a", "a/x{b}", "{1}", "{a}/{a}", "a\0", "a" * 70_000, "{}"]
)
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"^(be|have|name) "):
        TopicPattern.parse(pattern)


@given(st.text(alphabet="a/+#{}$", max_size=8), st.text(alphabet="ab/$", max_size=8))
def test_any_text_is_a_pattern_or_refused(pattern: str, topic: str) -> None:
    try:
        parsed = TopicPattern.parse(pattern)
    except ValueError:
        return
    assert parsed.filter.count("/") == pattern.count("/")
    parsed.labels(topic)


ZIGBEE = {
    "topic": "zigbee2mqtt/{sensor}",
    "values": {
        "room_temperature_celsius": "temperature",
        "room_humidity_percent": "humidity",
        'link_quality{radio="zigbee"}': "link.0.quality",
    },
}


def read(topic: Mapping[str, Any], payload: str | bytes, labels: Mapping[str, str] | None = None) -> Found:
    section = MqttTopic.of({"topic": "a", **topic})
    return reader(section)(labels or {}, payload.encode() if isinstance(payload, str) else payload)


def test_values_at_paths_of_a_document_become_series_with_the_labels_of_the_topic() -> None:
    payload = json.dumps({"temperature": 21.5, "humidity": "48", "link": [{"quality": True}], "other": {"x": 1}})
    assert read(ZIGBEE, payload, {"sensor": "kitchen"}) == (
        {
            'room_temperature_celsius{sensor="kitchen"}': 21.5,
            'room_humidity_percent{sensor="kitchen"}': 48.0,
            'link_quality{radio="zigbee",sensor="kitchen"}': 1.0,
        },
        [],
    )


def test_what_a_document_does_not_have_is_not_missed() -> None:
    assert read(ZIGBEE, '{"temperature": null, "link": {"0": 5}}') == ({}, [])
    assert read(ZIGBEE, "[1, 2]") == ({}, [])
    assert read({"values": {"a": "9.x"}}, "[1, 2]") == ({}, [])
    assert read({"values": {"a": "1"}}, "[1, 2]") == ({"a": 2.0}, [])


def test_a_label_of_the_series_comes_before_that_of_the_topic() -> None:
    assert read({"format": "number", "series": 'a{x="own"}'}, "1", {"x": "topic", "y": "z"}) == (
        {'a{x="own",y="z"}': 1.0},
        [],
    )


@pytest.mark.parametrize(
    ("payload", "value"),
    [("21.5", 21.5), (" -3 \n", -3.0), ("+.5e1", 5.0), ("ON", 1.0), ("false", 0.0), ("1e999", float("inf"))],
)
def test_a_payload_that_is_a_number_or_a_truth_value(payload: str, value: float) -> None:
    found, unusable = read({"format": "number", "series": "a"}, payload)
    assert unusable == []
    assert found == {"a": value}


@pytest.mark.parametrize("payload", ["", "x", "1_000", "0x10", "nan", "1,5", b"\xff", "٣"])
def test_a_payload_that_is_none_is_left_out(payload: str | bytes) -> None:
    found, unusable = read({"format": "number", "series": "a"}, payload)
    assert found == {}
    assert len(unusable) == 1
    assert unusable[0].startswith("a must be a number, got ")


def test_values_that_are_no_numbers_are_left_out_and_the_others_taken() -> None:
    found, unusable = read(ZIGBEE, '{"temperature": 1, "humidity": "wet"}')
    assert found == {"room_temperature_celsius": 1.0}
    assert unusable == ['room_humidity_percent must be a number, got "wet"']
    assert read({"values": {"a": "x"}}, '{"x": {"y": 1}}')[1] == ['a must be a number, got {"y": 1}']
    assert read({"values": {"a": "x"}}, f'{{"x": 1{"0" * 400}}}')[1][0].startswith("a must be a number")


def test_objects_of_series_and_line_protocol_take_the_labels_too() -> None:
    labels = {"room": "attic"}
    assert read({}, '{"a": 1, "b{room=\\"x\\"}": null}', labels) == ({'a{room="attic"}': 1.0, 'b{room="x"}': None}, [])
    assert read({"format": "influx"}, "m,x=y value=1 5", labels) == ({'m{room="attic",x="y"}': 1.0}, [])


def test_a_topic_whose_name_can_not_be_a_label_is_left_out() -> None:
    found, unusable = read({"format": "number", "series": "a"}, "1", {"x": "\x07"})
    assert found == {}
    assert "control character" in unusable[0]


@pytest.mark.parametrize("topic", [{}, {"format": "influx"}, {"values": {"a": "x"}}])
def test_what_is_not_of_the_format_is_said(topic: Mapping[str, Any]) -> None:
    with pytest.raises(CollectorError, match=r"^sent "):
        read(topic, b"\xff{")


@given(st.binary(max_size=40), st.sampled_from([{}, {"format": "influx"}, {"values": {"a": "x.0"}}]))
def test_any_payload_is_read_or_refused(payload: bytes, topic: Mapping[str, Any]) -> None:
    with suppress(CollectorError):
        found, unusable = read(topic, payload, {"l": "x"})
        assert all('l="x"' in key for key in found)
        assert all(unusable)


class Counted:
    def __init__(self, broker: Broker, *topics: Mapping[str, Any]) -> None:
        self.rejected = self.superseded = 0
        config = MqttInputConfig.of({"name": "zigbee", "topics": list(topics)})
        self.collector = MqttInput(config, broker, "edge-pump-input-zigbee", self._reject, self._supersede)

    def _reject(self, values: int) -> None:
        self.rejected += values

    def _supersede(self, values: int) -> None:
        self.superseded += values


@contextmanager
def connected(broker: Mosquitto, *topics: Mapping[str, Any]) -> Iterator[Counted]:
    """Subscribed: a message that is published now arrives."""
    canary = {"topic": "canary", "format": "number", "series": "canary"}
    it = Counted(Broker(host=broker.host, port=broker.port), canary, *topics)
    try:
        sent = heard = 0.0

        def hear() -> float:
            nonlocal heard
            heard = it.collector.collect().get("canary") or heard
            return heard

        def hears() -> bool:
            nonlocal sent
            sent += 1
            send(broker, "canary", str(sent))
            return hear() > 0

        until(hears, 20, "the subscription")
        until(lambda: hear() == sent, 10, "the last canary")  # any before it have come, or never will
        it.superseded = 0
        yield it
    finally:
        it.collector.close()


def send(broker: Mosquitto, topic: str, payload: str | bytes, *, retain: bool = False) -> None:
    publish.single(topic, payload, qos=1, retain=retain, hostname=broker.host, port=broker.port)


def next_values(collector: MqttInput) -> dict[str, float | None]:
    found = until(collector.collect, 10, "something to come")
    return {key: value for key, value in found.items() if key != "canary"}


def test_what_devices_publish_is_what_the_next_tick_takes(broker: Mosquitto) -> None:
    with connected(broker, ZIGBEE, {"topic": "meter/power", "format": "number", "series": "power_watts"}) as it:
        send(broker, "zigbee2mqtt/kitchen", '{"temperature": 21.5}')
        assert next_values(it.collector) == {'room_temperature_celsius{sensor="kitchen"}': 21.5}
        send(broker, "meter/power", "1200")
        expected = {'room_temperature_celsius{sensor="kitchen"}': None, "power_watts": 1200.0}
        assert next_values(it.collector) == expected
        send(broker, "meter/other", "5")
        send(broker, "meter/power", "1")
        send(broker, "meter/power", "2")
        until(lambda: it.superseded == 1, 10, "both")
        assert next_values(it.collector)["power_watts"] == 2.0
        assert it.rejected == 0


def test_what_can_not_be_used_is_counted_and_told(broker: Mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    with connected(broker, ZIGBEE) as it:
        for payload in ("{", '{"temperature": "warm"}', b" " * (MAX_PAYLOAD_BYTES + 1)):
            send(broker, "zigbee2mqtt/kitchen", payload)
        until(lambda: it.rejected == 3, 10, "three counts")
        assert it.collector.collect() == {}
    assert "collector mqtt_input.zigbee leaves out: zigbee2mqtt/kitchen: sent what is not JSON" in caplog.text
    assert f"a message of {MAX_PAYLOAD_BYTES + 1} bytes, more than {MAX_PAYLOAD_BYTES}" in caplog.text


def test_retained_messages_are_of_unknown_age_and_not_taken(broker: Mosquitto) -> None:
    send(broker, "zigbee2mqtt/old", '{"temperature": 1}', retain=True)
    with connected(broker, ZIGBEE) as it:
        send(broker, "zigbee2mqtt/new", '{"temperature": 2}')
        assert next_values(it.collector) == {'room_temperature_celsius{sensor="new"}': 2.0}


def test_a_broker_that_is_away_is_a_failure_until_it_is_back(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(broker, ZIGBEE) as it:
        monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
        broker.kill()

        def failure() -> str:
            try:
                it.collector.collect()
            except CollectorError as exc:
                return str(exc)
            return ""

        expected = f"is not connected to the broker at {broker.host}:{broker.port}"
        until(lambda: failure() == expected, 10, "the failure")
        broker.start()
        until(lambda: failure() == "", 20, "the connection")


def test_a_broker_that_was_never_there_is_given_time_and_then_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Counted(Broker(host="127.0.0.1", port=free_port()), ZIGBEE)
    try:
        assert it.collector.collect() == {}
        monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
        with pytest.raises(CollectorError, match="is not connected"):
            it.collector.collect()
    finally:
        it.collector.close()
    assert it.collector.collect() == {}


def test_an_input_that_was_never_asked_connects_to_nothing() -> None:
    Counted(Broker(host="127.0.0.1", port=1), ZIGBEE).collector.close()


def test_it_takes_the_agents_broker_unless_it_has_one_of_its_own() -> None:
    config = Config.of(
        {
            "broker": {"host": "ours"},
            "collectors": {
                "mqtt_input": [
                    {"name": "a", "topics": [{"topic": "x"}]},
                    {"name": "b", "broker": {"host": "other"}, "topics": [{"topic": "x"}], "interval_seconds": 7},
                ]
            },
        }
    )
    found = {
        member.name: (group.interval_seconds, member.collector)
        for group in groups(config, Statistics())
        for member in group.members
        if member.name.startswith("mqtt_input.")
    }
    hosts = {name: it._broker.host for name, (_, it) in found.items() if isinstance(it, MqttInput)}  # noqa: SLF001
    assert hosts == {"mqtt_input.a": "ours", "mqtt_input.b": "other"}
    assert [interval for interval, _ in found.values()] == [5, 7]


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("{topic: a/#/b}", "topics[0].topic must have + as a whole level, and # as the last one alone, got 'a/#/b'"),
        ("{topic: a, format: number}", "topics[0] must set series where the format is number, and only there"),
        ("{topic: a, series: b}", "topics[0] must set series where the format is number, and only there"),
        (
            "{topic: a, format: influx, values: {b: c}}",
            "topics[0] must set values only where the format is json",
        ),
        ("{topic: a, format: number, series: no good}", "topics[0].series must be a series key like"),
        ("{topic: a, values: {b: ''}}", "topics[0].values.b must not be empty, got ''"),
    ],
)
def test_problems_of_the_configuration(topic: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "edge.yaml"
    file.write_text(f"collectors:\n  mqtt_input:\n    - name: zigbee\n      topics: [{topic}]\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert str(caught.value).startswith(f"collectors.mqtt_input[0].{expected}")
    assert str(caught.value).endswith(f"({file} line 4)")


def test_a_password_file_of_its_own_broker_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "edge.yaml"
    file.write_text(
        "collectors:\n  mqtt_input:\n    - name: zigbee\n      topics: [{topic: a}]\n"
        "      broker:\n        username: x\n        password_file: /nonexistent\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert str(caught.value) == (
        f"collectors.mqtt_input[0].broker.password_file /nonexistent: No such file or directory ({file} line 7)"
    )


def test_two_inputs_need_two_names(tmp_path: Path) -> None:
    file = tmp_path / "edge.yaml"
    one = "    - {name: a, topics: [{topic: x}]}\n"
    file.write_text(f"collectors:\n  mqtt_input:\n{one}{one}")
    with pytest.raises(ConfigError, match="must give each mqtt_input a name of its own: a is taken"):
        load(file, {})
