import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from harness.wait import until
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collectors.base import Collector, Group, Member
from edge_agent.errors import CollectorError
from edge_agent.reading import Reading
from edge_agent.scheduler import Scheduler, next_due
from edge_agent.statistics import Statistics

Answer = Mapping[str, float | None]

ASLEEP_NS = 5_000_000_000_000


class Calling:
    """A collector that does what it is given."""

    def __init__(self, function: Callable[[], Answer]) -> None:
        self.collect = function


class Hanging:
    """Hangs in every call until it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.let_go = threading.Event()

    def collect(self) -> Answer:
        self.calls += 1
        self.let_go.wait(30)
        return {"hanging": float(self.calls)}


class Sink:
    """Keeps the readings."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    def __call__(self, reading: Reading) -> None:
        self.readings.append(reading)

    def having(self, key: str) -> list[Reading]:
        return [reading for reading in self.readings if key in reading.values]


class SteppedClock:
    """Time passes only by waiting, and by what the test adds."""

    def __init__(self, waits: int) -> None:
        self.now_ns = 1_000
        self.waits_left = waits
        self.dues: list[int] = []
        self.exhausted = threading.Event()

    def time_ns(self) -> int:
        return 1_763_678_400_123_999_999 + self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def boot_ns(self) -> int:
        return self.now_ns + ASLEEP_NS

    def wait_until(self, due_ns: int, stopping: threading.Event) -> bool:
        if self.waits_left == 0:
            self.exhausted.set()
            stopping.wait(30)
            return False
        self.waits_left -= 1
        self.dues.append(due_ns)
        self.now_ns = max(self.now_ns, due_ns)
        return True


def group(*, interval: float = 0.05, deadline: float = 0.5, **collectors: Collector) -> Group:
    return Group(interval, deadline, tuple(Member(name, it) for name, it in collectors.items()))


def giving(values: Answer) -> Calling:
    return Calling(lambda: values)


@contextmanager
def running(*groups: Group, sink: Callable[[Reading], None], clock: Any = None) -> Iterator[Scheduler]:
    scheduler = Scheduler(groups, sink, Statistics(), clock)
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.stop(5)


def failing_with(error: BaseException) -> Calling:
    def collect() -> Answer:
        raise error

    return Calling(collect)


def test_collectors_of_a_group_make_one_tick_with_sorted_keys() -> None:
    sink = Sink()
    with running(group(b=giving({"b": 2.0, "a": 1}), c=giving({"aa": 3.0})), sink=sink):
        until(lambda: sink.readings, 5, "a tick")
    assert list(sink.readings[0].values.items()) == [("a", 1.0), ("aa", 3.0), ("b", 2.0)]


def test_groups_tick_apart_each_at_its_interval() -> None:
    sink = Sink()
    with running(group(fast=giving({"fast": 1})), group(interval=60, slow=giving({"slow": 1})), sink=sink):
        until(lambda: len(sink.having("fast")) >= 5 and sink.having("slow"), 10, "five fast ticks and a slow one")
    assert len(sink.having("slow")) == 1
    assert all(len(reading.values) == 1 for reading in sink.readings)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_what_is_not_a_finite_number_is_no_value(value: float | None) -> None:
    sink = Sink()
    with running(group(a=giving({"x": value, "y": 1})), sink=sink):
        until(lambda: sink.readings, 5, "a tick")
    assert sink.readings[0].values == {"x": None, "y": 1.0}


def test_time_is_taken_when_the_measuring_begins() -> None:
    clock = SteppedClock(waits=1)

    def collect() -> Answer:
        clock.now_ns += 3_000_000_000
        return {"x": 1}

    sink = Sink()
    with running(group(a=Calling(collect)), sink=sink, clock=clock):
        until(lambda: sink.readings, 5, "a tick")
    assert sink.readings[0].t_ms == 1_763_678_400_124
    assert sink.readings[0].monotonic_ns == 1_000 + ASLEEP_NS
    assert sink.readings[0].interval_seconds == 0.05


