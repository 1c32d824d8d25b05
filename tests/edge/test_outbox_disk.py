"""The outbox on a disk that loses power, fills up or turns read-only, and in a process that is killed."""

import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from edge_agent.errors import OutboxError
from edge_agent.outbox import Outbox
from edge_agent.reading import Reading
from edge_agent.write_behind import WriteBehindOutbox

SECTOR = 512


class Disk(apsw.VFS):
    """Real files, of which it knows what a power failure would leave: what was synchronised, and any part of the rest.

    A deletion counts once the directory was synchronised, as SQLite does with the first synchronisation of a new
    journal or log (`unixSync` in os_unix.c). `failure` is raised by every write while it is set.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.synchronised: dict[Path, bytes] = {}
        self.pending: dict[Path, list[tuple[int, bytes]]] = {}
        self.deleted: set[Path] = set()
        self.failure: Exception | None = None

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's
        return DiskFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802 - apsw's
        super().xDelete(filename, syncdir)
        self.deleted.add(Path(filename))
        if syncdir:
            self.synchronise_directory()

    def synchronise_directory(self) -> None:
        for file in self.deleted:
            self.synchronised.pop(file, None)
            self.pending.pop(file, None)
        self.deleted.clear()

    def lose_power(self, directory: Path, luck: random.Random) -> None:
        """Writes what the disk holds after a power failure into another directory."""
        directory.mkdir()
        for file, content in self.synchronised.items():
            left = bytearray(content)
            for offset, data in self.pending.get(file, []):
                for start in range(0, len(data), SECTOR):
                    if luck.random() < 0.5:
                        sector = data[start : start + SECTOR]
                        left.extend(bytes(max(0, offset + start + len(sector) - len(left))))
                        left[offset + start : offset + start + len(sector)] = sector
            (directory / file.name).write_bytes(left)


class DiskFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self.disk = disk
        self.path = Path(name.filename() if isinstance(name, apsw.URIFilename) else str(name))
        journal = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
        self.is_new_journal = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & journal)
        disk.deleted.discard(self.path)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's
        if self.disk.failure is not None:
            raise self.disk.failure
        super().xWrite(data, offset)
        self.disk.pending.setdefault(self.path, []).append((offset, bytes(data)))

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's
        super().xSync(flags)
        self.disk.synchronised[self.path] = self.path.read_bytes()
        self.disk.pending.pop(self.path, None)
        if self.is_new_journal:
            self.disk.synchronise_directory()
            self.is_new_journal = False


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk("disk under test")
    yield made
    made.unregister()


def reading(number: int) -> Reading:
    return Reading(number, 0, {f"metric_{it}": float(number) for it in range(40)})


def open_(path: Path, disk: Disk | None = None, kind: type[Outbox] = Outbox) -> Outbox:
    return kind.open(path, max_bytes=50_000_000, vfs=None if disk is None else disk.name)


@pytest.mark.parametrize("seed", range(25))
def test_a_power_failure_loses_no_committed_tick(disk: Disk, tmp_path: Path, seed: int) -> None:
    luck = random.Random(seed)  # noqa: S311 - not for secrets
    (tmp_path / "before").mkdir()
    confirmed: set[int] = set()
    used = 0
    with closing(open_(tmp_path / "before" / "outbox.db", disk)) as outbox:
        for _ in range(luck.randint(1, 120)):
            seqs = outbox.append_many([reading(used + 1 + it) for it in range(luck.randint(1, 20))])
            used = seqs[-1]
            if luck.random() < 0.5:
                first = luck.randint(1, used)
                last = luck.randint(first, used)
                outbox.confirm([(first, last)])
                confirmed.update(range(first, last + 1))
        disk.lose_power(tmp_path / "after", luck)
    with closing(open_(tmp_path / "after" / "outbox.db")) as outbox:
        held = [seq for seq, _ in outbox.index(1)]
        assert set(range(1, used + 1)) - set(held) <= confirmed
        assert outbox.depth == len(held)
        assert all(tick.t_ms == tick.seq for tick in outbox.ticks(held))
        assert outbox.append(reading(0)) == used + 1


@pytest.mark.parametrize("seed", range(10))
def test_a_power_failure_never_makes_write_behind_reuse_a_number(disk: Disk, tmp_path: Path, seed: int) -> None:
    luck = random.Random(seed)  # noqa: S311 - not for secrets
    (tmp_path / "before").mkdir()
    flushed = used = 0
    with closing(open_(tmp_path / "before" / "outbox.db", disk, WriteBehindOutbox)) as outbox:
        for _ in range(luck.randint(1, 60)):
            used = outbox.append_many([reading(used + 1 + it) for it in range(luck.randint(1, 20))])[-1]
            if luck.random() < 0.2:
                outbox.flush()
                flushed = used
        disk.lose_power(tmp_path / "after", luck)
    with closing(open_(tmp_path / "after" / "outbox.db", kind=WriteBehindOutbox)) as outbox:
        assert {seq for seq, _ in outbox.index(1)} >= set(range(1, flushed + 1))
        assert outbox.append(reading(0)) > used


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
