import logging
import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import OutboxCorrupt, OutboxError
from edge_agent.outbox import Outbox, unpack
from edge_agent.reading import Reading
from edge_agent.write_behind import RESERVED, WriteBehindOutbox

CPU = ("cpu_usage_percent", 'disk_used_bytes{mount="/"}')


def reading(number: float, *keys: str, t_ms: int | None = None) -> Reading:
    names = keys or CPU
    return Reading(
        t_ms=int(number) if t_ms is None else t_ms,
        monotonic_ns=0,
        values=dict.fromkeys(names, float(number)),
    )


def numbers(outbox: Outbox) -> list[int]:
    return [seq for seq, _ in outbox.index(1)]


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


def test_appended_readings_come_back_in_order_with_numbers_from_one(outbox: Outbox) -> None:
    assert outbox.append_many([reading(1), reading(2), reading(3, "up")]) == [1, 2, 3]
    [(_, first), (_, second), (_, third)] = outbox.index(1)
    assert first == second != third
    assert outbox.keys(first) == CPU
    assert outbox.keys(third) == ("up",)
    assert [(tick.seq, tick.t_ms, unpack(tick.data)) for tick in outbox.ticks([2, 1])] == [
        (1, 1, (1.0, 1.0)),
        (2, 2, (2.0, 2.0)),
    ]
    assert outbox.next_seq == 4


def test_no_value_is_kept_apart_from_a_value(outbox: Outbox) -> None:
    outbox.append(Reading(t_ms=5, monotonic_ns=0, values={"a": None, "b": 0.0}))
    [tick] = outbox.ticks([1])
    no_value, zero = unpack(tick.data)
    assert math.isnan(no_value)
    assert zero == 0.0


def test_confirmed_ticks_are_gone_and_the_others_stay(outbox: Outbox) -> None:
    outbox.append_many([reading(number) for number in range(10)])
    assert outbox.confirm([(1, 3), (5, 5), (9, 1000)]) == 6
    assert numbers(outbox) == [4, 6, 7, 8]
    assert outbox.low() == 4
    assert outbox.depth == 4
    assert outbox.confirm([(1, 3), (5, 5), (9, 1000)]) == 0


def test_numbers_are_never_used_twice_even_when_everything_was_confirmed(kind: type[Outbox], tmp_path: Path) -> None:
    with closing(open_(kind, tmp_path / "outbox.db")) as outbox:
        outbox.append_many([reading(1), reading(2)])
        outbox.confirm([(1, 2)])
    with closing(open_(kind, tmp_path / "outbox.db")) as outbox:
        assert outbox.append(reading(3)) == 3


def test_ticks_stream_and_counts_survive_a_restart(kind: type[Outbox], tmp_path: Path) -> None:
    with closing(open_(kind, tmp_path / "outbox.db")) as outbox:
        stream = outbox.stream
        outbox.append_many([reading(number) for number in range(6)])
        outbox.confirm([(2, 3)])
    with closing(open_(kind, tmp_path / "outbox.db")) as outbox:
        assert outbox.stream == stream
        assert numbers(outbox) == [1, 4, 5, 6]
        assert outbox.depth == 4
        assert outbox.last_at_open == 6
        assert outbox.recent(2) == [(5, 1), (6, 1)]


def test_state_tells_what_the_status_message_needs(outbox: Outbox) -> None:
    empty = outbox.state()
    assert (empty.depth, empty.low, empty.next_seq, empty.oldest_time) == (0, None, 1, None)
    outbox.append_many([reading(1, t_ms=1_000), reading(2, t_ms=2_000)])
    outbox.confirm([(1, 1)])
    state = outbox.state()
    assert (state.depth, state.low, state.next_seq, state.oldest_time) == (1, 2, 3, 2_000)
    assert state.bytes > 0


