"""Golden payloads, and properties that hold for every message and every byte string."""

import json
import math
import zlib
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from telemetry_contract import codec
from telemetry_contract.alerts import OpenAlert, RuleAlerts
from telemetry_contract.compression import Compression
from telemetry_contract.desired import DesiredConfig
from telemetry_contract.errors import MalformedPayload, PayloadError, PayloadTooLarge
from telemetry_contract.payload import MAX_SEQUENCE, MAX_TIME_MS, Backlog, CommitAck, DesiredState, Status, Tick

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schema/telemetry-v1.schema.json").read_text())
CASES = sorted(GOLDEN.iterdir())
VALID = [case for case in CASES if not case.name.startswith("invalid_")]
INVALID = [case for case in CASES if case.name.startswith("invalid_")]
DECODERS = {
    "samples": codec.decode_samples,
    "status": codec.decode_status,
    "ack": codec.decode_ack,
    "config": codec.decode_desired,
}
STRUCTS = (
    (Tick, "tick"),
    (Backlog, "backlog"),
    (Status, "status"),
    (DesiredState, "desired_state"),
    (RuleAlerts, "alerts"),
    (OpenAlert, "open_alert"),
    (CommitAck, "ack"),
    (DesiredConfig, "config"),
)
STREAM = UUID("0190a5c2-7f3b-7c1e-9d52-3b6c1f2a4e10")


def load(case: Path) -> tuple[bytes, dict[str, Any]]:
    files = [file for file in case.iterdir() if file.stem == "payload"]
    assert len(files) == 1
    return files[0].read_bytes(), json.loads((case / "expected.json").read_text())


@pytest.mark.parametrize("case", VALID, ids=lambda case: case.name)
def test_golden_payload_is_decoded_and_encoded_to_the_same_json(case: Path) -> None:
    payload, expected = load(case)
    message = DECODERS[expected["kind"]](payload)
    assert type(message).__name__ == expected["struct"]
    plain = json.loads(zlib.decompress(payload) if case.name.endswith("_zlib") else payload)
    plain.pop("later", None)
    assert json.loads(codec.encode(message).payload) == plain


@pytest.mark.parametrize("case", VALID, ids=lambda case: case.name)
def test_golden_payload_follows_the_published_schema(case: Path) -> None:
    payload, _ = load(case)
    plain = zlib.decompress(payload) if case.name.endswith("_zlib") else payload
    Draft202012Validator(SCHEMA).validate(json.loads(plain))


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.name)
def test_invalid_golden_payload_is_refused_with_its_reason(case: Path) -> None:
    payload, expected = load(case)
    with pytest.raises(PayloadError) as caught:
        DECODERS[expected["kind"]](payload)
    assert caught.value.reason == expected["reason"]
    assert expected["message"] in str(caught.value)


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.name)
def test_published_schema_refuses_what_it_can_express(case: Path) -> None:
    payload, expected = load(case)
    try:
        document = json.loads(payload)
    except ValueError:
        return  # not JSON: no schema is asked
    assert Draft202012Validator(SCHEMA).is_valid(document) is not expected["schema_rejects"]


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53).map(float) | st.none()
keys = st.text(min_size=1, max_size=20)
sequences = st.integers(1, MAX_SEQUENCE)
times = st.integers(0, MAX_TIME_MS)
texts = st.none() | st.text(max_size=20)


@st.composite
def gones(draw: st.DrawFn, seqs: list[int]) -> dict[str, list[tuple[int, int]]] | None:
    """Nothing, or by reason some of the runs between these numbers."""
    runs = [(before + 1, seq - 1) for before, seq in pairwise([0, *seqs]) if seq - before > 1]
    reasons = st.dictionaries(st.text(max_size=8), st.sets(st.sampled_from(runs)).map(sorted), max_size=2)
    return draw(st.none() | reasons) if runs else None


