from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.clock import (
    AGREED_MS,
    AHEAD_MS,
    BEHIND_MS,
    EARLIEST_MS,
    REFERENCE_SECONDS,
    Boot,
    Estimate,
    Moment,
    Source,
    Timekeeper,
    stamps,
)

START_MS = EARLIEST_MS + 90 * 86_400_000
WEEK_MS = 7 * 86_400_000
NS = 1_000_000


@dataclass
class Machine:
    """A simulated machine: true time passes, the wall clock is off by `error_ms`, the boot clock began at 0."""

    error_ms: int = 0
    synchronised: bool | None = False
    true_ms: int = START_MS
    booted_ms: int = START_MS
    keeper: Timekeeper = field(default_factory=Timekeeper)

    @property
    def now(self) -> Moment:
        return Moment(max(0, self.true_ms + self.error_ms), (self.true_ms - self.booted_ms) * NS)

    def source(self) -> Source:
        return self.keeper.source

    def passes(self, ms: int) -> None:
        self.true_ms += ms

    def observes(self) -> None:
        self.keeper.observe(self.now, synchronised=self.synchronised)

    def is_synchronised(self) -> None:
        self.error_ms, self.synchronised = 0, True
        self.observes()

    def is_set_by_hand(self, error_ms: int) -> None:
        """The kernel takes a clock that was set for not synchronised."""
        self.error_ms = error_ms
        self.synchronised = False if self.synchronised is not None else None
        self.observes()

    def hears(self, *, after_ms: int = 0) -> None:
        """The cloud, whose answer was on its way for so long."""
        said = self.true_ms
        self.passes(after_ms)
        self.keeper.server_said(said, self.now)


BOOTS = [
    pytest.param(-START_MS, id="in 1970"),
    pytest.param(2 * WEEK_MS, id="two weeks ahead"),
    pytest.param(-3_600_000, id="an hour behind"),
    pytest.param(0, id="right by chance"),
]


@pytest.mark.parametrize("error_ms", BOOTS)
def test_readings_get_their_true_time_once_the_kernel_knows_it(error_ms: int) -> None:
    machine = Machine(error_ms)
    taken: list[tuple[int, Moment]] = []
    for _ in range(60):
        machine.passes(5_000)
        machine.observes()
        taken.append((machine.true_ms, machine.now))
        assert machine.keeper.corrected(machine.now) is None
    machine.passes(1_234)
    machine.is_synchronised()
    assert machine.source() == Source.SYSTEM
    assert [machine.keeper.corrected(moment) for _, moment in taken] == [true for true, _ in taken]


@pytest.mark.parametrize("error_ms", BOOTS)
def test_readings_get_their_true_time_from_the_cloud_where_there_is_no_other(error_ms: int) -> None:
    machine = Machine(error_ms)
    machine.passes(5_000)
    machine.observes()
    true_ms, taken = machine.true_ms, machine.now
    machine.passes(60_000)
    machine.hears(after_ms=300)
    assert machine.source() == Source.CLOUD
    corrected = machine.keeper.corrected(taken)
    assert corrected is not None
    assert 0 <= true_ms - corrected <= 300


def test_a_clock_that_is_right_is_not_moved_by_a_slow_answer_of_the_cloud() -> None:
    machine = Machine()
    machine.observes()
    machine.hears(after_ms=AHEAD_MS - 1)
    assert machine.keeper.known
    assert machine.keeper.corrected(machine.now) == machine.true_ms


def test_a_faster_answer_of_the_cloud_mends_what_a_slow_one_made_of_a_wrong_clock() -> None:
    machine = Machine(-3_600_000)
    machine.hears(after_ms=8_000)
    assert machine.keeper.corrected(machine.now) == machine.true_ms - 8_000
    machine.hears(after_ms=40)
    assert machine.keeper.corrected(machine.now) == machine.true_ms - 40
    machine.hears(after_ms=9_000)
    assert machine.keeper.corrected(machine.now) == machine.true_ms - 40


def test_an_old_answer_of_the_cloud_gives_way_as_crystals_stray() -> None:
    machine = Machine(-3_600_000)
    machine.hears()
    machine.passes((REFERENCE_SECONDS + 1) * 1_000)
    machine.booted_ms -= AHEAD_MS + 1_000  # the boot clock has counted too much
    machine.hears()
    assert machine.keeper.corrected(machine.now) == machine.true_ms


def test_answers_of_the_cloud_that_differ_a_little_do_not_shake_the_time() -> None:
    machine = Machine(-3_600_000)
    machine.hears(after_ms=300)
    machine.hears(after_ms=40)
    assert machine.keeper.corrected(machine.now) == machine.true_ms - 300


def test_a_reading_keeps_its_time_while_the_wall_clock_is_slewed() -> None:
    machine = Machine(AGREED_MS, synchronised=True)
    machine.observes()
    taken = machine.now
    machine.is_synchronised()
    assert machine.keeper.corrected(taken) == taken.wall_ms == machine.true_ms + AGREED_MS