def test_the_grid_does_not_drift_and_missed_ticks_are_skipped() -> None:
    clock = SteppedClock(waits=4)
    took_ms = iter([4_000, 13_000, 0, 0])

    def collect() -> Answer:
        clock.now_ns += next(took_ms) * 1_000_000
        return {"x": 1}

    with running(group(interval=5, a=Calling(collect)), sink=Sink(), clock=clock):
        assert clock.exhausted.wait(5)
    assert [due // 1_000_000_000 for due in clock.dues] == [0, 5, 20, 25]


@given(due=st.integers(0, 10**18), interval=st.integers(50_000_000, 10**14), late=st.integers(0, 10**16))
def test_next_tick_is_the_first_point_of_the_grid_that_is_not_past(due: int, interval: int, late: int) -> None:
    found = next_due(due, interval, due + late)
    assert (found - due) % interval == 0
    assert found >= due + max(interval, late)
    assert found - interval < due + max(interval, late)


def test_a_collector_that_hangs_costs_its_own_values_only_and_is_not_called_again() -> None:
    sink, hanging = Sink(), Hanging()
    with running(group(deadline=0.05, bad=hanging, good=giving({"good": 1})), sink=sink) as scheduler:
        until(lambda: len(sink.readings) >= 4, 10, "four ticks")
        assert hanging.calls == 1
        assert all(list(reading.values) == ["good"] for reading in sink.readings)
        assert scheduler.statistics()["bad"].overruns >= 3
        assert scheduler.statistics()["good"].overruns == 0
        assert scheduler.stalled() is None
        hanging.let_go.set()
        until(lambda: sink.having("hanging"), 10, "a tick with the collector that had hung")


def test_what_a_collector_found_too_late_belongs_to_no_tick() -> None:
    hanging = Hanging()
    calls = iter(range(100))

    def let_it_go_in_the_second_tick() -> Answer:
        if next(calls) == 1:
            hanging.let_go.set()
        return {"good": 1}

    scheduler = Scheduler(
        [group(deadline=0.5, bad=hanging, good=Calling(let_it_go_in_the_second_tick))], Sink(), Statistics()
    )
    assert [reading.values for reading in scheduler.collect_once()] == [{"good": 1.0}]
    assert [reading.values for reading in scheduler.collect_once()] == [{"good": 1.0}]
    until(lambda: "hanging" in scheduler.collect_once()[0].values, 5, "the collector to take part again")
    assert scheduler.collect_once()[0].values["hanging"] == hanging.calls >= 3
    scheduler.stop(5)


def test_a_collector_that_hangs_for_ever_does_not_keep_the_scheduler_from_ending() -> None:
    hanging = Hanging()
    scheduler = Scheduler([group(deadline=0.05, bad=hanging)], Sink(), Statistics())
    scheduler.start()
    until(lambda: hanging.calls, 5, "the call that hangs")
    assert scheduler.stop(5)
    hanging.let_go.set()


@pytest.mark.parametrize(
    "error", [CollectorError("no sensor"), ValueError("bug"), SystemExit(1), KeyboardInterrupt()], ids=repr
)
def test_whatever_a_collector_raises_costs_its_own_values_only(error: BaseException) -> None:
    sink = Sink()
    with running(group(bad=failing_with(error), good=giving({"good": 1})), sink=sink) as scheduler:
        until(lambda: len(sink.readings) >= 3, 10, "three ticks")
        counts = scheduler.statistics()
    assert all(reading.values == {"good": 1.0} for reading in sink.readings)
    assert counts["bad"].failures >= 2
    assert counts["good"].failures == 0


@pytest.mark.parametrize("answer", [None, 5, [1, 2], {"x": 10**400}], ids=str)
def test_an_answer_that_is_not_a_mapping_of_numbers_counts_as_a_failure(answer: Any) -> None:
    sink = Sink()
    with running(group(bad=giving(answer), good=giving({"good": 1})), sink=sink) as scheduler:
        until(lambda: scheduler.statistics()["bad"].failures >= 2 and sink.readings, 10, "failures")
    assert sink.readings[0].values == {"good": 1.0}


def test_entries_that_are_not_usable_are_left_out_and_counted() -> None:
    sink = Sink()
    odd: Any = {"x": "1", 5: 1.0, "y": 2.0}
    with running(group(interval=60, a=giving(odd), b=giving({"y": 3.0, "z": 4.0})), sink=sink) as scheduler:
        until(lambda: sink.readings, 5, "a tick")
        counts = scheduler.statistics()
    assert sink.readings[0].values == {"y": 2.0, "z": 4.0}
    assert counts["a"].rejected_values == 2
    assert counts["b"].rejected_values == 1


def test_nothing_found_makes_no_tick() -> None:
    sink = Sink()
    calls = iter(range(10_000))

    def collect() -> Answer:
        return {"late": 1} if next(calls) == 3 else {}

    with running(group(a=Calling(collect)), sink=sink) as scheduler:
        until(lambda: sink.readings, 10, "the one tick with a value")
        assert scheduler.statistics()["a"].failures == 0
    assert len(sink.readings) == 1


def test_one_line_when_a_collector_begins_to_fail_and_one_when_it_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "edge_agent")
    calls = iter(range(10_000))

    def collect() -> Answer:
        if 2 <= next(calls) < 6:
            raise CollectorError("the sensor is gone")
        return {"x": 1}

    sink = Sink()
    with running(group(probe=Calling(collect)), sink=sink):
        until(lambda: len(sink.readings) >= 4, 10, "ticks before and after the failures")
    assert [record.getMessage() for record in caplog.records] == [
        "collector probe: the sensor is gone",
        "collector probe: works again after 4 failures",
    ]


