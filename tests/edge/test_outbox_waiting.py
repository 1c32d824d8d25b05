"""Readings that wait in the outbox until it is known when they were taken."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.clock import Boot, Moment
from edge_agent.layout import UNSYNCHRONISED
from edge_agent.outbox import Outbox, unpack
from edge_agent.reading import Reading
from edge_agent.write_behind import RESERVED, WriteBehindOutbox


def reading(number: int, *keys: str, width: int = 2) -> Reading:
    names = keys or tuple(f"metric_{it}" for it in range(width))
    return Reading(t_ms=number, monotonic_ns=number * 1_000, values=dict.fromkeys(names, float(number)))


@pytest.fixture(params=[Outbox, WriteBehindOutbox])
def kind(request: pytest.FixtureRequest) -> type[Outbox]:
    chosen: type[Outbox] = request.param
    return chosen


def open_(kind: type[Outbox], path: Path, **options: Any) -> Outbox:
    return kind.open(path, **{"max_bytes": 10_000_000, **options})


@pytest.fixture
def outbox(kind: type[Outbox], tmp_path: Path) -> Iterator[Outbox]:
    with closing(open_(kind, tmp_path / "outbox.db")) as opened:
        yield opened


def later(_boot: str, moment: Moment) -> tuple[int, bool]:
    return moment.wall_ms + 1_000_000, True


def content(outbox: Outbox) -> list[tuple[int, int, tuple[float, ...]]]:
    return [(it.seq, it.t_ms, unpack(it.data)) for it in outbox.ticks([seq for seq, _ in outbox.index(1)])]


def test_what_waits_has_no_number_and_is_not_sent(outbox: Outbox) -> None:
    outbox.append(reading(1))
    outbox.hold("a", [reading(2), reading(3)])
    assert (outbox.waiting, outbox.depth, outbox.next_seq) == (2, 1, 2)
    assert [seq for seq, _ in outbox.index(1)] == [1]


def test_what_is_released_gets_its_time_and_the_next_numbers_in_order(outbox: Outbox) -> None:
    outbox.append(reading(1))
    outbox.hold("a", [reading(2), Reading(3, 3_000, {"x": None})])
    outbox.hold("a", [reading(4)])
    assert outbox.release(later, 2) == [2, 3]
    assert outbox.append(reading(5)) == 4
    assert outbox.release(later, 2) == [5]
    assert outbox.release(later, 2) == []
    ticks = content(outbox)
    assert [(seq, t_ms) for seq, t_ms, _ in ticks] == [(1, 1), (2, 1_000_002), (3, 1_000_003), (4, 5), (5, 1_000_004)]
    assert ticks[1][2] == (2.0, 2.0)
    assert str(ticks[2][2]) == "(nan,)"
    assert (outbox.waiting, outbox.depth) == (0, 5)


def test_boots_are_told_with_their_first_and_last_moment(outbox: Outbox) -> None:
    assert outbox.boots() == []
    outbox.hold("a", [reading(5), reading(6), reading(7)])
    outbox.hold("b", [reading(1)])
    assert outbox.boots() == [
        Boot("a", Moment(5, 5_000), Moment(7, 7_000)),
        Boot("b", Moment(1, 1_000), Moment(1, 1_000)),
    ]
    told: list[tuple[str, Moment]] = []

    def listening(boot: str, moment: Moment) -> tuple[int, bool]:
        told.append((boot, moment))
        return 1, True

    outbox.release(listening, 10)
    assert told == [("a", Moment(5, 5_000)), ("a", Moment(6, 6_000)), ("a", Moment(7, 7_000)), ("b", Moment(1, 1_000))]


def test_an_estimated_time_is_said_to_be_one_and_kept_apart(outbox: Outbox) -> None:
    outbox.hold("a", [reading(1), reading(2)])
    outbox.release(lambda _, moment: (moment.wall_ms, moment.wall_ms == 2), 10)
    [(_, estimated), (_, true)] = outbox.index(1)
    assert estimated != true
    assert outbox.keys(estimated) == outbox.keys(true) == ("metric_0", "metric_1")
    assert (outbox.clock(estimated), outbox.clock(true)) == (UNSYNCHRONISED, None)


def test_a_reading_with_an_estimated_time_is_appended_so(outbox: Outbox) -> None:
    outbox.append_many([Reading(1, 1, {"a": 1.0}, synchronised=False), Reading(1, 1, {"a": 1.0})])
    assert [outbox.clock(layout) for _, layout in outbox.index(1)] == [UNSYNCHRONISED, None]


def test_what_waits_is_there_after_a_restart(kind: type[Outbox], tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with closing(open_(kind, path)) as outbox:
        outbox.hold("a", [reading(1), Reading(2, 2_000, {"other": 5.0})])
    with closing(open_(kind, path)) as outbox:
        assert outbox.waiting == 2
        assert outbox.release(later, 10) == [1, 2]
        assert [outbox.keys(layout) for _, layout in outbox.index(1)] == [("metric_0", "metric_1"), ("other",)]
    with closing(open_(kind, path)) as outbox:
        assert (outbox.waiting, outbox.depth) == (0, 2)


def test_layouts_that_only_waiting_readings_have_are_kept(outbox: Outbox) -> None:
    outbox.hold("a", [reading(1, "only", "here")])
    for number in range(20):
        outbox.append(reading(number, f"key_{number}"))
        outbox.confirm([(1, number + 1)])
    assert outbox.release(later, 10) == [21]
    [(_, layout)] = outbox.index(21)
    assert outbox.keys(layout) == ("only", "here")


def test_the_newest_known_time_is_kept(kind: type[Outbox], tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with closing(open_(kind, path)) as outbox:
        assert outbox.newest_ms() == 0
        outbox.note_newest(500)
        outbox.note_newest(400)
        assert outbox.newest_ms() == 500
    with closing(open_(kind, path)) as outbox:
        assert outbox.newest_ms() == 500
        outbox.append(reading(600))
        outbox.flush()
        assert outbox.newest_ms() == 600


def test_the_bound_holds_for_what_waits_too(kind: type[Outbox], tmp_path: Path) -> None:
    with closing(open_(kind, tmp_path / "outbox.db", max_bytes=200_000)) as outbox:
        outbox.append_many([reading(it, width=20) for it in range(50)])
        outbox.flush()
        for number in range(1, 3_000):
            outbox.hold("a", [reading(number, width=20)])
        assert outbox.used_bytes() <= 200_000
        assert outbox.depth == 0, "what is older goes first"
        assert 500 < outbox.waiting < 3_000
        assert outbox.dropped + outbox.thinned == 50 + 2_999 - outbox.waiting
        [boot] = outbox.boots()
        assert boot.last.wall_ms == 2_999
        assert boot.first.wall_ms == 3_000 - outbox.waiting
        while outbox.release(later, 100):
            outbox.confirm([(1, outbox.next_seq)])
        assert outbox.waiting == outbox.depth == 0


def test_numbers_of_a_write_behind_outbox_stay_its_own_over_a_release(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    outbox = open_(WriteBehindOutbox, path)
    outbox.append(reading(1))
    outbox.hold("a", [reading(number) for number in range(2, RESERVED + 50)])
    released = outbox.release(later, 1_000)
    assert released == list(range(2, RESERVED + 50))
    last = outbox.append(reading(9_999))
    assert outbox.unflushed == 1
    outbox._db.close()  # noqa: SLF001 - as a crash would leave it
    os.close(outbox._lock)  # noqa: SLF001
    with closing(open_(WriteBehindOutbox, path)) as again:
        assert [seq for seq, _ in again.index(1)] == [1, *released], "what was released is on disk"
        assert again.next_seq > last, "and no number is used twice"


CRASHING = """
import sys
from pathlib import Path
from edge_agent.outbox import Outbox
from edge_agent.reading import Reading
from edge_agent.write_behind import WriteBehindOutbox

