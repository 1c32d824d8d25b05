"""`edge-agent outbox`: stats, export and fsck, on sound, damaged and held outboxes."""

import csv
import io
import json
import os
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from edge_agent import outbox_check
from edge_agent.errors import OutboxCorrupt, OutboxError
from edge_agent.outbox import Outbox
from edge_agent.outbox_export import as_csv, as_json_lines
from edge_agent.outbox_view import OutboxView
from edge_agent.reading import Reading
from edge_agent.write_behind import RESERVED, WriteBehindOutbox
from telemetry_contract.codec import decode_samples
from telemetry_contract.payload import Tick

T0 = 1_763_678_400_123


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def open_(path: Path, kind: type[Outbox] = Outbox, **options: Any) -> Outbox:
    return kind.open(path, **{"max_bytes": 10_000_000, **options})


def reading(number: int) -> Reading:
    return Reading(T0 + number, 0, {"a_total": float(number), 'disk_used_bytes{mount="/"}': None})


def filled(path: Path, ticks: int = 600) -> Path:
    with closing(open_(path)) as outbox:
        outbox.append_many([reading(number) for number in range(1, ticks + 1)])
        outbox.confirm([(1, 4)])
    return path


def edge_agent(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent.cli", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


def change(path: Path, *statements: str) -> None:
    with closing(apsw.Connection(str(path))) as db:
        for statement in statements:
            db.execute(statement)


def test_stats_say_what_it_holds(path: Path) -> None:
    filled(path)
    done = edge_agent("outbox", "stats", "--json", "--path", path)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    with closing(open_(path)) as outbox:
        state = outbox.state()
        assert said == {
            "path": str(path),
            "in_use": False,
            "stream": str(outbox.stream),
            "depth": 596,
            "waiting": 0,
            "bytes": state.bytes,
            "low": 5,
            "next_seq": 601,
            "oldest_time": T0 + 5,
            "newest_time": T0 + 600,
            "thinned": 0,
            "dropped": 0,
            "lost": [],
        }


def test_stats_for_people(path: Path) -> None:
    filled(path)
    done = edge_agent("outbox", "stats", EDGE_AGENT_OUTBOX__PATH=str(path))
    assert done.returncode == 0
    facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert facts["depth"].startswith("596 ticks, ")
    assert facts["numbers"] == "5 is the lowest held, 601 the next"
    assert facts["oldest"] == "2025-11-20T22:40:00.128Z"
    assert facts["lost"] == "-"


def test_stats_of_an_empty_outbox(path: Path) -> None:
    open_(path).close()
    done = edge_agent("outbox", "stats", "--path", path)
    assert done.returncode == 0
    assert "- is the lowest held, 1 the next" in done.stdout


def test_stats_count_what_was_given_up_and_lost(path: Path) -> None:
    with closing(open_(path, max_bytes=60_000)) as outbox:
        for number in range(1, 3_000):
            outbox.append(reading(number * 60_000))
        state = outbox.state()
    with OutboxView(path) as view:
        contents = view.contents()
    assert (contents.dropped, contents.depth) == (state.dropped, state.depth)
    assert contents.dropped > 0


def test_stats_show_the_numbers_that_a_crash_took(path: Path) -> None:
    behind = open_(path, WriteBehindOutbox)
    behind.append_many([reading(1), reading(2)])
    copy = path.with_name("after-the-crash.db")
    for suffix in ("", "-wal"):
        Path(f"{copy}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    behind.close()
    open_(copy, WriteBehindOutbox).close()
    with OutboxView(copy) as view:
        contents = view.contents()
    assert contents.lost == [(1, 2 + RESERVED)]
    assert contents.next_seq == 3 + RESERVED


def test_numbers_are_those_of_the_wire_after_a_new_stream_began(path: Path) -> None:
    with closing(open_(path)) as outbox:
        outbox.append_many([reading(number) for number in range(1, 10)])
        outbox.confirm([(1, 5)])
        outbox.restart_stream()
        stream = outbox.stream
    with OutboxView(path) as view:
        contents = view.contents()
        assert (contents.stream, contents.low, contents.next_seq) == (stream, 1, 5)
        assert [(tick.seq, tick.low, tick.t) for tick in view.ticks()] == [
            (number, 1, T0 + 5 + number) for number in range(1, 5)
        ]


def test_export_gives_each_tick_as_a_live_message(path: Path) -> None:
    filled(path)
    done = edge_agent("outbox", "export", "--path", path)
    assert (done.returncode, done.stderr) == (0, "")
    ticks = [decode_samples(line.encode()) for line in done.stdout.splitlines()]
    assert [tick.seq for tick in ticks] == list(range(5, 601))
    last = ticks[-1]
    assert isinstance(last, Tick)
    assert last.values == {"a_total": 600.0, 'disk_used_bytes{mount="/"}': None}
    assert (last.low, last.t) == (5, T0 + 600)


def test_export_as_csv(path: Path) -> None:
    filled(path)
    done = edge_agent("outbox", "export", "--format", "csv", "--path", path)
    assert done.returncode == 0
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 2 * 596
    assert rows[:2] == [
        {"time": "2025-11-20T22:40:00.128Z", "seq": "5", "series": "a_total", "value": "5.0"},
        {"time": "2025-11-20T22:40:00.128Z", "seq": "5", "series": 'disk_used_bytes{mount="/"}', "value": ""},
    ]


def test_export_of_an_empty_outbox(path: Path) -> None:
    open_(path).close()
    with OutboxView(path) as view:
        assert list(as_json_lines(view.ticks())) == []
        assert "".join(as_csv(view.ticks())) == "time,seq,series,value\n"


def test_export_beside_an_agent_disturbs_neither(path: Path) -> None:
    filled(path)
    with closing(open_(path)) as outbox, OutboxView(path) as view:
        assert view.contents().in_use
        ticks = view.ticks()
        first = next(ticks)
        outbox.confirm([(1, 400)])
        outbox.append(reading(601))
        seen = [first.seq, *(tick.seq for tick in ticks)]
        assert seen[-1] == 601
        assert seen == sorted(set(seen))
        assert set(range(401, 602)) <= set(seen)
        outbox.append(reading(602))
        done = edge_agent("outbox", "export", "--path", path)
        assert done.returncode == 0
        assert "in memory only" in done.stderr
        assert len(done.stdout.splitlines()) == 202
        assert outbox_check.check(path).sound
        with pytest.raises(OutboxError, match="in use"):
            outbox_check.repair(path)
        assert outbox.append(reading(603)) == 603
    with closing(open_(path)) as outbox:
        assert outbox.depth == 203


def test_what_a_killed_agent_left_in_its_log_is_read(path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from edge_agent.outbox import Outbox;"
        "from edge_agent.reading import Reading;"
        "outbox = Outbox.open(Path(sys.argv[1]), max_bytes=10_000_000);"
        "outbox.append(Reading(7, 0, {'a': 1.0})); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, path], check=False)
    assert Path(f"{path}-wal").stat().st_size > 0
    with OutboxView(path) as view:
        contents = view.contents()
        assert (contents.in_use, contents.depth) == (False, 1)
        assert [tick.t for tick in view.ticks()] == [7]
    assert outbox_check.check(path).sound
    with closing(open_(path)) as outbox:
        assert outbox.depth == 1


@pytest.mark.parametrize("action", ["stats", "export", "fsck"])
def test_no_outbox_is_a_message_and_makes_none(path: Path, action: str) -> None:
    done = edge_agent("outbox", action, "--path", path)
    assert done.returncode == 1
    assert done.stderr == f"edge-agent: there is no outbox {path}\n"
    assert list(path.parent.iterdir()) == []


def test_repair_of_no_outbox_makes_none(path: Path) -> None:
    done = edge_agent("outbox", "fsck", "--repair", "--path", path)
    assert done.returncode == 1
    assert list(path.parent.iterdir()) == []


def test_another_database_is_not_taken_for_an_outbox(path: Path) -> None:
    change(path, "create table precious (it)")
    for arguments in (["stats"], ["export"], ["fsck"], ["fsck", "--repair"]):
        done = edge_agent("outbox", *arguments, "--path", path)
        assert done.returncode == 1
        assert "not an outbox" in done.stderr
    assert path.exists()


def test_fsck_finds_nothing_wrong_with_a_sound_outbox(path: Path) -> None:
    filled(path)
    done = edge_agent("outbox", "fsck", "--path", path)
    assert (done.returncode, done.stdout) == (0, f"{path} is sound\n")
    assert edge_agent("outbox", "fsck", "--repair", "--path", path).returncode == 0


@pytest.mark.parametrize("kind", [Outbox, WriteBehindOutbox])
def test_fsck_finds_nothing_wrong_whatever_happened(path: Path, kind: type[Outbox]) -> None:
    with closing(open_(path, kind, max_bytes=60_000, min_resolution_seconds=1.1)) as outbox:
        for number in range(0, 4_000, 10):
            outbox.append_many([reading((number + it) * 1_000 + part) for it in range(10) for part in (0, 400)])
            outbox.flush()
            if number % 250 == 0:
                outbox.confirm([(outbox.next_seq - 90, outbox.next_seq - 60)])
            if number % 1_000 == 0:
                assert outbox_check.check(path) == outbox_check.Findings()
        assert outbox.thinned > 0
        assert outbox.dropped > 0
        outbox.restart_stream()
    assert outbox_check.check(path) == outbox_check.Findings()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9_000])


def overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 4 : 4096 * 6] = os.urandom(4096 * 2)
    path.write_bytes(content)


