"""What other publishers send, understood: a folder of data for each case, and bytes of every kind."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cloud_ingest.foreign.blocks import Bounds, decode_foreign
from cloud_ingest.foreign.interpretation import Interpreter
from cloud_ingest.foreign.settings import ForeignSource
from cloud_ingest.ingest.decoders import interpreter_of
from cloud_ingest.message import Message
from cloud_ingest.store.batch import Block
from cloud_ingest.store.rejected import Rejection

CASES = sorted(path for path in (Path(__file__).parent / "foreign").iterdir() if path.is_dir())
NOW_MS = 1_795_000_020_000
BOUNDS = Bounds(max_message_bytes=10_000, max_future_ms=3_600_000, max_age_ms=86_400_000)

source_of: TypeAdapter[ForeignSource] = TypeAdapter(ForeignSource)


def interpreter(**settings: Any) -> Interpreter:
    return interpreter_of("source", source_of.validate_python(settings), lambda _group, _node: None)


TELEGRAF = interpreter(format="influx", topics=["telegraf/#"])
SENSORS = interpreter(
    format="json",
    topics=["sensors/+"],
    device={"topic_level": 2},
    time={"field": "t", "unit": "ms"},
    metrics=[{"field": "a", "metric": "a"}, {"field": "b", "metric": "b"}],
)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_example_of_a_publisher_is_understood(case: Path) -> None:
    given_ = yaml.safe_load((case / "case.yaml").read_text())
    expected = yaml.safe_load((case / "expected.yaml").read_text())
    understands = interpreter(**given_["source"])
    for each in given_.get("before", []):
        understands.interpret(Message(each["topic"], b""), bytes.fromhex(each["hex"]), NOW_MS)
    found = understands.interpret(Message(given_["topic"], b""), (case / "payload").read_bytes(), NOW_MS)
    readings = [
        {
            "device": reading.device,
            "time_ms": reading.time_ms,
            "values": {
                key: None if math.isnan(value) else value
                for key, value in zip(reading.keys, reading.values, strict=True)
            },
        }
        for reading in found.readings
    ]
    assert readings == expected["readings"]
    assert [problem.reason for problem in found.problems] == expected["problems"]
    assert {reading.site for reading in found.readings} <= {given_["source"].get("site", "default")}


def decoded(
    payload: bytes, interpreter: Interpreter = TELEGRAF, topic: str = "telegraf/web01/x", *, retained: bool = False
) -> tuple[list[Block], list[Rejection]]:
    message = Message(topic, payload, retained=retained, received_ms=NOW_MS)
    parts = decode_foreign(message, interpreter, BOUNDS, NOW_MS)
    return [it for it in parts if isinstance(it, Block)], [it for it in parts if isinstance(it, Rejection)]


def test_readings_with_the_same_series_make_one_block() -> None:
    blocks, rejections = decoded(b"t a=1 1795000010000000000\nt b=5 1795000010000000000\nt a=2 1795000011000000000\n")
    assert rejections == []
    assert [(it.device, it.keys, it.times_ms.tolist(), it.samples.tolist()) for it in blocks] == [
        ("web01", ("t_a",), [1_795_000_010_000, 1_795_000_011_000], [[1.0], [2.0]]),
        ("web01", ("t_b",), [1_795_000_010_000], [[5.0]]),
    ]


def test_reading_without_a_time_gets_that_of_its_arrival() -> None:
    blocks, _ = decoded(b"t value=1\n")
    assert blocks[0].times_ms.tolist() == [NOW_MS]


def test_retained_value_without_a_time_is_of_unknown_age_and_is_left_out() -> None:
    assert decoded(b"t value=1\n", retained=True) == ([], [])
    blocks, _ = decoded(b"t value=1\nt value=2 1795000010000000000\n", retained=True)
    assert [it.samples.tolist() for it in blocks] == [[[2.0]]]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"t value=1 1795003621000000000", "in_the_future"),
        (b"t value=1 1794913619000000000", "too_old"),
        (b"t value=1 -9223372036854775807", "too_old"),
        (b"\xff\xfe", "malformed"),
        (b"t value=1\n" * 1_001, "too_large"),
        (b"t,a\\ b=1,a_b=2 value=1", "invalid_series_key"),
    ],
)
def test_what_can_not_be_stored_is_parked_with_a_reason(payload: bytes, reason: str) -> None:
    blocks, rejections = decoded(payload)
    assert (blocks, [it.reason for it in rejections]) == ([], [reason])


def test_measurement_may_begin_as_a_compressed_payload_of_ours_does() -> None:
    blocks, rejections = decoded(b"x^ value=2\n")  # 0x785e is also how zlib may begin
    assert ([it.keys for it in blocks], rejections) == ([("x_",)], [])


def test_one_bad_line_keeps_no_neighbour_from_being_stored_and_is_named() -> None:
    blocks, rejections = decoded(b"t value=1\nt value=\nt value=2\n")
    assert [it.samples.tolist() for it in blocks] == [[[1.0], [2.0]]]
    assert rejections[0].detail.startswith("line 2 column 9")


def test_topic_without_the_level_of_the_device_is_parked() -> None:
    _, rejections = decoded(b"t value=1", topic="telegraf")
    assert [it.reason for it in rejections] == ["invalid_device"]


def test_numbers_beyond_what_a_double_holds_are_no_value() -> None:
    blocks, rejections = decoded(b'{"a": 1e308, "b": 1e999}', SENSORS, "sensors/x")
    assert ([it.samples.tolist() for it in blocks], len(rejections)) == ([], 1)


@given(st.binary(max_size=300), st.text(max_size=40), st.sampled_from([TELEGRAF, SENSORS]), st.booleans())
def test_no_bytes_and_no_topic_make_it_fail(payload: bytes, topic: str, which: Interpreter, retained: bool) -> None:  # noqa: FBT001 - Hypothesis gives it
    blocks, rejections = decoded(payload, which, topic, retained=retained)
    assert len(rejections) <= 1
    for block in blocks:
        assert block.samples.shape == (len(block.times_ms), len(block.keys))


@pytest.mark.parametrize(
    ("which", "payload", "texts", "values"),
    [
        (TELEGRAF, b't a=1,b="x",c="y"\nt d="z"\n', 3, 1),
        (SENSORS, b'[{"a": 1, "state": "on"}, {"b": 2, "t": 1795000010000, "c": null, "d": ["x"]}]', 1, 4),
        (SENSORS, b'{"a": "warm"}', 0, 0),  # what is wanted and is text is parked
    ],
)
def test_values_that_are_text_are_counted(which: Interpreter, payload: bytes, texts: int, values: int) -> None:
    found = which.interpret(Message("sensors/x", b""), payload, NOW_MS)
    assert (found.texts, sum(len(it.values) for it in found.readings)) == (texts, values)


numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers())


@given(st.dictionaries(st.sampled_from(["a", "b", "t", "c"]), numbers))
def test_no_json_makes_it_fail(content: dict[str, Any]) -> None:
    payload = repr(content).replace("'", '"').replace("None", "null").replace("True", "true").replace("False", "false")
    blocks, rejections = decoded(payload.encode(), SENSORS, "sensors/x")
    assert len(blocks) + len(rejections) == 1


# Settings


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": "avro"}, "format"),
        ({"topics": []}, "topics"),
        ({"topics": ["a/#/b"]}, "topic filter"),
        ({"topics": ["$share/g/a"]}, "can't be shared"),
        ({"topics": ["telemetry/v1/+/+/samples"]}, "our own agents"),
        ({"topics": ["#"]}, "our own agents"),
        ({"device": {"field": "id"}}, "not by a field"),
        ({"device": {}}, "one of"),
        ({"device": {"tag": "host", "topic_level": 2}}, "one of"),
        ({"site": "a/b"}, "pattern"),
        ({"precision": "h"}, "precision"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_settings_that_can_not_work_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        source_of.validate_python({"format": "influx", "topics": ["telegraf/#"], **changes})


def test_mapping_with_one_series_twice_is_refused() -> None:
    metrics = [{"field": "a", "metric": "m"}, {"field": "b", "metric": "m"}]
    with pytest.raises(ValidationError, match="two have the same"):
        interpreter(format="json", topics=["x"], device={"name": "x"}, metrics=metrics)