kind = {"Outbox": Outbox, "WriteBehindOutbox": WriteBehindOutbox}[sys.argv[1]]
outbox = kind.open(Path(sys.argv[2]), max_bytes=10_000_000)
number = outbox.waiting + outbox.depth
while True:
    outbox.hold("a", [Reading(number + it, number + it, {"number": float(number + it)}) for it in range(3)])
    number += 3
    outbox.release(lambda boot, moment: (moment.wall_ms, True), 2)
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_neither_loses_nor_doubles_what_waited(kind: type[Outbox], tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    for life in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", CRASHING, kind.__name__, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(5 + 3 * life):
            assert process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
    with closing(open_(kind, path)) as outbox:
        while outbox.release(lambda _, moment: (moment.wall_ms, True), 1_000):
            pass
        ticks = content(outbox)
    assert [values for _, _, values in ticks] == [(float(number),) for number in range(len(ticks))]
    assert [t_ms for _, t_ms, _ in ticks] == list(range(len(ticks)))
    assert len(ticks) > 50


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3)),
        st.tuples(st.just("hold"), st.integers(1, 3)),
        st.tuples(st.just("release"), st.integers(1, 4)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, kind=st.sampled_from([Outbox, WriteBehindOutbox]))
def test_whatever_happens_every_reading_waits_or_is_a_tick_once(
    steps: list[tuple[str, int]], kind: type[Outbox], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("model") / "outbox.db"
    outbox = open_(kind, path)
    number = 0
    waiting: list[int] = []
    ticks: list[int] = []
    for step, count in steps:
        made = list(range(number, number + count))
        match step:
            case "append":
                outbox.append_many([reading(it, "n") for it in made])
                ticks += made
                number += count
            case "hold":
                outbox.hold(f"boot-{number % 3}", [reading(it, "n") for it in made])
                waiting += made
                number += count
            case "release":
                assert len(outbox.release(lambda _, moment: (moment.wall_ms, True), count)) == len(waiting[:count])
                ticks += waiting[:count]
                waiting = waiting[count:]
            case "flush":
                outbox.flush()
            case _:
                outbox.close()
                outbox = open_(kind, path)
        assert (outbox.waiting, outbox.depth) == (len(waiting), len(ticks))
    assert [values for _, _, values in content(outbox)] == [(float(it),) for it in ticks]
    outbox.close()