def test_the_kernel_is_believed_before_the_cloud() -> None:
    machine = Machine()
    machine.is_synchronised()
    machine.keeper.server_said(machine.true_ms + WEEK_MS, machine.now)
    assert machine.source() == Source.SYSTEM
    assert machine.keeper.corrected(machine.now) == machine.true_ms
    assert machine.keeper.ahead_of_cloud_ms == -WEEK_MS


@pytest.mark.parametrize("step_ms", [2 * WEEK_MS, -3_600_000, 1_000, -1_000])
def test_a_known_time_goes_on_when_somebody_sets_the_wall_clock(step_ms: int) -> None:
    machine = Machine()
    machine.is_synchronised()
    machine.passes(10_000)
    machine.is_set_by_hand(step_ms)
    machine.passes(10_000)
    machine.observes()
    assert machine.keeper.corrected(machine.now) == machine.true_ms
    machine.is_synchronised()
    assert machine.keeper.corrected(machine.now) == machine.true_ms


def test_a_step_by_the_time_service_is_followed() -> None:
    machine = Machine(error_ms=40_000, synchronised=True)
    machine.observes()
    machine.error_ms = 0
    machine.passes(5_000)
    machine.observes()
    assert machine.keeper.corrected(machine.now) == machine.true_ms


def test_a_synchronised_clock_in_the_past_of_this_program_is_not_believed() -> None:
    machine = Machine(-START_MS, synchronised=True)
    machine.observes()
    assert not machine.keeper.known


def test_a_cloud_in_the_past_of_this_program_is_not_believed() -> None:
    keeper = Timekeeper()
    keeper.server_said(EARLIEST_MS - 1, Moment(EARLIEST_MS + 1, 0))
    assert not keeper.known


def test_where_the_kernel_can_not_say_the_wall_clock_counts_until_the_cloud_contradicts_it() -> None:
    machine = Machine(2 * WEEK_MS, synchronised=None)
    machine.observes()
    assert machine.keeper.corrected(machine.now) == machine.true_ms + 2 * WEEK_MS
    machine.hears(after_ms=200)
    machine.observes()
    assert machine.keeper.corrected(machine.now) == machine.true_ms - 200
    assert machine.source() == Source.CLOUD
    machine.is_set_by_hand(0)
    assert machine.source() == Source.SYSTEM
    assert machine.keeper.corrected(machine.now) == machine.true_ms


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens to a machine: a known time is never forgotten, and never further off than its sources are."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.was_known = False

    @rule(error_ms=st.sampled_from([-START_MS, 2 * WEEK_MS, -3_600_000, 0]) | st.integers(-WEEK_MS, WEEK_MS))
    @precondition(lambda self: not self.was_known)
    def boots_with(self, error_ms: int) -> None:
        self.machine = Machine(error_ms)

    @rule(ms=st.integers(0, 10_000_000))
    def passes(self, ms: int) -> None:
        self.machine.passes(ms)
        self.machine.observes()

    @rule()
    def is_synchronised(self) -> None:
        self.machine.is_synchronised()

    @rule(error_ms=st.integers(-WEEK_MS, WEEK_MS))
    def is_set_by_hand(self, error_ms: int) -> None:
        self.machine.is_set_by_hand(error_ms)

    @rule(after_ms=st.integers(0, AHEAD_MS))
    def hears(self, after_ms: int) -> None:
        self.machine.hears(after_ms=after_ms)
        assert self.machine.keeper.known

    @invariant()
    def known_times_are_true(self) -> None:
        keeper, now = self.machine.keeper, self.machine.now
        assert keeper.known or not self.was_known
        self.was_known = keeper.known
        corrected = keeper.corrected(now)
        if corrected is not None:
            assert abs(corrected - self.machine.true_ms) <= AHEAD_MS + BEHIND_MS + AGREED_MS
        if self.machine.synchronised and corrected is not None:
            assert abs(corrected - self.machine.true_ms) <= AGREED_MS


TestAnyHistory = AnyHistory.TestCase


def moments(begin_ms: int, *after_s: int) -> list[Moment]:
    return [Moment(begin_ms + s * 1_000, 7_000_000_000 + s * 1_000_000_000) for s in after_s]


def estimated(group: list[Moment], *, low_ms: int, high_ms: int | None) -> list[int]:
    estimate = Estimate.between(group[0], group[-1], low_ms=low_ms, high_ms=high_ms)
    return [estimate.time_ms(moment.boot_ns) for moment in group]


def test_times_that_the_neighbours_allow_are_kept() -> None:
    group = moments(START_MS, 0, 5, 10)
    kept = [START_MS, START_MS + 5_000, START_MS + 10_000]
    assert estimated(group, low_ms=START_MS - 1, high_ms=START_MS + 10_000) == kept
    assert estimated(group, low_ms=START_MS, high_ms=None) == kept


def test_times_of_1970_end_where_the_machine_was_started_again() -> None:
    high = START_MS + WEEK_MS
    assert estimated(moments(0, 0, 5, 10), low_ms=START_MS, high_ms=high) == [high - 10_000, high - 5_000, high]


