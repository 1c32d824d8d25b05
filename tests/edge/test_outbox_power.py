"""The outbox after power failures, at hundreds of moments of lives of all kinds.

Each life is lived once and recorded. What a failure leaves is then taken from between any two of its writes, and must
be what the outbox held at a moment since its last durable transaction, and never use a number again.
"""

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest
from harness.disk import Disk, Event, Platter, moments

from edge_agent import outbox_file
from edge_agent.errors import OutboxCorrupt
from edge_agent.outbox import Outbox, unpack
from edge_agent.outbox_check import check
from edge_agent.reading import Reading
from edge_agent.write_behind import WriteBehindOutbox

POINTS_A_LIFE = 70
KEYS = [f"metric_{number}" for number in range(30)]


class Stored(NamedTuple):
    """What the file holds: stream, numbers with the readings under them, what was thinned and dropped."""

    stream: UUID
    ticks: frozenset[tuple[int, int]]
    thinned: int
    dropped: int


@dataclass
class Life:
    """An outbox that is used at random, on a disk that records it."""

    disk: Disk
    path: Path
    kind: type[Outbox]
    luck: random.Random
    max_bytes: int
    states: list[Stored | None] = field(default_factory=list)  # after each deed
    durable: list[int] = field(default_factory=list)  # after each deed: the last one that a failure can't undo
    used: list[dict[UUID, int]] = field(default_factory=list)  # after each deed: the highest number of each stream
    readings: int = 0

    def open(self) -> Outbox:
        return self.kind.open(
            self.path, max_bytes=self.max_bytes, min_resolution_seconds=0.005, machine_id="here", vfs=self.disk.name
        )

    def live(self, deeds: int) -> None:
        outbox = self.open()
        self.done(outbox, durable=True)
        for _ in range(deeds):
            luck = self.luck.random()
            if luck < 0.55:
                self.append(outbox)
                self.done(outbox, durable=self.kind is Outbox)
            elif luck < 0.8:
                self.confirm(outbox)
                self.done(outbox, durable=False)
            else:
                waited = outbox.unflushed > 0
                outbox.flush()  # before a new stream or the end too, where it is a transaction of its own
                self.done(outbox, durable=waited)
            if luck < 0.96:
                continue
            if luck < 0.98:
                outbox.restart_stream()
                self.done(outbox, durable=True)
            else:
                outbox.close()
                outbox = self.open()
                self.done(outbox, durable=True)
        outbox.flush()
        self.done(outbox, durable=False)
        outbox.close()

    def append(self, outbox: Outbox) -> None:
        count = self.luck.randint(1, 12)
        first, self.readings = self.readings + 1, self.readings + count
        outbox.append_many(
            [Reading(it, 0, dict.fromkeys(KEYS, float(it))) for it in range(first, first + count)],
            spared=range(outbox.next_seq - 3, outbox.next_seq),
        )

    def confirm(self, outbox: Outbox) -> None:
        first = self.luck.randint(1, max(1, outbox.next_seq - 1))
        outbox.confirm([(first, first + self.luck.randint(0, 12))])

    def done(self, outbox: Outbox, *, durable: bool) -> None:
        used = dict(self.used[-1]) if self.used else {}
        used[outbox.stream] = max(used.get(outbox.stream, 0), outbox.next_seq - 1)
        self.used.append(used)
        self.states.append(stored(outbox))
        self.durable.append(len(self.states) - 1 if durable or not self.durable else self.durable[-1])
        self.disk.mark("done")


def stored(outbox: Outbox) -> Stored:
    """As the file has it, without what write-behind has in memory."""
    held = [seq for seq, _ in Outbox.index(outbox, 1)]
    ticks = Outbox.ticks(outbox, held)
    assert all(unpack(tick.data) == (float(tick.t_ms),) * len(KEYS) for tick in ticks)
    return Stored(outbox.stream, frozenset((tick.seq, tick.t_ms) for tick in ticks), outbox.thinned, outbox.dropped)


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk("disk that loses power")
    yield made
    made.unregister()


