"""Properties of desired configurations: what is decoded is whole, within its bounds, and as the schema says."""

import json
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from telemetry_contract import codec
from telemetry_contract.desired import (
    MAX_COLLECTORS,
    MAX_LABELS,
    DesiredCollector,
    DesiredConfig,
    DesiredSampling,
    DesiredSettings,
    check,
    settings_of,
)
from telemetry_contract.errors import MalformedPayload, PayloadError
from telemetry_contract.payload import MAX_SEQUENCE

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schema/telemetry-v1.schema.json").read_text())
VALIDATOR = Draft202012Validator({"$ref": "#/$defs/config", "$defs": SCHEMA["$defs"]})

intervals = st.none() | st.floats(0.05, 86_400)
names = st.from_regex(r"[a-z][a-z0-9_]{0,9}(\.[A-Za-z0-9_.-]{1,9})?", fullmatch=True)
label_names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,9}", fullmatch=True)
label_values = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.isprintable)
collectors = st.builds(DesiredCollector, enabled=st.none() | st.booleans(), interval_seconds=intervals)
configs = st.builds(
    DesiredConfig,
    v=st.just(1),
    version=st.integers(1, MAX_SEQUENCE),
    sampling=st.none() | st.builds(DesiredSampling, interval_seconds=intervals),
    collectors=st.none() | st.dictionaries(names, collectors, max_size=4),
    labels=st.none() | st.dictionaries(label_names, label_values, max_size=4),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(configs)
def test_a_desired_configuration_survives_the_wire_and_follows_the_schema(config: DesiredConfig) -> None:
    payload = codec.encode(config).payload
    assert codec.decode_desired(payload) == config
    assert codec.desired_version(payload) == config.version
    VALIDATOR.validate(json.loads(payload))


@given(configs, st.data())
def test_what_is_decoded_of_a_spoiled_one_follows_the_schema(config: DesiredConfig, data: st.DataObject) -> None:
    document = json.loads(codec.encode(config).payload)
    fields = ["v", "version", "sampling", "collectors", "labels", data.draw(st.text(max_size=5))]
    document[data.draw(st.sampled_from(fields))] = data.draw(json_values)
    with suppress(PayloadError):  # any other exception fails the test
        decoded = codec.decode_desired(json.dumps(document).encode())
        VALIDATOR.validate(document)
        assert json.loads(codec.encode(decoded).payload).keys() <= document.keys()


@given(st.binary(max_size=200))
def test_any_bytes_name_a_version_or_none(payload: bytes) -> None:
    version = codec.desired_version(payload)
    assert version is None or 1 <= version <= MAX_SEQUENCE


def test_the_version_of_one_that_is_refused_is_known() -> None:
    payload = b'{"v":1,"version":12,"broker":{"host":"elsewhere"}}'
    assert codec.desired_version(payload) == 12
    with pytest.raises(PayloadError, match="broker is not a key that may be set"):
        codec.decode_desired(payload)


TOO_MUCH = [
    ({"sampling": {"interval_seconds": 86_401}}, "sampling.interval_seconds must be at most 86400, got 86401.0"),
    ({"sampling": {"interval_seconds": True}}, "sampling.interval_seconds must be float"),
    ({"sampling": {"interval": 5}}, "sampling.interval is not a key that may be set"),
    ({"collectors": {"cpu": {"interval_seconds": 0}}}, "collectors.cpu.interval_seconds must be at least 0.05, got 0"),
    ({"collectors": {f"c{i}": {} for i in range(MAX_COLLECTORS + 1)}}, "collectors must name at most 256, got 257"),
    ({"labels": {f"l{i}": "x" for i in range(MAX_LABELS + 1)}}, "labels must be at most 16, got 17"),
    ({"labels": {"room": ""}}, "labels.room must be 1 to 128 printable characters"),
    ({"labels": {"room": 5}}, "labels.* must be str, got int"),
    ([], "must be object, got array"),
]


@pytest.mark.parametrize(("document", "message"), TOO_MUCH)
def test_what_is_out_of_bounds_is_said_with_its_key(document: object, message: str) -> None:
    with pytest.raises(MalformedPayload) as caught:
        settings_of(document)
    assert message in str(caught.value)


def test_no_interval_that_is_not_a_number_passes() -> None:
    with pytest.raises(MalformedPayload):
        check(DesiredSettings(sampling=DesiredSampling(interval_seconds=float("nan"))))


def test_what_is_not_named_is_not_sent() -> None:
    assert msgspec.json.encode(DesiredSettings(collectors={"cpu": DesiredCollector()})) == b'{"collectors":{"cpu":{}}}'