def test_a_sink_that_raises_loses_that_tick_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edge_agent")
    taken: list[Reading] = []
    calls = iter(range(10_000))

    def sink(reading: Reading) -> None:
        if next(calls) < 2:
            raise OSError("disk on fire")
        taken.append(reading)

    with running(group(a=giving({"x": 1})), sink=sink):
        until(lambda: taken, 10, "a tick after the failures")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "disk on fire" in caplog.records[0].getMessage()


def test_a_sink_that_hangs_is_reported_as_a_stall() -> None:
    let_go = threading.Event()

    def sink(_: Reading) -> None:
        let_go.wait(30)

    with running(group(deadline=0.05, probe=giving({"x": 1})), sink=sink) as scheduler:
        assert scheduler.stalled(grace_seconds=60) is None
        said = until(lambda: scheduler.stalled(grace_seconds=0.1), 10, "a stall")
        assert said is not None
        assert "probe" in said
        assert not scheduler.stop(0.05)
        let_go.set()


def test_sink_is_not_called_after_stop() -> None:
    sink = Sink()
    scheduler = Scheduler([group(a=giving({"x": 1}))], sink, Statistics())
    scheduler.start()
    until(lambda: sink.readings, 5, "a tick")
    assert scheduler.stop(5)
    count = len(sink.readings)
    time.sleep(0.2)  # four intervals in which nothing may happen
    assert len(sink.readings) == count


def test_stop_closes_collectors_once_and_does_not_call_that_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    class Held:
        def __init__(self) -> None:
            self.closed = 0
            self.calls = 0
            self.cut_short = threading.Event()

        def collect(self) -> Answer:
            self.calls += 1
            self.cut_short.wait(30)
            raise CollectorError("stopped")

        def close(self) -> None:
            self.closed += 1
            self.cut_short.set()

    held = Held()
    scheduler = Scheduler([group(deadline=30, held=held)], Sink(), Statistics())
    scheduler.start()
    until(lambda: held.calls, 5, "a call")
    assert scheduler.stop(5)
    assert held.closed == 1
    assert scheduler.statistics()["held"].failures == 0
    assert not caplog.records


def test_collecting_once_gives_one_tick_a_group_without_the_sink() -> None:
    sink = Sink()
    groups = [group(a=giving({"x": 1}), b=failing_with(CollectorError("no"))), group(interval=9, c=giving({"y": 2}))]
    scheduler = Scheduler(groups, sink, Statistics())
    readings = scheduler.collect_once()
    assert [reading.values for reading in readings] == [{"x": 1.0}, {"y": 2.0}]
    assert scheduler.statistics()["b"].failures == 1
    assert not sink.readings
    scheduler.stop(5)