@st.composite
def ticks(draw: st.DrawFn) -> Tick:
    low, seq = sorted([draw(sequences), draw(sequences)])
    values = draw(st.dictionaries(keys, numbers, max_size=5))
    gone = draw(gones([seq]))
    stream = draw(st.uuids())
    return Tick(v=1, stream=stream, seq=seq, low=low, t=draw(times), values=values, gone=gone, clock=draw(texts))


@st.composite
def backlogs(draw: st.DrawFn) -> Backlog:
    seqs = sorted(draw(st.sets(sequences, min_size=1, max_size=5)))
    column = st.lists(numbers, min_size=len(seqs), max_size=len(seqs))
    return Backlog(
        v=1,
        stream=draw(st.uuids()),
        low=draw(st.integers(1, seqs[0])),
        seq=seqs,
        t=draw(st.lists(times, min_size=len(seqs), max_size=len(seqs))),
        values=draw(st.dictionaries(keys, column, max_size=4)),
        gone=draw(gones(seqs)),
    )


@given(ticks() | backlogs(), st.sampled_from(Compression), st.sampled_from([None, 0, 100]))
def test_samples_survive_the_wire(message: Tick | Backlog, compression: Compression, above: int | None) -> None:
    encoded = codec.encode(message, compress_above=above, with_=compression)
    assert codec.decode_samples(encoded.payload) == message


@given(st.binary(max_size=400))
def test_any_bytes_are_decoded_or_refused(payload: bytes) -> None:
    for decode in DECODERS.values():
        with suppress(PayloadError):  # any other exception fails the test
            decode(payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_a_message_with_any_field_replaced_is_decoded_or_refused(data: st.DataObject) -> None:
    document = json.loads(codec.encode(data.draw(ticks() | backlogs())).payload)
    document[data.draw(st.sampled_from(sorted(document)))] = data.draw(json_values)
    with suppress(PayloadError):  # any other exception fails the test
        codec.decode_samples(json.dumps(document).encode())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinities_become_null(value: float) -> None:
    tick = Tick(v=1, stream=STREAM, seq=1, low=1, t=0, values={"a": value})
    assert b'"a":null' in codec.encode(tick).payload


@pytest.mark.parametrize("bomb", [zlib.compress(bytes(10_000_000)), zstd.compress(bytes(10_000_000))])
def test_decompression_stops_at_the_cap(bomb: bytes) -> None:
    assert len(bomb) < 20_000
    with pytest.raises(PayloadTooLarge, match="larger than 1000000 bytes"):
        codec.decode_samples(bomb, max_bytes=1_000_000)


def test_oversized_payload_is_refused_unread() -> None:
    with pytest.raises(PayloadTooLarge, match="101 bytes, more than 100"):
        codec.decode_samples(b"x" * 101, max_bytes=100)


@pytest.mark.parametrize("depth", [1_000, 200_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    with pytest.raises(MalformedPayload):
        codec.decode_samples(b'{"v":1,"values":' + b"[" * depth)


def test_content_type_names_the_compression() -> None:
    tick = Tick(v=1, stream=STREAM, seq=1, low=1, t=0, values={f"metric_{i}": 1.0 for i in range(100)})
    assert codec.encode(tick).content_type == "application/json"
    assert codec.encode(tick, compress_above=0, with_=Compression.ZSTD).content_type == "application/json+zstd"
    assert codec.encode(tick, compress_above=0, with_=Compression.ZLIB).content_type == "application/json+zlib"


def test_message_that_compression_would_enlarge_stays_plain() -> None:
    ack = CommitAck(v=1, stream=STREAM, committed=[], server_time=0)
    assert codec.encode(ack, compress_above=0).content_type == "application/json"


def test_status_round_trip() -> None:
    status = Status(v=1, online=True, stream=STREAM, boot_id="b", agent_version="1")
    assert codec.decode_status(codec.encode(status).payload) == status


def test_structs_and_schema_name_the_same_fields() -> None:
    for struct, name in STRUCTS:
        definition = SCHEMA["$defs"][name]
        fields = msgspec.structs.fields(struct)
        assert set(definition["properties"]) == {field.encode_name for field in fields}
        assert set(definition["required"]) == {field.encode_name for field in fields if field.required}
