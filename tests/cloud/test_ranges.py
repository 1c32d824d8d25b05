"""Ranges, against plain sets of numbers."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.store.ranges import contains, from_multirange, runs, to_multirange

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
