"""A full outbox: what is old loses resolution before anything is dropped, in small steps, and all of it is counted."""

import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import apsw
import pytest

from edge_agent.errors import OutboxError
from edge_agent.outbox import Outbox
from edge_agent.outbox_file import SCHEMA_VERSION
from edge_agent.reading import Reading
from edge_agent.write_behind import WriteBehindOutbox

KIB = 1024
FAST = tuple(f"fast_{number}" for number in range(20))
SLOW = tuple(f"slow_{number}" for number in range(8))


def reading(second: int, keys: Sequence[str] = FAST) -> Reading:
    return Reading(second * 1_000, 0, dict.fromkeys(keys, float(second)))


def fill(outbox: Outbox, seconds: range, slow_interval: int = 60) -> None:
    """A few ticks a transaction: each one would make the disk's pace the test's."""
    waiting = []
    for second in seconds:
        if second % 5 == 0:
            waiting.append(reading(second))
        if second % slow_interval == 0:
            waiting.append(reading(second, SLOW))
        if len(waiting) >= 10:
            outbox.append_many(waiting)
            waiting.clear()
    outbox.append_many(waiting)


def seconds(outbox: Outbox) -> dict[tuple[str, ...], list[int]]:
    """The times that it holds of each set of keys."""
    held: dict[tuple[str, ...], list[int]] = {}
    for seq, layout in outbox.index(1):
        [tick] = outbox.ticks([seq])
        held.setdefault(outbox.keys(layout), []).append(tick.t_ms // 1_000)
    return held


def frontier(path: Path) -> int:
    """How many ticks lie below what can't be thinned any more, which must be as many as the file says."""
    # By the same library: another one in this process would break the locks of the first.
    with closing(apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)) as database:
        [(said, counted, frontier)] = database.execute(
            "select thin_below, (select count(*) from tick where seq < thin_frontier), thin_frontier from outbox"
        )
        [(integrity,)] = database.execute("pragma integrity_check")
    assert integrity == "ok"
    assert said == counted, f"below {frontier}"
    return int(counted)


def spacings(times: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise(times)]


@pytest.fixture(params=[Outbox, WriteBehindOutbox])
def kind(request: pytest.FixtureRequest) -> type[Outbox]:
    chosen: type[Outbox] = request.param
    return chosen


