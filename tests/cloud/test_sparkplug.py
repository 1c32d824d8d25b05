"""Sparkplug B: births, data and deaths in their sessions, from bytes that were not made by what reads them."""

import struct
from collections.abc import Sequence

import pytest
from harness.sparkplug import (
    BOOLEAN,
    DOUBLE,
    FLOAT,
    INT8,
    INT16,
    INT32,
    INT64,
    STRING,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    Metric,
    payload,
)
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.foreign.interpretation import Interpretation
from cloud_ingest.foreign.sparkplug import ONLINE, SparkplugInterpreter
from cloud_ingest.foreign.sparkplug_payload import decode_payload, rebirth_command
from cloud_ingest.message import Message

NOW_MS = 1_795_000_000_000
BD_SEQ = Metric("bdSeq", 7, INT64)


class Host:
    """An interpreter, and what it asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.now_ms = NOW_MS
        self._interpreter = SparkplugInterpreter("spb", None, 10_000, lambda *node: self.asked.append(node))

    def take(self, topic: str, data: bytes, *, retained: bool = False) -> Interpretation:
        message = Message(f"spBv1.0/plant/{topic}", data, retained=retained)
        return self._interpreter.interpret(message, data, self.now_ms)

    def born(self, *metrics: Metric, seq: int = 0) -> Interpretation:
        return self.take("NBIRTH/node", payload(BD_SEQ, *metrics, seq=seq, timestamp=NOW_MS))


def told(found: Interpretation) -> list[tuple[str, str, int | None, float]]:
    return [(it.device, it.keys[0], it.time_ms, it.values[0]) for it in found.readings]


def reasons(found: Interpretation) -> list[str]:
    return [problem.reason for problem in found.problems]


def test_text_is_no_sample_and_is_counted() -> None:
    found = Host().born(Metric("State", "open", STRING, alias=1), Metric("Temp", 20.5, DOUBLE))
    assert [key for _, key, _, _ in told(found)] == [ONLINE, "Temp"]
    assert (found.texts, found.problems) == (1, [])


def test_data_by_alias_means_what_the_birth_said() -> None:
    host = Host()
    birth = host.born(
        Metric("Motor 1/Temp", 20.5, DOUBLE, alias=3, timestamp=NOW_MS - 5), Metric("n", -4, INT32, alias=4)
    )
    assert told(birth) == [
        ("node", ONLINE, NOW_MS, 1.0),
        ("node", "Motor_1_Temp", NOW_MS - 5, 20.5),
        ("node", "n", NOW_MS, -4.0),
    ]
    data = payload(
        Metric(alias=3, value=21.5, encode_as=DOUBLE, timestamp=NOW_MS + 1),
        Metric(alias=4, value=-5, encode_as=INT32),
        seq=1,
        timestamp=NOW_MS + 2,
    )
    found = host.take("NDATA/node", data)
    assert told(found) == [("node", "Motor_1_Temp", NOW_MS + 1, 21.5), ("node", "n", NOW_MS + 2, -5.0)]
    assert {(it.site, it.publisher) for it in found.readings} == {("plant", "spb plant/node")}
    assert (found.problems, host.asked) == ([], [])


def test_devices_have_births_and_deaths_of_their_own() -> None:
    host = Host()
    host.born()
    born = host.take("DBIRTH/node/pump", payload(Metric("rpm", 900, UINT16, alias=1), seq=1, timestamp=NOW_MS))
    assert told(born) == [("node.pump", ONLINE, NOW_MS, 1.0), ("node.pump", "rpm", NOW_MS, 900.0)]
    data = payload(Metric(alias=1, value=901, encode_as=UINT16), seq=2, timestamp=NOW_MS)
    assert told(host.take("DDATA/node/pump", data)) == [("node.pump", "rpm", NOW_MS, 901.0)]
    assert told(host.take("DDEATH/node/pump", payload(seq=3))) == [("node.pump", ONLINE, NOW_MS, 0.0)]
    after = host.take("DDATA/node/pump", payload(Metric(alias=1, value=1, encode_as=UINT16), seq=4))
    assert (told(after), reasons(after), host.asked) == ([], ["birth_missing"], [("plant", "node")])


def test_death_of_a_node_ends_it_and_its_devices_but_only_in_its_own_session() -> None:
    host = Host()
    host.born()
    host.take("DBIRTH/node/pump", payload(seq=1, timestamp=NOW_MS))
    late = host.take("NDEATH/node", payload(Metric("bdSeq", 6, INT64)))
    assert told(late) == []
    dead = host.take("NDEATH/node", payload(BD_SEQ))
    assert told(dead) == [("node", ONLINE, NOW_MS, 0.0), ("node.pump", ONLINE, NOW_MS, 0.0)]
    assert reasons(host.take("NDATA/node", payload(seq=2))) == ["birth_missing"]


@pytest.mark.parametrize("kind", ["NDATA/node", "DBIRTH/node/pump", "DDATA/node/pump", "DDEATH/node/pump"])
def test_without_its_birth_a_node_is_asked_for_it_now_and_then(kind: str) -> None:
    host = Host()
    for passed_ms, asked in ((0, 1), (9_999, 1), (10_000, 2)):
        host.now_ms = NOW_MS + passed_ms
        found = host.take(kind, payload(Metric("a", 1, INT32), seq=1))
        assert (told(found), reasons(found), len(host.asked)) == ([], ["birth_missing"], asked)


def test_after_a_gap_nothing_is_taken_until_the_next_birth() -> None:
    host = Host()
    host.born(Metric("a", 1, INT32, alias=1))
    value = Metric(alias=1, value=2, encode_as=INT32)
    assert reasons(host.take("NDATA/node", payload(value, seq=2))) == ["birth_missing"]
    assert reasons(host.take("NDATA/node", payload(value, seq=3))) == ["birth_missing"]
    assert host.asked == [("plant", "node")]
    host.born(Metric("b", 1, INT32, alias=1))
    assert [key for _, key, _, _ in told(host.take("NDATA/node", payload(value, seq=1)))] == ["b"]


def test_sequence_goes_on_after_255_with_0_and_a_message_may_come_twice() -> None:
    host = Host()
    host.born(Metric("a", 1, INT32, alias=1), seq=254)
    for seq in (255, 255, 0, 1):
        found = host.take("NDATA/node", payload(Metric(alias=1, value=seq, encode_as=INT32), seq=seq, timestamp=NOW_MS))
        assert (told(found), reasons(found)) == ([("node", "a", NOW_MS, float(seq))], [])


def test_historical_values_keep_their_time_and_need_one() -> None:
    host = Host()
    host.born(Metric("a", 1, INT32, alias=1))
    data = payload(
        Metric(alias=1, value=5, encode_as=INT32, timestamp=NOW_MS - 60_000, historical=True),
        Metric(alias=1, value=6, encode_as=INT32, historical=True),
        seq=1,
        timestamp=NOW_MS,
    )
    found = host.take("NDATA/node", data)
    assert (told(found), reasons(found)) == ([("node", "a", NOW_MS - 60_000, 5.0)], ["malformed"])


def test_what_is_no_sample_is_left_out() -> None:
    host = Host()
    found = host.born(
        Metric("Node Control/Rebirth", 0, BOOLEAN),
        Metric("text", "hello", STRING),
        Metric("nothing", None, DOUBLE),
        Metric("passing", 1.0, DOUBLE, transient=True),
        Metric("nan", float("nan"), DOUBLE),
        Metric("on", 1, BOOLEAN),
    )
    assert [(key, value) for _, key, _, value in told(found)] == [(ONLINE, 1.0), ("on", 1.0)]
    assert found.problems == []


def test_two_names_that_would_be_one_series_are_told_apart_by_leaving_the_second_out() -> None:
    found = Host().born(Metric("a/b", 1, INT32), Metric("a b", 2, INT32), Metric(ONLINE, 5, INT32))
    assert [(key, value) for _, key, _, value in told(found)] == [(ONLINE, 1.0), ("a_b", 1.0)]
    assert reasons(found) == ["name_clash", "name_clash"]


@pytest.mark.parametrize("topic", ["NDATA/no de", "DDATA/node/pu mp", "NDATA/" + "n" * 65])
def test_names_that_no_device_can_have_are_refused(topic: str) -> None:
    assert reasons(Host().take(topic, payload(seq=0))) == ["invalid_device"]


@pytest.mark.parametrize("topic", ["NCMD/node", "DCMD/node/pump", "NDATA", "DDATA/node", "NDATA/node/pump", "X/node"])
def test_other_topics_say_nothing(topic: str) -> None:
    host = Host()
    found = host.take(topic, b"\xff")
    assert (found.readings, found.problems, host.asked) == ([], [], [])


def test_retained_birth_begins_no_session() -> None:
    host = Host()
    assert told(host.take("NBIRTH/node", payload(BD_SEQ, seq=0), retained=True)) == []
    assert reasons(host.take("NDATA/node", payload(seq=1))) == ["birth_missing"]


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        (INT8, [-128, -1, 127]),
        (INT16, [-(2**15), -1, 2**15 - 1]),
        (INT32, [-(2**31), -1, 2**31 - 1]),
        (INT64, [-(2**53), -1, 2**53]),
        (UINT8, [0, 255]),
        (UINT16, [0, 2**16 - 1]),
        (UINT32, [0, 2**32 - 1]),
        (UINT64, [0, 2**53]),
        (FLOAT, [-1.5, 0.0, 3e38]),
        (DOUBLE, [-1e300, 0.1]),
        (BOOLEAN, [0, 1]),
    ],
)
def test_every_numeric_type_comes_through(datatype: int, values: Sequence[float]) -> None:
    for value in values:
        (_, (_, _, _, came)) = told(Host().born(Metric("a", value, datatype)))
        assert came == (struct.unpack("f", struct.pack("f", value))[0] if datatype == FLOAT else value)


metrics = st.builds(
    Metric,
    name=st.none() | st.text(max_size=10),
    value=st.none() | st.text(max_size=3) | st.integers(0, 2**63) | st.floats(width=32),
    datatype=st.none() | st.sampled_from([DOUBLE, FLOAT]),
    alias=st.none() | st.integers(0, 2**64 - 1),
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    historical=st.booleans(),
    transient=st.booleans(),
    encode_as=st.just(DOUBLE),
)


@given(st.lists(metrics, max_size=5), st.none() | st.integers(0, 2**64 - 1), st.none() | st.integers(0, 2**64 - 1))
def test_payload_is_read_as_it_was_written(sent: list[Metric], seq: int | None, timestamp: int | None) -> None:
    came = decode_payload(payload(*sent, seq=seq, timestamp=timestamp))
    assert (came.seq, came.timestamp_ms) == (seq, timestamp)
    assert [
        (it.name, it.alias, it.timestamp_ms, it.datatype, it.is_historical, it.is_transient) for it in came.metrics
    ] == [(it.name, it.alias, it.timestamp, it.datatype, it.historical, it.transient) for it in sent]
    for read, written in zip(came.metrics, sent, strict=True):
        expected = None if isinstance(written.value, str) or written.value is None else float(written.value)
        assert repr(read.raw) == repr(expected)


KINDS = ["NBIRTH/node", "NDATA/node", "NDEATH/node", "DBIRTH/node/d", "DDATA/node/d", "DDEATH/node/d", "NDATA/é"]
messages = st.tuples(
    st.sampled_from(KINDS),
    st.binary(max_size=60)
    | st.builds(lambda sent, seq: payload(*sent, seq=seq), st.lists(metrics, max_size=4), st.integers(0, 4)),
)


@given(st.lists(messages, max_size=12))
def test_no_messages_in_any_order_make_it_fail(sent: list[tuple[str, bytes]]) -> None:
    host = Host()
    for topic, data in sent:
        for reading in host.take(topic, data).readings:
            assert reading.device in ("node", "node.d")


def test_rebirth_command_is_what_the_specification_says() -> None:
    wanted = Metric("Node Control/Rebirth", 1, BOOLEAN)
    assert decode_payload(rebirth_command(NOW_MS)) == decode_payload(payload(wanted, timestamp=NOW_MS))