def rubbish(path: Path) -> None:
    path.write_bytes(os.urandom(50_000))


@pytest.fixture(params=[cut, overwritten, rubbish])
def damaged(request: pytest.FixtureRequest, path: Path) -> Path:
    filled(path, 2_000)
    request.param(path)
    return path


def test_fsck_finds_damage_and_sets_the_file_aside(damaged: Path) -> None:
    before = damaged.read_bytes()
    done = edge_agent("outbox", "fsck", "--path", damaged)
    assert done.returncode == 3
    assert "is not sound" in done.stdout
    assert damaged.read_bytes() == before
    done = edge_agent("outbox", "fsck", "--repair", "--path", damaged)
    assert done.returncode == 4
    (kept,) = damaged.parent.glob("outbox.db.damaged-*Z")
    assert kept.read_bytes() == before
    assert f"is now {kept};" in done.stdout
    assert not damaged.exists()
    with closing(open_(damaged)) as outbox:
        assert (outbox.depth, outbox.next_seq) == (0, 1)


def test_export_gives_what_can_be_read_of_a_damaged_outbox(path: Path) -> None:
    filled(path, 20_000)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = bytes(4096)
    path.write_bytes(content)
    done = edge_agent("outbox", "export", "--path", path)
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    assert len(done.stdout.splitlines()) > 1_000
    assert all(decode_samples(line.encode()) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("delete from layout", "a tick of a layout that is missing: 5"),
        ("update tick set data = x'00' where seq = 7", "a tick without values of 8 bytes each: 7"),
        ("update tick set data = zeroblob(24) where seq = 7", "tick 7 has not as many values as its layout has keys"),
        ("update outbox set sequence_offset = 5", "a tick below the first number of the stream: 5"),
        ("update sqlite_sequence set seq = 599 where name = 'tick'", "a tick above the last number that was given: 6"),
        ("insert into hole values (9, 12)", "a tick in a hole: 9"),
        ("insert into hole values (4, 3)", "a hole that ends before it begins or above"),
        ("update outbox set stream = 'mine'", "its stream is 'mine', which is no UUID"),
        ("delete from outbox", "0 rows say what its outbox is"),
        ("delete from sqlite_sequence", "0 rows say what its sequence is"),
        ("update layout set keys = '{}'", "layout 1 is no list of series keys"),
        ("drop table hole", "no such table: hole"),
    ],
)
def test_fsck_finds_tables_that_contradict_each_other(path: Path, statement: str, said: str) -> None:
    filled(path)
    change(path, statement)
    done = edge_agent("outbox", "fsck", "--path", path)
    assert done.returncode == 3, done.stderr
    assert said in done.stdout
    assert edge_agent("outbox", "fsck", "--repair", "--path", path).returncode == 4
    assert not path.exists()