def test_a_full_outbox_keeps_the_whole_time_at_less_resolution(kind: type[Outbox], tmp_path: Path) -> None:
    with closing(kind.open(tmp_path / "outbox.db", max_bytes=300 * KIB)) as outbox:
        fill(outbox, range(20_000))
        outbox.flush()
        assert outbox.used_bytes() <= 300 * KIB
        assert outbox.dropped == 0
        assert outbox.thinned == 4_000 + 334 - outbox.depth
        assert outbox.state().thinned == outbox.thinned
        held = seconds(outbox)
    for keys, interval in ((FAST, 5), (SLOW, 60)):
        times = held[keys]
        assert times[0] == 0
        assert times[-1] == 19_999 // interval * interval
        found = spacings(times)
        assert max(found) <= 300
        # The newer half in full, the oldest the thinnest.
        assert set(found[len(found) // 2 :]) == {interval}
        assert found[0] > 2 * interval


def test_what_it_keeps_fills_its_bytes(tmp_path: Path) -> None:
    with closing(Outbox.open(tmp_path / "outbox.db", max_bytes=300 * KIB)) as outbox:
        capacity, fewest = 0, 10**9
        for second in range(0, 40_000, 20):
            fill(outbox, range(second, second + 20), slow_interval=10**9)
            if outbox.thinned:
                fewest = min(fewest, outbox.depth)
            else:
                capacity = outbox.depth
        assert outbox.thinned > 5_000
        assert fewest > 0.93 * capacity


def test_where_the_oldest_are_at_their_limit_they_are_dropped(kind: type[Outbox], tmp_path: Path) -> None:
    with closing(kind.open(tmp_path / "outbox.db", max_bytes=200 * KIB, min_resolution_seconds=20)) as outbox:
        fill(outbox, range(40_000))
        outbox.flush()
        assert outbox.used_bytes() <= 200 * KIB
        assert outbox.dropped > 0
        assert frontier(outbox.path) > outbox.depth // 3
        assert outbox.thinned + outbox.dropped + outbox.depth == 8_000 + 667
        held = seconds(outbox)
    found = spacings(held[FAST])
    assert max(found) == 20
    assert found.count(20) > len(found) // 3
    assert set(found[2 * len(found) // 3 :]) == {5}
    assert set(spacings(held[SLOW])) == {60}
    assert held[FAST][0] == pytest.approx(held[SLOW][0], abs=120)


def test_a_resolution_of_zero_drops_and_never_thins(kind: type[Outbox], tmp_path: Path) -> None:
    with closing(kind.open(tmp_path / "outbox.db", max_bytes=200 * KIB, min_resolution_seconds=0)) as outbox:
        fill(outbox, range(20_000))
        outbox.flush()
        assert outbox.thinned == 0
        assert set(spacings(seconds(outbox)[FAST])) == {5}


def test_it_goes_on_where_it_was_after_every_stop_and_crash(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    luck = random.Random(3)  # noqa: S311 - not for secrets
    second = 0
    while second < 30_000:
        outbox = Outbox.open(path, max_bytes=200 * KIB)
        until = second + luck.randint(5, 2_000)
        fill(outbox, range(second, until))
        second = until
        if luck.random() < 0.5:
            outbox.close()
        else:  # the lock goes with the process; here it is given back by hand
            outbox._db.close()  # noqa: SLF001
            outbox.close()
    with closing(Outbox.open(path, max_bytes=200 * KIB)) as outbox:
        appended = sum(1 + (at % 60 == 0) for at in range(0, second, 5))
        assert outbox.thinned + outbox.dropped + outbox.depth == appended
        assert outbox.dropped == 0
        assert max(spacings(seconds(outbox)[FAST])) <= 300
        assert outbox.depth == sum(1 for _ in outbox.index(1))
        frontier(path)


def test_what_is_on_its_way_stays(tmp_path: Path) -> None:
    with closing(Outbox.open(tmp_path / "outbox.db", max_bytes=100 * KIB)) as outbox:
        sent = set(outbox.append_many([reading(second) for second in range(0, 500, 5)]))
        for second in range(500, 15_000, 20):
            outbox.append_many([reading(it) for it in range(second, second + 20, 5)], spared=sent)
        assert outbox.thinned > 1_000
        assert {tick.seq for tick in outbox.ticks(sorted(sent))} == sent


def test_what_is_on_its_way_is_dropped_only_when_there_is_nothing_else(tmp_path: Path) -> None:
    with closing(Outbox.open(tmp_path / "outbox.db", max_bytes=100 * KIB, min_resolution_seconds=0)) as outbox:
        sent = set(outbox.append_many([reading(second) for second in range(0, 500, 5)]))
        for second in range(500, 5_000, 5):
            outbox.append_many([reading(second)], spared=sent)
        assert outbox.dropped > 100
        assert {tick.seq for tick in outbox.ticks(sorted(sent))} == sent
        everything = {seq for seq, _ in outbox.index(1)}
        frontier(outbox.path)
        outbox.append_many([reading(5_000 + second) for second in range(400)], spared=everything)
        assert outbox.used_bytes() <= 100 * KIB
        assert {seq for seq, _ in outbox.index(1)} < everything | set(range(1_001, 2_000))


def test_an_append_that_fails_thins_nothing(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with (
        closing(Outbox.open(path, max_bytes=100 * KIB, min_resolution_seconds=10)) as outbox,
        closing(apsw.Connection(str(path))) as other,
    ):
        fill(outbox, range(5_000))
        before = list(outbox.index(1)), outbox.thinned, outbox.depth
        other.execute("create trigger refuse before update of depth on outbox begin select raise(abort, 'no'); end")
        many = [reading(second) for second in range(5_000, 10_000, 5)]
        with pytest.raises(OutboxError, match="no"):
            outbox.append_many(many)
        assert (list(outbox.index(1)), outbox.thinned, outbox.depth) == before
        frontier(path)
        other.execute("drop trigger refuse")
        fill(outbox, range(5_000, 9_000))
        assert outbox.thinned + outbox.dropped + outbox.depth == 1_800 + 150
        frontier(path)
        assert set(spacings(seconds(outbox)[FAST])) == {5, 10}


def test_confirmations_while_it_thins_keep_the_counts_right(tmp_path: Path) -> None:
    luck = random.Random(9)  # noqa: S311 - not for secrets
    with closing(Outbox.open(tmp_path / "outbox.db", max_bytes=100 * KIB)) as outbox:
        appended = confirmed = 0
        for start in range(0, 60_000, 50):
            appended += len(outbox.append_many([reading(second) for second in range(start, start + 50, 5)]))
            if luck.random() < 0.1:
                low = outbox.low() or 1
                first = luck.randint(low, outbox.next_seq)
                confirmed += outbox.confirm([(low, low + 20), (max(first, low + 21), first + 100)])
            assert outbox.depth == appended - confirmed - outbox.thinned - outbox.dropped
        assert outbox.depth == sum(1 for _ in outbox.index(1))
        assert outbox.used_bytes() <= 100 * KIB


def test_what_a_confirmation_makes_room_for_is_thinned_again(tmp_path: Path) -> None:
    with closing(Outbox.open(tmp_path / "outbox.db", max_bytes=200 * KIB, min_resolution_seconds=20)) as outbox:
        fill(outbox, range(20_000))
        dropped = outbox.dropped
        assert dropped > 0
        limit = frontier(outbox.path)
        low = outbox.low() or 0
        outbox.confirm([(low, [seq for seq, _ in outbox.index(1)][limit - 10])])
        assert frontier(outbox.path) == 9
        thinned, end = outbox.thinned, 20_000
        while outbox.thinned < thinned + 200:
            fill(outbox, range(end, end + 50))
            end += 50
        assert outbox.dropped == dropped
        frontier(outbox.path)


ONE = ("a",)


@pytest.mark.parametrize(
    ("before", "drops"),
    [
        pytest.param([reading(second, ONE) for second in range(12_000)], False, id="all of it can be thinned"),
        pytest.param(
            [reading(second, ONE) for second in (*range(1_000), *range(1_000, 4_801_000, 400))],
            True,
            id="most of it can not be thinned",
        ),
        pytest.param(
            [*(reading(second, ("rare",)) for second in (0, 1)), *(reading(second, ONE) for second in range(12_000))],
            False,
            id="with keys that never come again",
        ),
    ],
)
def test_no_append_takes_long(tmp_path: Path, before: list[Reading], *, drops: bool) -> None:
    """Counted in steps of SQLite's machine, so that a busy computer does not matter."""
    with closing(Outbox.open(tmp_path / "outbox.db", max_bytes=300 * KIB)) as outbox:
        steps = 0

        def count() -> bool:
            nonlocal steps
            steps += 1
            return False

        outbox._db.set_progress_handler(count, 100)  # noqa: SLF001
        longest = 0
        outbox.append_many(before)
        for second in range(5_000_000, 5_020_000, 5):
            so_far = steps
            outbox.append(reading(second, ONE))
            longest = max(longest, steps - so_far)
        assert outbox.thinned >= 500
        assert (outbox.dropped > 0) is drops
        assert 0 < longest * 100 < 100_000


def test_an_outbox_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript("""
            create table outbox (stream text not null, machine text, sequence_offset integer not null,
                dropped integer not null, depth integer not null, depth_seq integer not null) strict;
            create table layout (layout integer primary key autoincrement, keys text not null unique) strict;
            create table tick (seq integer primary key autoincrement, t integer not null, layout integer not null,
                data blob not null) strict;
            insert into sqlite_sequence (name, seq) values ('tick', 7);
            insert into outbox values ('0190a5c2-7f3b-7c1e-9d52-3b6c1f2a4e10', null, 0, 5, 1, 7);
            insert into layout values (1, '["a"]');
            insert into tick values (7, 1000, 1, x'000000000000f03f');
            pragma application_id = 0x54425F4F;
            pragma user_version = 1;
        """)
    for _ in range(2):
        with closing(Outbox.open(path, max_bytes=100 * KIB)) as outbox:
            assert (outbox.depth, outbox.dropped, outbox.thinned, outbox.low()) == (1, 5, 0, 7)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma user_version").fetchone() == (SCHEMA_VERSION,)