def test_a_full_outbox_drops_the_oldest_and_counts_them(
    kind: type[Outbox], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wide = tuple(f"metric_{number}" for number in range(100))
    path = tmp_path / "outbox.db"
    with closing(open_(kind, path, max_bytes=200_000, min_resolution_seconds=0)) as outbox:
        for number in range(1_000):
            outbox.append(reading(number, *wide))
        outbox.flush()
        assert outbox.used_bytes() <= 200_000
        assert outbox.depth > 100
        assert outbox.dropped == 1_000 - outbox.depth
        assert outbox.low() == outbox.dropped + 1
        dropped = outbox.dropped
    with closing(open_(kind, path, max_bytes=200_000)) as outbox:
        assert outbox.thinned == 0
        assert outbox.dropped == dropped
        assert outbox.state().dropped == dropped
        outbox.append_many([], lost=7)
    with closing(open_(kind, path, max_bytes=200_000)) as outbox:
        assert outbox.dropped == dropped + 7
    assert [record.message for record in caplog.records if "dropped" in record.message] == [
        f"outbox {path} is full: the oldest ticks are dropped and counted"
    ]


def test_a_tick_larger_than_the_outbox_is_dropped_and_counted(kind: type[Outbox], tmp_path: Path) -> None:
    huge = tuple(f"metric_{number}" for number in range(20_000))
    with closing(open_(kind, tmp_path / "outbox.db", max_bytes=100_000)) as outbox:
        outbox.append(reading(1))
        outbox.append(reading(2, *huge))
        outbox.flush()
        assert (outbox.depth, outbox.dropped) == (0, 2)
        assert outbox.append(reading(3)) == 3


def test_key_sets_that_no_tick_has_any_more_are_forgotten(kind: type[Outbox], tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with closing(open_(kind, path)) as outbox:
        for number in range(50):
            outbox.append_many([reading(1, f"container_{number}", "up"), reading(1, f"other_{number}")])
            outbox.flush()
            outbox.confirm([(1, 2 * number - 1)])
        assert len(numbers(outbox)) == 3
        assert [outbox.keys(layout) for _, layout in outbox.index(99)] == [("container_49", "up"), ("other_49",)]
    with closing(open_(kind, path)) as outbox:
        outbox.confirm([(1, 100)])
        outbox.append(reading(2, "new"))
        outbox.flush()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("select keys from layout").fetchall() == [('["new"]',)]


def test_one_agent_at_a_time(outbox: Outbox) -> None:
    with pytest.raises(OutboxError, match=r"in use by another agent"):
        Outbox.open(outbox.path, max_bytes=1_000_000)


def test_a_closed_outbox_can_be_opened_again_by_the_same_process(kind: type[Outbox], tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        with closing(open_(kind, tmp_path / "outbox.db")) as outbox:
            assert outbox.append(reading(1)) == expected


def test_people_can_look_into_it_while_the_agent_runs(outbox: Outbox) -> None:
    outbox.append(reading(1))
    outbox.flush()
    with closing(sqlite3.connect(f"file:{outbox.path}?mode=ro", uri=True)) as database:
        assert database.execute("select count(*) from tick").fetchone() == (1,)
    outbox.append(reading(2))
    outbox.flush()


def test_a_damaged_file_is_kept_aside_and_a_new_stream_begins(
    kind: type[Outbox], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox.db"
    garbage = os.urandom(20_000)
    path.write_bytes(garbage)
    with closing(open_(kind, path)) as outbox:
        assert outbox.append(reading(1)) == 1
    [kept] = tmp_path.glob("outbox.db.damaged-*")
    assert kept.read_bytes() == garbage
    assert "a new stream begins" in caplog.text


def test_damage_found_later_says_so(kind: type[Outbox], tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with closing(open_(kind, path)) as outbox:
        outbox.append_many([reading(number, *(f"metric_{it}" for it in range(100))) for number in range(500)])
    with path.open("r+b") as file:
        file.seek(4096 * 8)
        file.write(os.urandom(path.stat().st_size - 4096 * 8))
    with closing(open_(kind, path)) as outbox, pytest.raises(OutboxCorrupt):
        outbox.ticks(range(1, 500))


@pytest.mark.parametrize("identity", [0, 12345])
def test_a_database_of_something_else_is_left_alone(kind: type[Outbox], tmp_path: Path, identity: int) -> None:
    path = tmp_path / "outbox.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table mine (value)")
        database.execute(f"pragma application_id = {identity}")
    before = path.read_bytes()
    with pytest.raises(OutboxError, match=r"not an outbox"):
        open_(kind, path)
    assert path.read_bytes() == before


def test_an_outbox_of_a_newer_version_is_left_alone(kind: type[Outbox], tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    open_(kind, path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("pragma user_version = 99")
    with pytest.raises(OutboxError, match=r"newer version .* 99"):
        open_(kind, path)


def test_an_unusable_place_is_named(kind: type[Outbox], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError, match=r"outbox .*file/outbox\.db: File exists"):
        open_(kind, tmp_path / "file" / "outbox.db")
    (tmp_path / "directory").mkdir()
    with pytest.raises(OutboxError, match=r"unable to open database file"):
        open_(kind, tmp_path / "directory")


def test_a_copied_disk_begins_a_new_stream_with_its_ticks(
    kind: type[Outbox], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox.db"
    with closing(open_(kind, path, machine_id="one")) as outbox:
        original = outbox.stream
        outbox.append_many([reading(number) for number in (10, 20, 30, 40)])
        outbox.confirm([(1, 2)])
    with closing(open_(kind, path, machine_id="one")) as outbox:
        assert outbox.stream == original
        assert caplog.text == ""
    with closing(open_(kind, path, machine_id="two")) as outbox:
        copy = outbox.stream
        assert copy != original
        assert [tick.t_ms for tick in outbox.ticks([1, 2])] == [30, 40]
        assert outbox.append(reading(50)) == 3
        assert outbox.confirm([(1, 1), (3, 3)]) == 2
        assert (numbers(outbox), outbox.low(), outbox.next_seq) == ([2], 2, 4)
    assert "another machine" in caplog.text
    with closing(open_(kind, path, machine_id="two")) as outbox:
        assert (outbox.stream, numbers(outbox), outbox.last_at_open) == (copy, [2], 3)


def test_an_unknown_machine_id_changes_nothing(kind: type[Outbox], tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with closing(open_(kind, path)) as outbox:
        stream = outbox.stream
    for machine_id in ("one", None, "one"):
        with closing(open_(kind, path, machine_id=machine_id)) as outbox:
            assert outbox.stream == stream


def test_a_restarted_stream_of_an_empty_outbox_starts_at_one(outbox: Outbox) -> None:
    outbox.append_many([reading(1), reading(2)])
    outbox.confirm([(1, 2)])
    outbox.restart_stream()
    assert (outbox.next_seq, outbox.low(), outbox.last_at_open) == (1, None, 0)
    assert outbox.append(reading(3)) == 1


def test_write_behind_keeps_ticks_off_the_disk_until_flushed(tmp_path: Path) -> None:
    with closing(open_(WriteBehindOutbox, tmp_path / "outbox.db")) as outbox:
        outbox.append(reading(1))  # reserves numbers and stores the key set
        size = (tmp_path / "outbox.db-wal").stat().st_size
        for number in range(100):
            outbox.append(reading(number))
        assert outbox.unflushed == 101
        assert outbox.confirm([(1, 90)]) == 90
        assert (tmp_path / "outbox.db-wal").stat().st_size == size
        assert outbox.depth == 11
        outbox.flush()
        assert outbox.unflushed == 0
        assert (numbers(outbox), outbox.depth) == (list(range(91, 102)), 11)


def test_write_behind_bounds_what_it_keeps_in_memory(tmp_path: Path) -> None:
    wide = tuple(f"metric_{number}" for number in range(1_000))
    with closing(open_(WriteBehindOutbox, tmp_path / "outbox.db")) as outbox:
        for number in range(1_000):
            outbox.append(reading(number, *wide))
            assert outbox.unflushed <= 126
        assert outbox.depth == 1_000


def test_write_behind_skips_reserved_numbers_after_a_crash_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with closing(open_(WriteBehindOutbox, path)) as outbox:
        assert outbox.append(reading(1)) == 1
    with closing(open_(WriteBehindOutbox, path)) as outbox:
        assert outbox.append(reading(2)) == 2
        crashed = _copy_as_a_crash_leaves_it(path, tmp_path / "crashed")
    for kind in (WriteBehindOutbox, Outbox):
        again = _copy_as_a_crash_leaves_it(crashed, tmp_path / kind.__name__)
        with closing(open_(kind, again)) as outbox:
            assert outbox.depth == 1
            assert outbox.append(reading(3)) == 2 + RESERVED + 1
            assert outbox.depth == 2


def _copy_as_a_crash_leaves_it(path: Path, directory: Path) -> Path:
    directory.mkdir()
    for suffix in ("", "-wal"):
        source = Path(f"{path}{suffix}")
        if source.exists():
            (directory / f"{path.name}{suffix}").write_bytes(source.read_bytes())
    return directory / path.name


@pytest.fixture(autouse=True)
def _log_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