def failures(disk: Disk, directory: Path, luck: random.Random, wanted: int) -> Iterator[tuple[Path, int]]:
    """For each of so many moments: what a power failure would leave then, and how many deeds were done before."""
    platter = Platter()
    done = place = 0
    for number, moment in enumerate(moments(disk.events, wanted, luck)):
        while place <= moment:
            event: Event = disk.events[place]
            platter.follow(event)
            done += event.kind == "mark"
            place += 1
        after = directory / f"after-{number}"
        platter.lose_power(after, luck)
        yield after / "outbox.db", done


@pytest.mark.parametrize("kind", [Outbox, WriteBehindOutbox])
@pytest.mark.parametrize("max_bytes", [90_000, 50_000_000], ids=["full", "roomy"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_power_failure_at_any_moment_undoes_nothing_durable_and_uses_no_number_again(
    disk: Disk, tmp_path: Path, kind: type[Outbox], max_bytes: int, seed: int
) -> None:
    luck = random.Random(seed)  # noqa: S311 - not for secrets
    (tmp_path / "before").mkdir()
    life = Life(disk, tmp_path / "before" / "outbox.db", kind, luck, max_bytes)
    life.live(deeds=260)
    assert any(state is not None and state.thinned for state in life.states) == (max_bytes == 90_000)
    assert any(state is not None and state.dropped for state in life.states) == (max_bytes == 90_000)
    for path, done in failures(disk, tmp_path, luck, POINTS_A_LIFE):
        with closing(kind.open(path, max_bytes=max_bytes, machine_id="here")) as outbox:
            assert list(path.parent.glob("*.damaged-*")) == []
            found = stored(outbox)
            assert outbox.depth == len(found.ticks)
            if done:
                possible = life.states[life.durable[done - 1] : done + 1]
                assert found in possible
                assert outbox.next_seq > life.used[done - 1].get(outbox.stream, 0)
            assert check(path).sound
            seqs = outbox.append_many([Reading(10**9, 0, dict.fromkeys(KEYS, 1e9))])
            assert not {seq for seq, _ in found.ticks} & set(seqs)


def test_a_power_failure_while_a_damaged_file_is_set_aside_never_brings_back_a_part_of_it(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file without its log would be sound again, and older: its next numbers were used."""
    luck = random.Random(7)  # noqa: S311 - not for secrets
    (tmp_path / "before").mkdir()
    life = Life(disk, tmp_path / "before" / "outbox.db", Outbox, luck, 50_000_000)
    outbox = life.open()
    for _ in range(5):
        life.append(outbox)
    outbox.close()  # now all is in the file itself; what follows is in its log
    outbox = life.open()
    for _ in range(5):
        life.append(outbox)
    old, used = outbox.stream, outbox.next_seq - 1
    record(disk, monkeypatch)
    begun = len(disk.events)
    outbox_file.set_aside(life.path, OutboxCorrupt("its log is damaged"))
    with closing(outbox_file.connect(life.path, disk.name)) as fresh:
        fresh.execute("update outbox set machine = 'here'")
    end = len(disk.events)
    platter, place = Platter(), 0
    for number in range(150):
        moment = begun + number * (end - begun) // 150
        for event in disk.events[place:moment]:
            platter.follow(event)
        place = moment
        after = tmp_path / f"after-{number}"
        platter.lose_power(after, luck)
        with closing(Outbox.open(after / "outbox.db", max_bytes=50_000_000)) as found:
            assert found.stream != old or found.next_seq > used
    outbox.close()


def record(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the disk see what happens beside SQLite."""
    rename, synchronise = Path.rename, outbox_file.synchronise_directory

    def recorded_rename(source: Path, target: Path) -> Path:
        renamed = rename(source, target)
        disk.events.append(Event("rename", source.name, data=target.name.encode()))
        return renamed

    def recorded_synchronise(directory: Path) -> None:
        synchronise(directory)
        disk.events.append(Event("sync_directory"))

    monkeypatch.setattr(Path, "rename", recorded_rename)
    monkeypatch.setattr(outbox_file, "synchronise_directory", recorded_synchronise)
