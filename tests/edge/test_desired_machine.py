"""The machine against a model that keeps the whole history, and each way through it by name."""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.desired import machine
from edge_agent.desired.machine import MAX_ATTEMPTS, Interrupted, State
from telemetry_contract.desired import DesiredConfig, DesiredSampling
from telemetry_contract.payload import DesiredState

WITHIN = 10.0


def config(version: int, interval: float = 1.0) -> DesiredConfig:
    return DesiredConfig(v=1, version=version, sampling=DesiredSampling(interval_seconds=interval))


def trying(version: int, good: DesiredConfig | None = None) -> State:
    return machine.heard(State(good=good), config(version), 0, WITHIN)


def restarted(state: State) -> State:
    """As the file has it."""
    trial = state.trial
    interrupted = state.interrupted if trial is None else Interrupted(trial.config, trial.attempt)
    return State(good=state.good, interrupted=interrupted, given_up=state.given_up)


def test_a_new_one_is_on_trial_until_a_sample_is_confirmed() -> None:
    state = trying(1)
    assert state.report == DesiredState(state="trying", version=1, in_effect=1)
    state = machine.confirmed(state)
    assert state.report == DesiredState(state="applied", version=1, in_effect=1)
    assert machine.clock(state, 1e9, WITHIN) == state


def test_without_a_confirmation_the_one_before_comes_back_and_the_bad_one_is_not_tried_again() -> None:
    state = trying(2, good=config(1))
    assert machine.clock(state, 9.9, WITHIN) == state
    state = machine.clock(state, 10, WITHIN)
    assert state.report == DesiredState(
        state="reverted", version=2, reason="no sample was confirmed within 10 s", in_effect=1
    )
    for again in (state, restarted(state)):
        heard = machine.heard(again, config(2), 11, WITHIN)
        assert (heard.in_effect, heard.report) == (config(1), state.report)


def test_the_same_settings_under_a_new_version_are_tried() -> None:
    state = machine.clock(trying(2), 10, WITHIN)
    assert machine.heard(state, config(3), 11, WITHIN).in_effect == config(3)


def test_a_confirmation_that_comes_after_the_end_of_the_trial_changes_nothing() -> None:
    state = machine.clock(trying(2), 10, WITHIN)
    assert machine.confirmed(state) == state


def test_one_that_ends_the_agent_each_time_is_tried_three_times() -> None:
    state, tried = State(good=config(1)), 0
    while machine.heard(state, config(2), 0, WITHIN).trial is not None:
        state, tried = restarted(machine.heard(state, config(2), 0, WITHIN)), tried + 1
        assert state.in_effect == config(1), "until it is heard again, the good one holds"
    assert tried == MAX_ATTEMPTS
    state = machine.heard(state, config(2), 0, WITHIN)
    assert state.report == DesiredState(
        state="reverted", version=2, reason="the agent ended 3 times before a sample was confirmed", in_effect=1
    )


def test_one_that_can_not_be_read_leaves_all_as_it_is() -> None:
    state = machine.heard_unusable(trying(2, good=config(1)), 3, "x" * 300)
    assert state.report is not None
    assert (state.report.state, state.report.version, state.report.in_effect) == ("refused", 3, 2)
    assert state.report.reason is not None
    assert len(state.report.reason) == 256
    assert machine.confirmed(state).report == state.report, "the newest is still refused"
    assert machine.clock(state, 10, WITHIN).in_effect == config(1)


def test_one_that_does_not_fit_is_refused_and_not_tried_again_while_the_agent_runs() -> None:
    state = machine.failed(trying(2, good=config(1)), "no such collector")
    assert state.report == DesiredState(state="refused", version=2, reason="no such collector", in_effect=1)
    assert machine.heard(state, config(2), 1, WITHIN) == state
    assert machine.heard(restarted(state), config(2), 1, WITHIN).in_effect == config(2)


def test_a_good_one_that_does_not_fit_any_more_ends() -> None:
    state = machine.failed(State(good=config(1)), "the collector is gone")
    assert (state.in_effect, state.report) == (
        None,
        DesiredState(state="refused", version=1, reason="the collector is gone"),
    )
    assert machine.failed(state, "again") == state


def test_back_to_the_good_one_needs_no_trial() -> None:
    state = machine.heard(trying(2, good=config(1)), config(1), 5, WITHIN)
    assert state.report == DesiredState(state="applied", version=1, in_effect=1)


def test_cleared_leaves_the_device_to_itself() -> None:
    state = machine.cleared(trying(2, good=config(1)))
    assert (state.in_effect, state.report) == (None, None)


class AgainstHistory(RuleBasedStateMachine):
    """Any order of events, with what must hold told from what happened."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.now = 0.0
        self.good: DesiredConfig | None = None  # the last that was proved, unless cleared or failed
        self.reverted: DesiredConfig | None = None

    @rule(version=st.integers(1, 4), interval=st.sampled_from([1.0, 2.0]))
    def hear(self, version: int, interval: float) -> None:
        wanted = config(version, interval)
        refused = self.state.verdict is not None and self.state.verdict.config == wanted
        before = self.state
        self.state = machine.heard(before, wanted, self.now, WITHIN)
        if wanted == self.reverted:
            assert self.state.in_effect != wanted
        elif not refused and self.state.verdict is None:
            assert self.state.in_effect == wanted
        self._note_reverted(before)

    @rule(version=st.integers(1, 4))
    def hear_rubbish(self, version: int) -> None:
        effect = self.state.in_effect
        self.state = machine.heard_unusable(self.state, version, "rubbish")
        assert self.state.in_effect == effect

    @rule()
    def clear(self) -> None:
        self.state, self.good = machine.cleared(self.state), None
        assert self.state.in_effect is None

    @rule()
    def confirm(self) -> None:
        if self.state.trial is not None:
            self.good = self.state.trial.config
        self.state = machine.confirmed(self.state)

    @precondition(lambda self: self.state.in_effect is not None)
    @rule()
    def fail(self) -> None:
        if self.state.trial is None:
            self.good = None
        self.state = machine.failed(self.state, "does not fit")

    @rule(seconds=st.floats(0, 2 * WITHIN))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        before = self.state
        self.state = machine.clock(before, self.now, WITHIN)
        self._note_reverted(before)

    @rule()
    def restart(self) -> None:
        self.state = restarted(self.state)
        assert self.state.in_effect == self.good

    def _note_reverted(self, before: State) -> None:
        if self.state.given_up is not before.given_up:
            assert self.state.given_up is not None
            self.reverted = self.state.given_up.config

    @invariant()
    def what_proved_itself_is_never_lost(self) -> None:
        assert self.state.good == self.good

    @invariant()
    def no_trial_outlives_its_time(self) -> None:
        trial = machine.clock(self.state, self.now, WITHIN).trial
        assert trial is None or trial.deadline > self.now

    @invariant()
    def the_report_says_what_is_in_effect(self) -> None:
        effect, report = self.state.in_effect, self.state.report
        assert (report.in_effect if report else None) == (effect.version if effect else None)
        if report is not None and report.state in {"applied", "trying"}:
            assert report.version == report.in_effect

    @invariant()
    def time_alone_does_nothing_before_the_deadline(self) -> None:
        if self.state.trial is None:
            assert machine.clock(self.state, self.now + 1e9, WITHIN) == replace(self.state)


TestAgainstHistory = AgainstHistory.TestCase
