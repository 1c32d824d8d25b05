"""Ranges, against plain sets of numbers."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.store.ranges import contains, count, from_multirange, minus, runs, runs_of, to_multirange

numbers = st.sets(st.integers(1, 60) | st.integers(1, 2**62))


def members(ranges: list[tuple[int, int]], candidates: set[int]) -> set[int]:
    return {number for number in candidates if contains(ranges, number)}


@given(numbers)
def test_runs_hold_exactly_the_numbers_in_the_fewest_ranges(chosen: set[int]) -> None:
    ranges = runs(chosen)
    neighbours = {n + d for n in chosen for d in (-1, 0, 1)}
    assert members(ranges, neighbours) == chosen
    assert sum(last - first + 1 for first, last in ranges) == len(chosen)
    assert all(later[0] > earlier[1] + 1 for earlier, later in itertools.pairwise(ranges))


def test_runs_of_repeated_and_unsorted_numbers() -> None:
    assert runs([5, 3, 4, 3, 9]) == [(3, 5), (9, 9)]
    assert runs([]) == []


def test_multirange_texts() -> None:
    assert to_multirange([(1, 3), (7, 7)]) == "{[1,3],[7,7]}"
    assert from_multirange("{[1,4),[7,8)}") == [(1, 3), (7, 7)]
    assert from_multirange("{}") == []


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9))),
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9))),
)
def test_ranges_are_joined_counted_and_subtracted_like_sets(
    some: list[tuple[int, int]], others: list[tuple[int, int]]
) -> None:
    left, right = (runs_of((first, first + more) for first, more in it) for it in (some, others))
    left_set, right_set = ({number for a, b in it for number in range(a, b + 1)} for it in (left, right))
    assert left_set == {number for first, more in some for number in range(first, first + more + 1)}
    assert left == runs(left_set)
    assert count(left) == len(left_set)
    assert minus(left, right) == runs(left_set - right_set)