def test_times_ahead_of_the_next_start_are_moved_before_it() -> None:
    high = START_MS + 20_000
    ahead = moments(START_MS + 2 * WEEK_MS, 0, 10)
    assert estimated(ahead, low_ms=START_MS, high_ms=high) == [high - 10_000, high]


def test_without_a_later_start_times_of_1970_follow_what_was_before() -> None:
    assert estimated(moments(0, 0, 5), low_ms=START_MS, high_ms=None) == [START_MS, START_MS + 5_000]


def test_no_room_between_the_neighbours() -> None:
    high = START_MS + 7_000
    assert estimated(moments(0, 0, 5, 10), low_ms=START_MS, high_ms=high) == [START_MS, START_MS + 5_000, high]


def test_a_clock_that_was_set_within_the_group_counts_as_it_was_last() -> None:
    group = [Moment(0, 0), Moment(5_000, 5_000 * NS), Moment(START_MS, 10_000 * NS)]
    times = estimated(group, low_ms=EARLIEST_MS, high_ms=None)
    assert times == [START_MS - 10_000, START_MS - 5_000, START_MS]


def test_readings_that_were_stored_out_of_order_stay_between_the_neighbours() -> None:
    late = [Moment(0, 10_000 * NS), Moment(0, 5_000 * NS), Moment(0, 12_000 * NS)]
    assert estimated(late, low_ms=START_MS, high_ms=None) == [START_MS, START_MS, START_MS + 2_000]


@given(
    st.lists(st.builds(Moment, st.integers(0, 2 * START_MS), st.integers(0, 10**15)), min_size=1, max_size=20),
    st.integers(0, START_MS),
    st.none() | st.integers(0, START_MS),
)
def test_estimates_lie_between_the_neighbours_in_order(group: list[Moment], low_ms: int, room_ms: int | None) -> None:
    group = sorted(group, key=lambda it: it.boot_ns)
    high_ms = None if room_ms is None else low_ms + room_ms
    times = estimated(group, low_ms=low_ms, high_ms=high_ms)
    assert len(times) == len(group)
    assert times == sorted(times)
    assert times[0] >= low_ms
    assert high_ms is None or times[-1] <= high_ms
    span_ms = (group[-1].boot_ns - group[0].boot_ns) // NS
    if room_ms is None or span_ms <= room_ms:
        assert times[-1] - times[0] == span_ms


def stamped(boots: dict[str, list[Moment]], keeper: Timekeeper, *, newest_ms: int = 0) -> list[tuple[int, bool]]:
    """Times of the readings of all boots, of which `now` goes on."""
    order = [Boot(name, group[0], group[-1]) for name, group in boots.items()]
    found = stamps(order, present="now", keeper=keeper, newest_ms=newest_ms)
    return [(found[name].time_ms(moment), found[name].known) for name, group in boots.items() for moment in group]


def test_readings_of_the_boots_before_end_where_the_next_begins() -> None:
    machine = Machine(-START_MS)
    machine.passes(60_000)
    now = [Moment(60_000, 60_000 * NS)]
    before = moments(0, 0, 5)
    machine.is_synchronised()
    assert stamped({"a": before, "b": before, "now": now}, machine.keeper) == [
        (START_MS - 10_000, False),
        (START_MS - 5_000, False),
        (START_MS - 5_000, False),
        (START_MS, False),
        (START_MS + 60_000, True),
    ]


def test_readings_of_the_boot_before_end_where_this_one_began_also_without_readings_of_its_own() -> None:
    machine = Machine()
    machine.is_synchronised()
    assert stamped({"a": moments(0, 0, 5)}, machine.keeper) == [(START_MS - 5_000, False), (START_MS, False)]


def test_a_time_that_was_kept_over_a_restart_is_believed_where_it_fits() -> None:
    machine = Machine()
    machine.is_synchronised()
    kept = moments(START_MS - 3_600_000, 0, 5)
    assert stamped({"a": kept}, machine.keeper) == [(START_MS - 3_600_000, False), (START_MS - 3_595_000, False)]


def test_what_is_never_known_follows_the_newest_that_is() -> None:
    newest_ms = START_MS + WEEK_MS
    unknown = Timekeeper()
    assert stamped({"a": moments(0, 0, 5), "now": moments(0, 0, 5)}, unknown, newest_ms=newest_ms) == [
        (newest_ms, False),
        (newest_ms, False),
        (newest_ms, False),
        (newest_ms + 5_000, False),
    ]
    plausible = moments(newest_ms + WEEK_MS, 0, 5)
    assert stamped({"now": plausible}, unknown, newest_ms=newest_ms) == [(it.wall_ms, False) for it in plausible]
    assert stamped({"now": moments(0, 0)}, unknown) == [(EARLIEST_MS, False)]


def test_a_newest_time_from_a_clock_that_was_ahead_does_not_push_beyond_the_present() -> None:
    machine = Machine()
    machine.is_synchronised()
    assert stamped({"a": moments(0, 0, 5)}, machine.keeper, newest_ms=START_MS + WEEK_MS) == [
        (START_MS, False),
        (START_MS, False),
    ]
