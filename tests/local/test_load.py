"""The load generator's devices, without a broker: what they send and what they still wait for."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry_bridge.errors import CannotStart
from telemetry_bridge.load.device import LoadDevice, Outgoing, Profile, series_keys
from telemetry_bridge.load.latency import Latency
from telemetry_bridge.load.report import summary
from telemetry_bridge.load.run import Load, LoadReport, require_files
from telemetry_contract.codec import decode_samples
from telemetry_contract.payload import Backlog, Tick
from telemetry_contract.series import SeriesKey

STREAM = UUID(int=7)
EPOCH_MS = 1_795_000_000_000


def device(**changes: float) -> LoadDevice:
    profile = Profile(
        series=4,
        interval_seconds=changes.pop("interval", 2.0),
        backlog_ticks=int(changes.pop("backlog", 0)),
        ticks_per_message=10,
        window=2,
        confirm_timeout_seconds=30,
    )
    made = LoadDevice("load", "load-00001", STREAM, profile, phase=changes.pop("phase", 0.0))
    made.begin(100.0, EPOCH_MS)
    assert not changes
    return made


def tick(message: Outgoing) -> Tick:
    decoded = decode_samples(message.payload)
    assert isinstance(decoded, Tick)
    return decoded


def backlog(message: Outgoing) -> Backlog:
    decoded = decode_samples(message.payload)
    assert isinstance(decoded, Backlog)
    return decoded


def test_live_ticks_are_due_at_their_interval_and_carry_the_time_they_were_due() -> None:
    one = device(phase=0.5)
    assert one.live_due == 101.0
    messages = [one.live(one.live_due + 0.3) for _ in range(3)]
    assert one.live_due == 107.0
    assert [(it.seq, it.t, it.low) for it in map(tick, messages)] == [
        (1, EPOCH_MS + 1000, 1),
        (2, EPOCH_MS + 3000, 1),
        (3, EPOCH_MS + 5000, 1),
    ]
    assert {it.topic for it in messages} == {"telemetry/v1/load/load-00001/samples"}


def test_nothing_is_due_before_it_begins() -> None:
    assert LoadDevice("load", "a", STREAM, Profile(1, 1.0), phase=0).live_due == float("inf")


def test_the_backlog_lies_before_the_beginning_and_keeps_to_its_window() -> None:
    one = device(backlog=25)
    sent = []
    while one.may_send_backlog:
        sent.append(one.backlog(100.0))
    assert [backlog(it).seq for it in sent] == [list(range(1, 11)), list(range(11, 21))]
    assert backlog(sent[0]).t[0] == EPOCH_MS - 25 * 2000
    assert {it.topic for it in sent} == {"telemetry/v1/load/load-00001/backlog"}
    assert one.backlog_left == 5
    assert tick(one.live(102.0)).seq == 26
    assert one.committed([(1, 10)]).ticks == 10
    last = backlog(one.backlog(103.0))
    assert (last.seq, last.low, last.t[-1]) == (list(range(21, 26)), 11, EPOCH_MS - 2000)
    assert not one.may_send_backlog


def test_what_is_confirmed_is_told_once_and_only_as_a_whole() -> None:
    one = device()
    for _ in range(4):
        one.live(one.live_due)
    assert one.committed([(1, 2)]).live_due == [100.0, 102.0]
    assert one.committed([(1, 2), (4, 4)]).ticks == 1
    assert one.unconfirmed_ticks == 1
    assert tick(one.live(200.0)).low == 3


def test_half_a_message_is_not_confirmed() -> None:
    one = device(backlog=10)
    one.backlog(100.0)
    assert one.committed([(1, 9)]).ticks == 0
    assert one.committed([(1, 10)]).ticks == 10


def test_what_nobody_confirmed_is_sent_again_as_it_was() -> None:
    one = device()
    first = one.live(100.0)
    assert one.overdue(129.9) == []
    assert one.overdue(130.0) == [first]
    assert one.overdue(131.0) == []
    one.committed([(1, 1)])
    assert one.overdue(500.0) == []


@given(st.integers(1, 200))
def test_keys_are_as_many_as_asked_and_canonical(count: int) -> None:
    keys = series_keys(count)
    assert len(set(keys)) == count
    assert [str(SeriesKey.parse(key)) for key in keys] == sorted(keys)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_at_most_a_bucket_too_large(values: list[float], share: float) -> None:
    latency = Latency()
    for value in values:
        latency.add(value)
    ordered = sorted(max(value, 0.0001) for value in values)
    exact = next(value for rank, value in enumerate(ordered, 1) if rank >= share * len(ordered))
    found = latency.quantile(share)
    assert found is not None
    assert exact * 0.999 <= found <= exact * 1.1


def test_no_quantile_of_nothing() -> None:
    assert Latency().quantile(0.5) is None


def report(**changes: object) -> LoadReport:
    whole: dict[str, object] = {
        "seconds": 10.0,
        "sent_ticks": 100,
        "committed_ticks": 100,
        "committed_rate": 600.0,
        "unconfirmed_ticks": 0,
        "backlog_left_ticks": 0,
        "commit_p50_seconds": 0.5,
        "commit_p99_seconds": 1.0,
        "late_p99_seconds": 0.01,
        "broker_acknowledged_messages": 100,
        "refused": {},
    }
    return LoadReport(**(whole | changes))  # type: ignore[arg-type]


def test_the_summary_says_what_is_not_as_it_should_be() -> None:
    load = Load("load", "load", 1, 60, 600.0, 10.0)
    assert len(summary(report(), load)) == 3
    bad = summary(
        report(unconfirmed_ticks=3, backlog_left_ticks=4, refused={"Not authorized": 5}, late_p99_seconds=2.0), load
    )
    assert [line.split()[0] for line in bad[3:]] == ["missing", "backlog", "refused", "late"]
    assert report().complete
    assert not report(unconfirmed_ticks=1).complete
    assert not report(refused={"x": 1}).complete


def test_more_devices_than_the_system_lets_connect_are_refused() -> None:
    with pytest.raises(CannotStart, match="ulimit -n"):
        require_files(10**9)
