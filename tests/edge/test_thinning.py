"""Which ticks may go, decided without an outbox."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.thinning import Thinning


def thinned(times: Sequence[int], limit: int, spared: frozenset[int] = frozenset()) -> list[int]:
    """What goes of ticks of one layout, whose numbers are their positions."""
    thinning = Thinning(limit)
    looked = (thinning.look(seq, t_ms, 1, spared=seq in spared) for seq, t_ms in enumerate(times))
    return [seq for seq in looked if seq is not None]


def test_every_second_one_goes_and_the_ends_stay() -> None:
    assert thinned(range(0, 90, 10), 1_000) == [1, 3, 5, 7]
    assert thinned(range(0, 80, 10), 1_000) == [1, 3, 5]


@pytest.mark.parametrize(("limit", "gone"), [(19, []), (20, [1, 3, 5, 7])])
def test_what_stays_is_no_further_apart_than_the_limit(limit: int, gone: list[int]) -> None:
    assert thinned(range(0, 90, 10), limit) == gone


def test_layouts_lose_the_same_share() -> None:
    thinning = Thinning(1_000)
    ticks = [(seq, seq, seq % 3) for seq in range(24)]
    gone = [it for it in (thinning.look(*tick) for tick in ticks) if it is not None]
    assert [seq % 3 for seq in sorted(gone)] == [0, 1, 2] * 3


def test_what_is_spared_stays_and_its_neighbours_go() -> None:
    assert thinned(range(0, 90, 10), 1_000, frozenset({3, 4})) == [1, 5, 7]


def test_a_tick_between_two_times_of_the_clock_stays() -> None:
    assert thinned([0, 10, 1_000_000, 20, 30, 40], 100) == [4]


def test_what_is_undecided_is_said_and_can_be_kept() -> None:
    thinning = Thinning(1_000)
    assert thinning.undecided() is None
    for seq, layout in enumerate([1, 2, 1, 2, 1]):
        thinning.look(seq, seq, layout)
    assert thinning.undecided() == 3
    thinning.keep_below(3)
    assert thinning.undecided() == 3
    thinning.keep_below(4)
    assert thinning.undecided() is None
    assert thinning.look(5, 5, 2) is None


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 3)), max_size=60), st.integers(0, 300))
def test_no_gap_is_made_beyond_the_limit_and_nothing_goes_beside_something_gone(
    steps: list[tuple[int, int]], limit: int
) -> None:
    thinning = Thinning(limit)
    ticks: dict[int, list[tuple[int, int]]] = {1: [], 2: [], 3: []}
    gone = set()
    now = 0
    for seq, (step, layout) in enumerate(steps):
        now += step
        ticks[layout].append((seq, now))
        gone.add(thinning.look(seq, now, layout))
    for row in ticks.values():
        stays = [(position, t) for position, (seq, t) in enumerate(row) if seq not in gone]
        assert [position for position, _ in stays][:1] == [0][: len(row)]
        for (position, t), (next_position, next_t) in pairwise(stays):
            assert next_position - position <= 2
            assert next_position - position == 1 or next_t - t <= limit
        # Nothing could have gone that stayed, but every second one.
        for (_, t), (_, middle), (_, next_t) in zip(row, row[1:], row[2:], strict=False):
            assert next_t - t > limit or not gone.isdisjoint(seq for seq, at in row if at in (t, middle, next_t))
