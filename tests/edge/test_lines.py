"""Streams cut into lines, and budgets, as pure functions of what comes in."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.budget import Budget
from edge_agent.lines import Lines


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    return [stream[start:end] for start, end in itertools.pairwise(ends)]


@given(
    st.lists(st.sampled_from([b"a", b"\n", b"\n\n", b"bcd", b"12345678", b"\r\n"])).map(b"".join),
    st.lists(st.integers(0, 60)),
)
def test_lines_do_not_depend_on_where_the_stream_is_cut(stream: bytes, cuts: list[int]) -> None:
    lines = Lines(max_bytes=5)
    answers = [lines.feed(piece) for piece in pieces(stream, cuts)]
    *ended, unfinished = stream.split(b"\n")
    assert [line for kept, _ in answers for line in kept] == [line for line in ended if len(line) <= 5]
    assert sum(too_long for _, too_long in answers) == sum(len(line) > 5 for line in ended)
    assert lines.unfinished == (unfinished != b"")


def test_line_without_end_takes_no_more_memory_than_a_line_may() -> None:
    lines = Lines(max_bytes=10)
    for _ in range(100):
        assert lines.feed(b"x" * 10) == ([], 0)
        assert len(lines._unfinished) <= 10  # noqa: SLF001 - there is no other way to see what it keeps
    assert lines.feed(b"\nnext\n") == ([b"next"], 1)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_budget_is_spent_and_fills_again() -> None:
    clock = Clock()
    budget = Budget(3, 0.5, clock=clock)
    assert [budget.spend(1) for _ in range(4)] == [True, True, True, False]
    clock.now += 2
    assert [budget.spend(1), budget.spend(1)] == [True, False]
    clock.now += 1_000
    assert [budget.spend(1) for _ in range(4)] == [True, True, True, False]


def test_overdrawn_budget_says_how_long_to_pause() -> None:
    clock = Clock()
    budget = Budget(100, 50, clock=clock)
    assert budget.overdraw(100) == 0
    assert budget.overdraw(25) == pytest.approx(0.5)
    clock.now += 0.25
    assert budget.overdraw(0) == pytest.approx(0.25)
    clock.now += 0.25
    assert budget.overdraw(0) == 0
