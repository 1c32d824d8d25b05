import threading
from collections.abc import Callable

import pytest
from harness.wait import until

from edge_agent.hands import Hands

LONG = 30.0


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


class Held:
    """A function that does not return until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        self.begun.set()
        self.let_go.wait(LONG)
        return self.calls


def hands(patience_seconds: float = LONG, **functions: Callable[[], int]) -> Hands[int]:
    return Hands(functions, name=f"hands {id(functions)}", patience_seconds=patience_seconds)


def values(of: Hands[int], asked: frozenset[str]) -> dict[str, int | None]:
    outcomes = {name: of.outcome(name, LONG) for name in asked}
    return {name: None if outcome is None else outcome.value for name, outcome in outcomes.items()}


def test_one_thread_makes_all_calls_in_their_order() -> None:
    made: list[tuple[str, int]] = []

    def noting(name: str) -> Callable[[], int]:
        def note() -> int:
            made.append((name, threading.get_ident()))
            return len(made)

        return note

    both = hands(a=noting("a"), b=noting("b"))
    for _ in range(3):
        assert both.begin() == {"a", "b"}
        values(both, frozenset("ab"))
    assert [name for name, _ in made] == ["a", "b"] * 3
    assert len({thread for _, thread in made}) == 1
    both.close()


@pytest.mark.parametrize("at_once", [False, True])
def test_a_single_function_is_always_called_in_the_same_thread(at_once: bool) -> None:  # noqa: FBT001 - the case
    threads: set[int] = set()

    def call() -> int:
        threads.add(threading.get_ident())
        return len(threads)

    one = hands(1e-9, call=call)
    for _ in range(300):
        assert one.begin(at_once=at_once) == {"call"}
        assert values(one, frozenset({"call"})) == {"call": 1}
    one.close()


def test_a_call_that_takes_its_time_holds_up_the_others_no_longer_than_patience() -> None:
    slow = Held()
    both = hands(0.01, slow=slow, quick=lambda: 7)
    assert both.begin() == {"slow", "quick"}
    quick = both.outcome("quick", LONG)
    assert quick is not None
    assert quick.value == 7
    assert both.outcome("slow", 0.0) is None
    assert both.begin() == {"quick"}
    assert values(both, frozenset({"quick"})) == {"quick": 7}
    slow.let_go.set()
    until(lambda: "slow" in both.begin(), 10, "the slow one to have returned")
    assert values(both, frozenset({"slow"})) == {"slow": 2}
    both.close()


def test_threads_that_are_not_needed_any_more_end() -> None:
    slow = [Held() for _ in range(4)]
    name = "hands that end"
    functions = {str(number): one for number, one in enumerate(slow)}
    four: Hands[int] = Hands(functions, name=name, patience_seconds=LONG)
    four.begin(at_once=True)
    until(lambda: all(one.begun.is_set() for one in slow), 10, "all to have begun, beside each other")
    assert len(threads_of(name)) == 4
    for one in slow:
        one.let_go.set()
    until(lambda: len(threads_of(name)) == 1, 10, "all but one to end")
    four.close()
    until(lambda: not threads_of(name), 10, "that one to end")


def test_what_could_not_begin_in_time_is_not_begun_any_more() -> None:
    slow, other = Held(), Held()
    both = hands(slow=slow, other=other)
    both.begin()
    assert slow.begun.wait(LONG)
    assert both.outcome("other", 0.0) is None
    slow.let_go.set()
    until(lambda: both.outcome("slow", 0.0) is not None, 10, "the first to return")
    assert other.calls == 0
    both.close()


def test_what_returns_late_is_no_answer_to_the_next_call() -> None:
    slow = Held()
    one = hands(slow=slow)
    one.begin()
    assert slow.begun.wait(LONG)
    assert one.outcome("slow", 0.0) is None
    slow.let_go.set()
    until(lambda: one.begin() == {"slow"}, 10, "the call to have returned")
    answer = one.outcome("slow", LONG)
    assert answer is not None
    assert answer.value == slow.calls == 2
    one.close()


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3)])
def test_what_a_function_raises_is_its_outcome(error: BaseException) -> None:
    def fail() -> int:
        raise error

    both = hands(bad=fail, good=lambda: 1)
    both.begin()
    outcome = both.outcome("bad", LONG)
    assert outcome is not None
    assert outcome.error is error
    assert values(both, frozenset({"good"})) == {"good": 1}
    both.close()