@pytest.mark.parametrize("statement", ["update outbox set depth = 7", "update outbox set thin_below = 7"])
def test_repair_counts_anew_what_was_only_miscounted(path: Path, statement: str) -> None:
    filled(path)
    change(path, statement)
    done = edge_agent("outbox", "fsck", "--path", path)
    assert done.returncode == 3
    assert "it counts 7 ticks" in done.stdout
    done = edge_agent("outbox", "fsck", "--repair", "--path", path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (4, f"{path} is counted anew")
    assert outbox_check.check(path).sound
    with closing(open_(path)) as outbox:
        assert outbox.depth == 596


@pytest.mark.parametrize("statement", ["delete from layout", "update outbox set stream = 'mine'", "delete from outbox"])
def test_a_look_into_a_contradiction_says_that_it_is_damaged(path: Path, statement: str) -> None:
    filled(path)
    change(path, statement)
    with OutboxView(path) as view, pytest.raises(OutboxCorrupt, match="is damaged"):
        list(view.ticks())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")
def test_what_root_leaves_behind_belongs_to_the_agent(path: Path) -> None:
    filled(path)
    path.with_name("outbox.db.lock").unlink()
    for file in (path.parent, path):
        os.chown(file, 12_345, 12_345)
    assert outbox_check.repair(path)[0].sound
    with OutboxView(path) as view:
        view.contents()
    assert {stat.S_IMODE(path.with_name("outbox.db.lock").stat().st_mode) & 0o600} == {0o600}
    assert {file.stat().st_uid for file in path.parent.iterdir()} == {12_345}


def test_estimated_times_are_said_so_and_readings_that_wait_are_counted(path: Path) -> None:
    with closing(open_(path)) as outbox:
        outbox.append_many([Reading(T0, 0, {"a": 1.0}, synchronised=False), Reading(T0, 0, {"a": 2.0})])
        outbox.hold("boot", [Reading(T0, 0, {"b": 1.0})])
    with OutboxView(path) as view:
        assert view.contents().waiting == 1
        assert [tick.clock for tick in view.ticks()] == ["unsynchronised", None]
    assert outbox_check.check(path).sound
