"""The machine that judges samples: a table of cases, and that order and batching change nothing."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.alerts.history import Episode, Sample, affected, in_order, judge
from cloud_ingest.alerts.machine import Ended, Escalated, Opened, Phase, State, advance, phase_at
from cloud_ingest.alerts.rule import NoData, Operator, Rule, Severity, Versions

NAN = math.nan
WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL
HOT = Rule(1, Operator.ABOVE, warning=80, critical=90, clear=70, for_ms=20, silence_ms=30)


class Case(NamedTuple):
    """What samples (time, value) make of a rule: episodes as (start, fired, end, severity, peak), and the end state."""

    name: str
    rule: Rule
    samples: Sequence[tuple[int, float]]
    episodes: Sequence[tuple[int, int, int | None, Severity, float]]
    phase: Phase = Phase.OK


def every(step: int, *values: float) -> list[tuple[int, float]]:
    return [(step * index, value) for index, value in enumerate(values)]


CASES = [
    Case("nothing", HOT, every(10, 50, 60, 80), []),
    Case("single spikes", HOT, every(10, 50, 99, 50, 99, 50), []),
    Case("a spike is pending until the next sample", HOT, every(10, 50, 99), [], Phase.PENDING),
    Case("oscillation around the level", HOT, every(10, 81, 79, 81, 79, 81, 79, 81), [], Phase.PENDING),
    Case(
        "oscillation around the level while firing",
        HOT,
        every(10, 81, 82, 83, 79, 81, 79, 81, 70),
        [(0, 20, 70, WARNING, 83)],
    ),
    Case("exactly the level is not above it", HOT, every(10, 80, 80, 80, 80), []),
    Case(
        "exactly the level is at least it",
        Rule(1, Operator.AT_LEAST, warning=80, for_ms=20, silence_ms=30),
        every(10, 80, 80, 80),
        [(0, 20, None, WARNING, 80)],
        Phase.FIRING,
    ),
    Case("one short of `for`", HOT, [(0, 81), (10, 81), (19, 81), (21, 60)], []),
    Case("exactly `for`", HOT, [(0, 81), (10, 81), (20, 81), (21, 60)], [(0, 20, 21, WARNING, 81)]),
    Case(
        "`for` of nothing fires at once",
        Rule(1, Operator.ABOVE, critical=90),
        every(10, 91, 90),
        [(0, 0, 10, CRITICAL, 91)],
    ),
    Case(
        "exactly the clear level ends it",
        HOT,
        every(10, 81, 81, 81, 71, 70),
        [(0, 20, 40, WARNING, 81)],
    ),
    Case(
        "critical needs its own `for`",
        HOT,
        every(10, 81, 81, 95, 95, 85),
        [(0, 20, None, WARNING, 95)],
        Phase.FIRING,
    ),
    Case(
        "critical once held, and it stays the worst",
        HOT,
        every(10, 81, 81, 95, 95, 95, 85, 75, 60),
        [(0, 20, 70, CRITICAL, 95)],
    ),
    Case(
        "critical counts as warning too",
        HOT,
        every(10, 95, 85, 95, 60),
        [(0, 20, 30, WARNING, 95)],
    ),
    Case(
        "both levels reached by the same sample",
        HOT,
        every(10, 95, 96, 95),
        [(0, 20, None, CRITICAL, 96)],
        Phase.FIRING,
    ),
    Case(
        "missing values in between do not break a run",
        HOT,
        every(10, 81, NAN, 81),
        [(0, 20, None, WARNING, 81)],
        Phase.FIRING,
    ),
    Case("a long silence breaks a run", HOT, [(0, 81), (31, 81), (41, 81)], [], Phase.PENDING),
    Case("missing values are silence", HOT, every(10, 81, NAN, NAN, NAN, 81), [], Phase.PENDING),
    Case(
        "the longest silence that does not break a run",
        HOT,
        [(0, 81), (30, 81)],
        [(0, 30, None, WARNING, 81)],
        Phase.FIRING,
    ),
    Case(
        "offline while firing, back and still high: the same episode",
        HOT,
        [*every(10, 81, 81, 81), (100_000, 85)],
        [(0, 20, None, WARNING, 85)],
        Phase.FIRING,
    ),
    Case(
        "offline while firing, back and normal: it ends with the sample that shows it",
        HOT,
        [*every(10, 81, 81, 81), (100_000, 50)],
        [(0, 20, 100_000, WARNING, 81)],
    ),
    Case(
        "back in the band of the hysteresis: it stays",
        HOT,
        [*every(10, 81, 81, 81), (100_000, 75)],
        [(0, 20, None, WARNING, 81)],
        Phase.FIRING,
    ),
    Case(
        "smaller is worse",
        Rule(1, Operator.BELOW, warning=10, critical=5, clear=12, silence_ms=30),
        every(10, 9, 4, 11, 12, 9),
        [(0, 0, 30, CRITICAL, 4), (40, 40, None, WARNING, 9)],
        Phase.FIRING,
    ),
    Case(
        "equal, of two states",
        Rule(1, Operator.EQUAL, warning=1, critical=2, silence_ms=30),
        every(10, 0, 1, 2, 1, 0),
        [(10, 10, 40, CRITICAL, 2)],
    ),
    Case(
        "unequal",
        Rule(1, Operator.UNEQUAL, critical=1, silence_ms=30),
        every(10, 1, 0, -4, 1),
        [(10, 10, 30, CRITICAL, -4)],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    episodes, state = judge(Versions([case.rule]), [Sample(*it) for it in case.samples])
    found = [(it.start_ms, it.fired_ms, it.end_ms, it.severity, it.peak) for it in episodes]
    assert found == list(case.episodes)
    assert state.phase == case.phase


def test_each_change_is_told_once() -> None:
    state, told = State(), []
    for time_ms, value in every(10, 81, 81, 81, 95, 95, 95, 99, 75, 60, 60):
        state, transition = advance(state, HOT, time_ms, value)
        if transition is not None:
            told.append((type(transition), transition.time_ms, transition.episode.severity))
    assert told == [(Opened, 20, WARNING), (Escalated, 50, CRITICAL), (Ended, 80, CRITICAL)]


def test_a_sample_that_is_not_newer_changes_nothing() -> None:
    state, _ = advance(State(), HOT, 100, 50)
    for time_ms in (100, 99, 0):
        assert advance(state, HOT, time_ms, 99) == (state, None)


def test_an_edit_begins_runs_anew_and_an_open_episode_is_judged_by_the_new_version() -> None:
    stricter = Rule(2, Operator.ABOVE, warning=60, critical=70, clear=50, for_ms=20, silence_ms=30, valid_from_ms=25)
    looser = Rule(2, Operator.ABOVE, warning=95, for_ms=20, silence_ms=30, valid_from_ms=25)

    def episodes(edit: Rule, *values: float) -> list[tuple[int, int, int | None, Severity, int]]:
        made, _ = judge(Versions([HOT, edit]), [Sample(*it) for it in every(10, *values)])
        return [(it.start_ms, it.fired_ms, it.end_ms, it.severity, it.version) for it in made]

    # firing, and beyond the critical level of the new version: the run of critical begins at the first new sample
    assert episodes(stricter, 81, 81, 81, 81, 81, 81) == [(0, 20, None, CRITICAL, 1)]
    assert episodes(stricter, 81, 81, 81, 81, 81) == [(0, 20, None, WARNING, 1)]
    # firing, and clear by the new version
    assert episodes(looser, 81, 81, 81, 81) == [(0, 20, 30, WARNING, 1)]
    # pending since 20: the new version counts from its own first sample
    assert episodes(stricter, 50, 50, 81, 81, 65, 65) == [(30, 50, None, WARNING, 2)]
    # older samples than the edit are judged as it was then
    assert episodes(stricter, 65, 65, 65, 40) == []


def test_silence_looks_as_the_rule_says_and_forgets_nothing() -> None:
    fired, _ = judge(Versions([HOT]), [Sample(*it) for it in every(10, 81, 81, 81)])
    _, firing = judge(Versions([HOT]), [Sample(*it) for it in every(10, 81, 81, 81)])
    assert fired[0].end_ms is None
    assert phase_at(firing, HOT, 50) is Phase.FIRING
    assert phase_at(firing, HOT, 51) is Phase.UNKNOWN
    keep = Rule(1, Operator.ABOVE, warning=80, no_data=NoData.KEEP)
    alert = Rule(1, Operator.ABOVE, warning=80, no_data=NoData.ALERT, silence_ms=30)
    assert phase_at(State(0), keep, 10**9) is Phase.OK
    assert phase_at(State(0), alert, 30) is Phase.OK
    assert phase_at(State(0), alert, 31) is Phase.UNKNOWN
    assert phase_at(State(), alert, 31) is Phase.UNKNOWN
    assert phase_at(State(1_000), HOT, 0) is Phase.OK


# Any order, any batches

RULES = st.builds(
    Rule,
    version=st.just(0),
    operator=st.sampled_from([Operator.ABOVE, Operator.AT_LEAST]),
    warning=st.sampled_from([None, 5.0]),
    critical=st.just(7.0),
    clear=st.sampled_from([None, 3.0]),
    for_ms=st.sampled_from([0, 2, 5]),
    silence_ms=st.sampled_from([2, 4, 1_000]),
) | st.builds(
    Rule,
    version=st.just(0),
    operator=st.just(Operator.BELOW),
    warning=st.just(3.0),
    clear=st.sampled_from([None, 5.0]),
    for_ms=st.sampled_from([0, 3]),
    silence_ms=st.just(4),
)
VALUES = st.sampled_from([0.0, 4.0, 6.0, 8.0, NAN]) | st.floats(0, 10)
SAMPLES = st.lists(st.builds(Sample, st.integers(0, 60), VALUES), max_size=60)


@st.composite
def versions(draw: st.DrawFn) -> Versions:
    starts = draw(st.lists(st.integers(1, 60), max_size=2, unique=True).map(sorted))
    rules = []
    for number, start in enumerate([0, *starts]):
        rule = draw(RULES)
        rules.append(
            Rule(
                number,
                rule.operator,
                rule.warning,
                rule.critical,
                rule.clear,
                rule.for_ms,
                rule.silence_ms,
                valid_from_ms=start,
            )
        )
    return Versions(rules)


class Receiver:
    """Judges the newest samples as they come, and the late ones when told that the gap has closed."""

    def __init__(self, rules: Versions) -> None:
        self.rules = rules
        self.samples: list[Sample] = []
        self.late: list[int] = []
        self.state = State()
        self.ended: list[Episode] = []

    def take(self, batch: Iterable[Sample]) -> None:
        for sample in sorted(batch, key=lambda it: it.time_ms):
            self.samples.append(sample)
            if self.state.time_ms is not None and sample.time_ms <= self.state.time_ms:
                before = self.state
                self.advance(sample)
                assert self.state == before
                self.late.append(sample.time_ms)
            else:
                self.advance(sample)

    def advance(self, sample: Sample) -> None:
        rule = self.rules.at(sample.time_ms)
        assert rule is not None
        episodes, self.state = judge(self.rules, [sample], self.state)
        self.ended += [it for it in episodes if it.end_ms is not None]

    def close(self) -> None:
        if not self.late:
            return
        samples = in_order(self.samples)
        after, until = affected(self.rules, samples, min(self.late), max(self.late))
        self.late.clear()
        span = [
            it for it in samples if (after is None or it.time_ms > after) and (until is None or it.time_ms <= until)
        ]
        episodes, state = judge(self.rules, span, State(after))
        outside = [
            it
            for it in self.ended
            if (after is not None and it.start_ms <= after) or (until is not None and it.start_ms > until)
        ]
        again = [it for it in episodes if it.end_ms is not None]
        self.ended = sorted([*outside, *again], key=lambda it: it.start_ms)
        if until is None:
            self.state = state
        else:
            assert state.is_idle


@given(versions(), SAMPLES, st.data())
def test_any_order_and_any_batches_give_the_same_episodes(
    rules: Versions, samples: list[Sample], data: st.DataObject
) -> None:
    receiver = Receiver(rules)
    left = data.draw(st.permutations(samples))
    while left:
        size = data.draw(st.integers(1, len(left)))
        batch, left = left[:size], left[size:]
        receiver.take([*batch, *data.draw(st.lists(st.sampled_from(batch), max_size=2))])  # some twice
        if data.draw(st.booleans()):
            receiver.close()
    receiver.close()
    episodes, state = judge(rules, in_order(samples))
    assert receiver.ended == [it for it in episodes if it.end_ms is not None]
    assert receiver.state == state


@given(versions(), SAMPLES)
def test_episodes_do_not_overlap_and_begin_and_end_with_samples(rules: Versions, samples: list[Sample]) -> None:
    episodes, _ = judge(rules, in_order(samples))
    times = {it.time_ms for it in samples if not math.isnan(it.value)}
    for it in episodes:
        assert {it.start_ms, it.fired_ms, it.peak_ms} | ({it.end_ms} - {None}) <= times
        assert it.start_ms <= it.fired_ms
        assert it.end_ms is None or max(it.fired_ms, it.peak_ms) < it.end_ms
    for before, after in pairwise(episodes):
        assert before.end_ms is not None
        assert before.end_ms < after.start_ms


@given(versions(), SAMPLES, st.integers(0, 60), st.lists(st.builds(Sample, st.integers(0, 60), VALUES), max_size=20))
def test_a_clear_sample_forgets_all_that_was_before(
    rules: Versions, samples: list[Sample], moment: int, others: list[Sample]
) -> None:
    rule = rules.at(moment)
    assert rule is not None
    clear = next(value for value in (0.0, 10.0) if rule.is_clear(value))

    def after(history: list[Sample]) -> State:
        earlier = [it for it in in_order(history) if it.time_ms < moment]
        return judge(rules, [*earlier, Sample(moment, clear)])[1]

    assert after(samples) == after(others) == State(moment)
