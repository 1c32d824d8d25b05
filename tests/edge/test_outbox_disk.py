"""The outbox on a disk that fills up or turns read-only, and in a process that is killed."""

import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from harness.disk import Disk

from edge_agent.errors import OutboxError
from edge_agent.outbox import Outbox
from edge_agent.reading import Reading
from edge_agent.write_behind import WriteBehindOutbox


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk("disk under test")
    yield made
    made.unregister()


def reading(number: int) -> Reading:
    return Reading(number, 0, {f"metric_{it}": float(number) for it in range(40)})


def open_(path: Path, disk: Disk | None = None, kind: type[Outbox] = Outbox) -> Outbox:
    return kind.open(path, max_bytes=50_000_000, vfs=None if disk is None else disk.name)


@pytest.mark.parametrize("kind", [Outbox, WriteBehindOutbox])
@pytest.mark.parametrize("failure", [apsw.FullError("no space"), apsw.IOError("dead sector"), apsw.ReadOnlyError("ro")])
def test_a_disk_that_refuses_costs_nothing_that_was_stored(
    disk: Disk, tmp_path: Path, kind: type[Outbox], failure: Exception
) -> None:
    path = tmp_path / "outbox.db"
    with closing(open_(path, disk, kind)) as outbox:
        assert outbox.append_many([reading(1), reading(2), reading(3)]) == [1, 2, 3]
        outbox.flush()
        disk.failure = failure
        unknown = Reading(4, 0, {"new": 1.0})
        for _ in range(3):
            with pytest.raises(OutboxError, match=str(path)):
                outbox.append_many([unknown])
            with pytest.raises(OutboxError, match=str(path)):
                outbox.confirm([(1, 1)])
        assert [seq for seq, _ in outbox.index(1)] == [1, 2, 3]
        assert (outbox.depth, outbox.next_seq) == (3, 4)
        assert [tick.t_ms for tick in outbox.ticks([1, 2, 3])] == [1, 2, 3]
        disk.failure = None
        assert outbox.append_many([unknown]) == [4]
        assert outbox.confirm([(1, 1)]) == 1
    with closing(open_(path, kind=kind)) as outbox:
        assert [seq for seq, _ in outbox.index(1)] == [2, 3, 4]


_WRITER = """
import sys
from pathlib import Path
from edge_agent.outbox import Outbox
from edge_agent.reading import Reading

outbox = Outbox.open(Path(sys.argv[1]), max_bytes=50_000_000)
number = outbox.next_seq
while True:
    seq = outbox.append(Reading(number, 0, {"value": float(number)}))
    print(seq, number, flush=True)
    if number % 7 == 0:
        outbox.confirm([(number - 5, number - 3)])
        print("confirmed", number - 5, number - 3, flush=True)
    number += 1
"""


def test_a_killed_process_loses_no_committed_tick(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    luck = random.Random(5)  # noqa: S311 - not for secrets
    used, confirmed = 0, set[int]()
    for _ in range(12):
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(luck.randint(1, 300)):
                writer.stdout.readline()
            writer.kill()
            # Whatever it said before it died, it said after the commit.
        with closing(open_(path)) as outbox:
            assert outbox.next_seq > used
            used = outbox.next_seq - 1
            held = {seq for seq, _ in outbox.index(1)}
            confirmed |= {seq for number in range(7, used + 1, 7) for seq in range(number - 5, number - 2)}
            assert set(range(1, used + 1)) - held <= confirmed
            assert outbox.depth == len(held)
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("pragma integrity_check").fetchone() == ("ok",)
            assert database.execute("select count(*) from tick where seq <> t").fetchone() == (0,)
