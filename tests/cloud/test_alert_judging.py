"""Batches judged at once equal the machine run for every sample."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.alerts.judging import Judged, Known, Ticks, Watched, concerned, judge_batch
from cloud_ingest.alerts.machine import Opened, State, Transition, advance
from cloud_ingest.alerts.plan import Column, Device, Placed, Plan, Watch, compile_plan, plan_class
from cloud_ingest.alerts.precedence import Candidate
from cloud_ingest.alerts.rule import Operator, Rule, Versions
from telemetry_contract.series import SeriesKey

NAN = math.nan
# Layouts as the numbers of their series; series 1 stands in both.
LAYOUTS = {7: (1, 2), 8: (3, 1)}
SHARED = {1: frozenset(LAYOUTS)}
THRESHOLDS = {
    10: (1, Versions([Rule(1, Operator.ABOVE, 5, 7, 3, for_ms=3, silence_ms=4)])),
    11: (1, Versions([Rule(1, Operator.BELOW, critical=2, clear=4)])),
    12: (2, Versions([Rule(1, Operator.AT_LEAST, 6), Rule(2, Operator.AT_MOST, 1, for_ms=2, valid_from_ms=15)])),
    13: (3, Versions([Rule(1, Operator.EQUAL, 1, 2, for_ms=1)])),
    14: (3, Versions([Rule(1, Operator.UNEQUAL, 1, for_ms=4, valid_from_ms=10)])),
}
VALUES = st.sampled_from([NAN, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0])
TICK = st.tuples(st.sampled_from([1, 2]), st.sampled_from(sorted(LAYOUTS)), st.integers(0, 30), VALUES, VALUES)
Tick = tuple[int, int, int, float, float]


def plan(layout_id: int) -> Plan:
    keys = LAYOUTS[layout_id]
    return Plan(
        [Watch(it, key, keys.index(key), versions) for it, (key, versions) in THRESHOLDS.items() if key in keys], keys
    )


PLANS = {it: plan(it) for it in LAYOUTS}


def as_ticks(batch: Sequence[Tick]) -> list[Ticks]:
    groups = []
    for layout_id in LAYOUTS:
        rows = [it for it in batch if it[1] == layout_id]
        samples = np.array([it[3:] for it in rows], np.float64).reshape(len(rows), 2)
        ids, times = (np.array([it[column] for it in rows], np.int64) for column in (0, 2))
        groups.append(Ticks(layout_id, PLANS[layout_id], ids, times, samples))
    return groups


class Kept:
    """What is remembered between batches."""

    def __init__(self) -> None:
        self.states: dict[Watched, State] = {}
        self.newest: dict[tuple[int, int], int] = {}
        self.told: list[tuple[Watched, Transition]] = []
        self.touched: dict[int, int] = {}
        self.late: list[tuple[int, tuple[int, int]]] = []

    def take(self, batch: Sequence[Tick]) -> Judged:
        ticks = as_ticks(batch)
        wanted = {it.device_id for it in self.states}.union(*(concerned(it, self.touched) for it in ticks))
        judged = judge_batch([it.of(wanted) for it in ticks], Known(self.states, self.newest, SHARED))
        assert not judged.withdrawn
        self.states |= judged.states
        self.states = {watched: state for watched, state in self.states.items() if not state.is_idle}
        for device_id, layout_id, time_ms, *_ in batch:
            self.newest[device_id, layout_id] = max(time_ms, self.newest.get((device_id, layout_id), time_ms))
        for device_id, time_ms in judged.touched_ms.items():
            self.touched[device_id] = max(time_ms, self.touched.get(device_id, time_ms))
        self.told += judged.transitions
        self.late += judged.late_ms.items()
        return judged


class Reference:
    """The machine for every sample of every series."""

    def __init__(self) -> None:
        self.states: dict[Watched, State] = {}
        self.told: list[tuple[Watched, Transition]] = []
        self.late: list[tuple[int, int]] = []

    def take(self, batch: Sequence[Tick]) -> None:
        in_layouts = [it for layout_id in LAYOUTS for it in batch if it[1] == layout_id]
        for device_id, layout_id, time_ms, *values in sorted(in_layouts, key=lambda it: it[2]):
            for threshold_id, (key, versions) in THRESHOLDS.items():
                if key in LAYOUTS[layout_id]:
                    watched = Watched(device_id, threshold_id, key)
                    self.advance(watched, versions, time_ms, values[LAYOUTS[layout_id].index(key)])

    def advance(self, watched: Watched, versions: Versions, time_ms: int, value: float) -> None:
        state = self.states.get(watched, State())
        rule = versions.at(time_ms)
        if rule is None:
            return
        # What is well, where nothing was going on, changes nothing whenever it comes
        matters = not state.is_idle or (not math.isnan(value) and rule.severity_of(value) is not None)
        if state.time_ms is not None and time_ms <= state.time_ms and matters:
            self.late.append((watched.device_id, time_ms))
        self.states[watched], transition = advance(state, rule, time_ms, value)
        if transition is not None:
            self.told.append((watched, transition))


def by_series(told: list[tuple[Watched, Transition]]) -> list[tuple[Watched, Transition]]:
    return sorted(told, key=lambda it: it[0])  # stable: of one series in the order in which it was told


@settings(max_examples=300)
@given(st.lists(st.lists(TICK, max_size=12), max_size=6))
def test_a_batch_judged_at_once_equals_the_machine_for_every_sample(batches: list[list[Tick]]) -> None:
    kept, reference = Kept(), Reference()
    for batch in batches:
        kept.take(batch)
        reference.take(batch)
        assert by_series(kept.told) == by_series(reference.told)
        assert kept.states == {it: state for it, state in reference.states.items() if not state.is_idle}
    for device_id, time_ms in reference.late:
        assert any(device == device_id and first <= time_ms <= last for device, (first, last) in kept.late)


def test_of_devices_that_are_well_nothing_is_remembered_but_the_time() -> None:
    kept = Kept()
    judged = kept.take([(1, 7, 10, 4.0, 4.0), (2, 7, 11, 4.0, 4.0), (1, 7, 9, 4.0, 4.0)])
    assert (judged.states, judged.transitions, judged.late_ms) == ({}, [], {})
    assert kept.touched == {}


def test_what_comes_late_is_noted_where_something_was_going_on() -> None:
    kept = Kept()
    kept.take([(1, 7, 10, 0.0, 4.0), (1, 7, 12, 4.0, 4.0), (1, 7, 30, 4.0, 4.0), (2, 7, 30, 4.0, 4.0)])
    assert kept.touched == {1: 12}
    late = kept.take([(1, 7, 13, 4.0, 4.0), (1, 7, 11, 4.0, 4.0), (1, 7, 31, 4.0, 4.0), (2, 7, 11, 4.0, 4.0)])
    assert late.late_ms == {1: (11, 13)}
    assert kept.take([(2, 7, 9, 0.0, 4.0)]).late_ms == {2: (9, 9)}


def test_what_nobody_watches_any_more_is_withdrawn() -> None:
    state = State(5, 5, None, 5, 1)
    watched, elsewhere = Watched(1, 99, 2), Watched(1, 99, 55)
    judged = judge_batch(
        as_ticks([(1, 7, 10, 4.0, 4.0)]), Known({watched: state, elsewhere: state, Watched(2, 99, 2): state}, {}, {})
    )
    assert judged.withdrawn == [watched]
    assert judged.states == {}


# Plans

COLUMNS = [
    Column(1, SeriesKey.parse("cpu_usage_percent")),
    Column(2, SeriesKey.parse('temperature_celsius{sensor="oil"}')),
    Column(3, SeriesKey.parse('temperature_celsius{sensor="air"}')),
]


def candidate(number: int, **changes: Any) -> Candidate:
    fields = {"name": f"t{number}", "metric": "temperature_celsius", "operator": ">", "warning": 80} | changes
    return Candidate(number, Definition.model_validate(fields))


def watched(device: Device, candidates: list[Candidate]) -> list[tuple[int, int]]:
    versions = {it.threshold_id: Versions([it.definition.rule(1)]) for it in candidates}
    return [(it.threshold_id, it.column) for it in compile_plan(COLUMNS, device, candidates, versions).watches]


def test_thresholds_are_compiled_to_the_columns_they_judge() -> None:
    candidates = [
        candidate(1, metric="*", operator="<"),
        candidate(2),
        candidate(3, selector={"labels": {"sensor": "oil"}}),
        candidate(4, selector={"location": "hall"}),
        candidate(5, selector={"sensor_type": "pt100"}, enabled=False),
    ]
    pump = Device("pump", "plant", None, {})
    assert watched(pump, candidates) == [(1, 0), (1, 1), (3, 1), (1, 2), (2, 2)]
    placed = Device("pump", "plant", "yard", {3: Placed("hall.line", "pt100")})
    assert watched(placed, candidates) == [(1, 0), (1, 1), (3, 1), (1, 2), (4, 2)]


def test_devices_that_no_threshold_tells_apart_share_their_plans() -> None:
    a, b = Device("a", "plant", "hall", {}), Device("b", "plant", "hall", {})
    assert plan_class(a, {"c"}) == plan_class(b, {"c"})
    assert plan_class(a, {"c"}) != plan_class(Device("d", "plant", "yard", {}), {"c"})
    assert plan_class(a, {"c"}) != plan_class(Device("d", "other", "hall", {}), {"c"})
    assert plan_class(a, {"a"}) != plan_class(b, {"a"})
    assert plan_class(Device("b", "plant", "hall", {1: Placed("x", None)}), {"c"}) != plan_class(a, {"c"})


def test_a_value_that_is_missing_is_beyond_nothing() -> None:
    for operator in Operator:
        plan = Plan([Watch(1, 1, 0, Versions([Rule(1, operator, warning=5)]))], [1])
        found = plan.beyond(np.array([[NAN], [5.0], [6.0], [4.0]]), np.arange(4))
        assert found[:, 0].tolist() == [False, *(operator.holds(it, 5) for it in (5.0, 6.0, 4.0))]


def test_it_is_told_in_the_batch_in_which_it_happens() -> None:
    kept = Kept()
    kept.take([(1, 7, 1, 8.0, 0.0)])
    assert [it for it, _ in kept.told] == []
    kept.take([(1, 8, 4, 0.0, 8.0)])  # the same series in another layout
    ((told, transition),) = [it for it in kept.told if it[0].threshold_id == 10]
    assert (told, type(transition), transition.time_ms) == (Watched(1, 10, 1), Opened, 4)
