"""The outbox: ticks on disk until the cloud says that it has committed them.

One SQLite file in WAL mode with one connection. `synchronous=FULL` makes an append durable when it returns.
Confirmations run with NORMAL and cost no fsync: one that a power failure undoes brings its ticks back, and the cloud
knows them already.
"""

import contextlib
import logging
import math
import os
import struct
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from uuid import UUID, uuid4

import apsw

from edge_agent.clock import Boot, Moment
from edge_agent.errors import OutboxCorrupt
from edge_agent.layout import Layout
from edge_agent.outbox_file import connect, lock, set_aside, translated
from edge_agent.reading import Reading
from edge_agent.room import Given, Room
from edge_agent.waiting import Waiting, WaitingRoom
from telemetry_contract.payload import Gone, OutboxState

_INDEX_STEP: Final = 256
_NAN: Final = float("nan")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How an outbox is kept, see `Outbox.open`."""

    max_bytes: int
    min_resolution_seconds: float
    machine_id: str | None
    vfs: str | None


class StoredTick(NamedTuple):
    """One tick of the outbox; `data` holds its values in the order of its layout's keys, see `unpack`."""

    seq: int
    t_ms: int
    layout: int
    data: bytes


def _without(whole: tuple[int, int], parts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of an inclusive range without some ascending parts of it."""
    first, last = whole
    left = []
    for part_first, part_last in parts:
        if part_first > first:
            left.append((first, part_first - 1))
        first = part_last + 1
    return [*left, (first, last)] if first <= last else left


def unpack(data: bytes) -> tuple[float, ...]:
    """The values of one tick, or of several whose data are joined; NaN is "no value"."""
    return struct.unpack(f"<{len(data) // 8}d", data)


def _packed(reading: Reading) -> bytes:
    values = [_NAN if value is None else value for value in reading.values.values()]
    return struct.pack(f"<{len(values)}d", *values)


class Outbox:
    """The ticks that are not confirmed yet, each with a sequence number that its stream never uses twice.

    A tick is committed when `append` returns. Not thread-safe: its owner is one thread. What raises OutboxError has
    changed nothing and may be tried again; OutboxCorrupt ends it.

    Beside the ticks it holds readings that wait until it is known when they were taken.
    """

    _holds_durably = True

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        max_bytes: int,
        min_resolution_seconds: float = 300.0,
        machine_id: str | None = None,
        vfs: str | None = None,
    ) -> Self:
        """The outbox at `path`, made if missing, locked against a second agent.

        `max_bytes` bounds the file. Where that makes ticks lose resolution, those of one layout stay no further apart
        than `min_resolution_seconds`. A damaged file is renamed and a new stream begins. So it does in a file that
        another machine wrote (its `machine_id` differs: a copied disk), with the ticks that it holds. Raises
        OutboxError, also where the file is something else.
        """
        options = Options(max_bytes, min_resolution_seconds, machine_id, vfs)
        held = lock(path)
        try:
            try:
                return cls._open_locked(path, held, options)
            except OutboxCorrupt as exc:
                set_aside(path, exc)
                return cls._open_locked(path, held, options)
        except BaseException:
            os.close(held)
            raise

    @classmethod
    def in_memory(cls, *, max_bytes: int, min_resolution_seconds: float = 300.0) -> "Outbox":
        """An outbox that is on no disk and ends with this process, with a stream of its own."""
        options = Options(max_bytes, min_resolution_seconds, machine_id=None, vfs=None)
        return Outbox._open_locked(Path(":memory:"), os.open(os.devnull, os.O_RDONLY), options)

    @classmethod
    def _open_locked(cls, path: Path, held: int, options: Options) -> Self:
        db = connect(path, options.vfs)
        try:
            return cls(path, db, held, options)
        except BaseException:
            db.close()
            raise

    def __init__(self, path: Path, db: apsw.Connection, held: int, options: Options) -> None:
        self.path = path
        self._db = db
        self._lock = held
        self._options = options
        self._room = Room(db, options.max_bytes, options.min_resolution_seconds)
        self._durable = True
        self._layouts: dict[Layout, int] = {}
        self._known: dict[int, Layout] = {}
        self._newest_of_layout: dict[int, int] = {}  # as far as this process appended it
        rows = self._rows(
            "select stream, machine, sequence_offset, thinned, dropped, depth, depth_seq, unflushed_from from outbox"
        )
        if len(rows) != 1:
            raise OutboxCorrupt(f"outbox {path}: it does not say what stream it is")
        stream, machine, offset, thinned, dropped, depth, depth_seq, unflushed_from = rows[0]
        self.stream = UUID(stream)
        self._offset: int = offset
        self._given = Given(thinned, dropped)
        self._last: int = self._rows("select seq from sqlite_sequence where name = 'tick'")[0][0]
        self._depth: int = depth + self._last - depth_seq
        self._last_at_open: int = self._last
        if unflushed_from is not None:
            self._note_crash(unflushed_from)
        self._holes = self._rows("select first, last from hole order by first")
        self._waiting_room = WaitingRoom(db)
        with translated(path):
            self._waiting = self._waiting_room.count()
        if options.machine_id is not None and machine != options.machine_id:
            if machine is None:
                with self._transaction():
                    self._execute("update outbox set machine = ?", options.machine_id)
            else:
                log.warning("outbox %s was written by another machine: a new stream begins", path)
                self.restart_stream()

    @property
    def next_seq(self) -> int:
        """The sequence number that the next tick will get."""
        return self._last + 1 - self._offset

    @property
    def last_at_open(self) -> int:
        """The highest sequence number that the stream may have used before this process opened it; 0: none."""
        return max(0, self._last_at_open - self._offset)

    @property
    def depth(self) -> int:
        """How many ticks it holds."""
        return self._depth

    @property
    def waiting(self) -> int:
        """How many readings wait for their time."""
        return self._waiting

    @property
    def dropped(self) -> int:
        """How many ticks of this stream were given up, beside those thinned."""
        return self._given.dropped

    @property
    def thinned(self) -> int:
        """How many ticks of this stream were given up so that their neighbours could stay."""
        return self._given.thinned

    @property
    def unflushed(self) -> int:
        """How many of its ticks a crash would lose."""
        return 0

    def append(self, reading: Reading) -> int:
        """The sequence number of the reading, which is stored."""
        return self.append_many([reading])[0]

    def append_many(self, readings: Sequence[Reading], *, lost: int = 0, spared: Container[int] = ()) -> list[int]:
        """The sequence numbers of the readings, which are stored in one transaction: all or none.

        Where they don't fit into `max_bytes`, older ticks are thinned, or else the oldest dropped, and counted, as are
        `lost` others that were given up before they got here. Of what is `spared` - what is on its way - nothing is
        thinned, and it is dropped last.
        """
        return self._append(readings, lost, spared)

    def hold(self, boot: str, readings: Sequence[Reading], *, lost: int = 0, spared: Container[int] = ()) -> None:
        """Keeps readings of this boot until it is known when they were taken; otherwise as `append_many`."""
        with self._transaction(durable=self._holds_durably):
            rows = [
                (boot, it.monotonic_ns, it.t_ms, self._layout(Layout(tuple(it.values))), _packed(it)) for it in readings
            ]
            self._waiting_room.add(rows)
            given = self._room.make(self._depth, lambda seq: seq - self._offset in spared)
            dropped = 0
            while self._room.is_full() and (gone := self._waiting_room.drop()):
                dropped += gone
            depth = self._depth - sum(given)
            given = given._replace(dropped=given.dropped + dropped + lost)
            if any(given):
                self._account(depth, given)
        self._depth = depth
        self._waiting += len(readings) - dropped
        self._count(given)

    def boots(self) -> list[Boot]:
        """The boots of which readings wait, in their order."""
        with translated(self.path):
            return self._waiting_room.boots()

    def release(self, time_ms: Callable[[str, Moment], tuple[int, bool]], limit: int) -> list[int]:
        """Makes ticks of the oldest readings that wait, and answers their sequence numbers, in one transaction.

        `time_ms` gives the time of a reading of a boot, and whether that is the true one.
        """
        with translated(self.path):
            waiting = self._waiting_room.oldest(limit)
        if not waiting:
            return []
        readings = [self._released(it, *time_ms(it.boot, it.moment)) for it in waiting]
        return self._append(readings, 0, (), lambda: self._leave(waiting))

    def newest_ms(self) -> int:
        """When the newest of its readings was taken whose time was known, as far as was noted; 0: nothing was."""
        [(noted,)] = self._rows("select newest_ms from outbox")
        newest = self._rows("select t from tick order by seq desc limit 1")
        return max(int(noted), int(newest[0][0]) if newest else 0)

    def prove(self) -> None:
        """Writes to the disk, and changes nothing; raises OutboxError where that refuses."""
        with self._transaction():
            # One statement would not do: SQLite writes no page whose content stays the same.
            self._execute("update outbox set newest_ms = newest_ms + 1")
            self._execute("update outbox set newest_ms = newest_ms - 1")

    def note_newest(self, newest_ms: int) -> None:
        """Notes when the newest reading was taken; a power failure may undo it."""
        with self._transaction(durable=False):
            self._execute("update outbox set newest_ms = max(newest_ms, ?)", newest_ms)

    def _append(
        self,
        readings: Sequence[Reading],
        lost: int,
        spared: Container[int],
        also: Callable[[], int] = lambda: 0,
    ) -> list[int]:
        """See `append_many`; `also` belongs to the transaction and answers how many readings wait no more."""
        with self._transaction():
            ticks = [self._stored(seq, reading) for seq, reading in enumerate(readings, self._last + 1)]
            given = self._insert(ticks, spared)
            depth = self._depth + len(ticks) - sum(given)
            given = given._replace(dropped=given.dropped + lost)
            if any(given):
                self._account(depth, given)
            left = also()
        self._depth = depth
        self._waiting -= left
        self._count(given)
        self._last += len(ticks)
        return [tick.seq - self._offset for tick in ticks]

    def flush(self, spared: Container[int] = ()) -> None:
        """Stores what is in memory only, of which this outbox has nothing; `spared` as in `append_many`."""

    def confirm(self, ranges: Iterable[tuple[int, int]]) -> int:
        """How many ticks it deleted: those whose sequence number lies in one of the inclusive ranges."""
        held = self._overlapping(ranges)
        deleted = 0
        if not held or not self._depth:
            return 0
        with self._transaction(durable=False):
            for first, last in held:
                deleted += self._room.delete(first, last)
            if deleted:
                self._account(self._depth - deleted)
        self._depth -= deleted
        return deleted

    def low(self) -> int | None:
        """The lowest sequence number that it holds."""
        [(seq,)] = self._rows("select min(seq) from tick")
        return None if seq is None else seq - self._offset

    def index(self, first: int) -> Iterator[tuple[int, int]]:
        """Sequence number and layout of each tick from `first` on, ascending, read step by step."""
        first += self._offset
        query = "select seq, layout from tick where seq >= ? order by seq limit ?"
        while rows := self._rows(query, first, _INDEX_STEP):
            for seq, layout in rows:
                yield seq - self._offset, layout
            first = rows[-1][0] + 1

    def recent(self, limit: int) -> list[tuple[int, int]]:
        """Sequence number and layout of the newest ticks, ascending."""
        rows = self._rows("select seq, layout from tick order by seq desc limit ?", limit)
        return [(seq - self._offset, layout) for seq, layout in reversed(rows)]

    def ticks(self, seqs: Sequence[int]) -> list[StoredTick]:
        """The ticks with these sequence numbers, ascending, without those that it does not hold."""
        wanted = {seq + self._offset for seq in seqs}
        if not wanted:
            return []
        rows = self._rows("select seq, t, layout, data from tick where seq between ? and ?", min(wanted), max(wanted))
        return [StoredTick(seq - self._offset, t_ms, layout, data) for seq, t_ms, layout, data in rows if seq in wanted]

    def gone(self, seqs: Sequence[int]) -> Gone | None:
        """What lies directly below these ascending ticks, and is not held and may not have been confirmed, by why.

        Each run of such numbers lies below one tick, so that all of them are told once all ticks are.
        """
        if not any(self._given) and not self._holes:
            return None
        wanted = set(seqs)
        previous = self._highest_below(seqs[0])
        below: list[tuple[int, int]] = []
        for seq, _ in self.index(seqs[0]):
            if seq > seqs[-1]:
                break
            if seq in wanted:
                below += self._run_below(seq, previous)
            previous = seq
        found: Gone = {"thinned": [], "lost": []}
        for first, last in below:
            lost = [(max(first, a), min(last, b)) for a, b in self._lost() if a <= last and b >= first]
            found["lost"] += lost
            if any(self._given):
                found["thinned"] += _without((first, last), lost)
        return {why: ranges for why, ranges in found.items() if ranges} or None

    def keys(self, layout: int) -> tuple[str, ...]:
        """The series keys of a layout, in the order of its values."""
        return self._known_layout(layout).keys

    def clock(self, layout: int) -> str | None:
        """What is to be said of the times of ticks of a layout; None where they are true."""
        return self._known_layout(layout).clock

    def state(self) -> OutboxState:
        """What it holds and what it had to give up, as the status message says it."""
        low = self.low()
        oldest = [] if low is None else self.ticks([low])
        return OutboxState(
            depth=self.depth,
            bytes=self.used_bytes(),
            low=low,
            next_seq=self.next_seq,
            oldest_time=oldest[0].t_ms if oldest else None,
            dropped=self.dropped,
            thinned=self.thinned,
        )

    def used_bytes(self) -> int:
        """The bytes of the file that are in use; what `max_bytes` bounds. The write-ahead log comes on top."""
        with translated(self.path):
            return self._room.used_bytes()

    def restart_stream(self) -> None:
        """Begins a new stream with the ticks that are held; the first of them becomes number 1.

        For when the numbers of the old stream may have been used for other ticks.
        """
        low = self.low()
        offset = self._last if low is None else low + self._offset - 1
        stream = uuid4()
        with self._transaction():
            self._execute(
                "update outbox set stream = ?, machine = coalesce(?, machine), sequence_offset = ?,"
                " dropped = 0, thinned = 0",
                str(stream),
                self._options.machine_id,
                offset,
            )
        self.stream = stream
        self._offset = offset
        self._given = Given()
        self._last_at_open = self._last

    def replaced(self, cause: OutboxCorrupt) -> Self:
        """A new outbox, with a new stream, in the place of this damaged one, which is closed and kept aside."""
        with contextlib.suppress(apsw.Error):
            self._db.close()
        set_aside(self.path, cause)
        return self._open_locked(self.path, self._lock, self._options)

    def close(self) -> None:
        """Gives the file free. Raises OutboxError where it could not write what was left to write."""
        try:
            with translated(self.path):
                self._db.close()
        finally:
            os.close(self._lock)

    def _note_crash(self, first: int) -> None:
        """The numbers from `first` on were in memory only, or never used: a hole, as long as somebody may ask."""
        with self._transaction():
            self._execute("delete from hole where last + 1 < (select min(seq) from tick)")
            if first <= self._last:
                [(joined,)] = self._rows("select min(first) from hole where last + 1 >= ?", first)
                first = first if joined is None else min(first, joined)
                self._execute("delete from hole where first > ?", first)
                self._execute("insert or replace into hole values (?, ?)", first, self._last)
            self._execute("update outbox set unflushed_from = null")

    def _lost(self) -> list[tuple[int, int]]:
        return [(max(1, first - self._offset), last - self._offset) for first, last in self._holes]

    def _highest_below(self, seq: int) -> int | None:
        """The highest number that it holds below this one."""
        [(below,)] = self._rows("select max(seq) from tick where seq < ?", seq + self._offset)
        return None if below is None else below - self._offset

    def _run_below(self, seq: int, previous: int | None) -> list[tuple[int, int]]:
        """The run of numbers between a tick and the one before that it holds; below the lowest only a hole counts."""
        if previous is None:
            return [(first, last) for first, last in self._lost() if last == seq - 1 and first <= last]
        return [(previous + 1, seq - 1)] if seq > previous + 1 else []

    def _overlapping(self, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The parts of the ranges that lie between the lowest and the highest held number, as stored."""
        low = self.low()
        if low is None:
            return []
        last = self.next_seq - 1
        return [
            (max(first, low) + self._offset, min(end, last) + self._offset)
            for first, end in ranges
            if first <= last and end >= low
        ]

    def _stored(self, seq: int, reading: Reading) -> StoredTick:
        """The reading as it is stored; within a transaction, since its layout may be new."""
        layout = self._layout(Layout.of(reading))
        self._newest_of_layout[layout] = seq
        return StoredTick(seq, reading.t_ms, layout, _packed(reading))

    def _released(self, waiting: Waiting, time_ms: int, synchronised: bool) -> Reading:  # noqa: FBT001
        values = (None if math.isnan(value) else value for value in unpack(waiting.data))
        found = dict(zip(self.keys(waiting.layout), values, strict=True))
        return Reading(time_ms, waiting.boot_ns, found, synchronised=synchronised)

    def _leave(self, waiting: Sequence[Waiting]) -> int:
        return self._waiting_room.delete(waiting[-1].number)

    def _known_layout(self, layout: int) -> Layout:
        known = self._known.get(layout)
        if known is None:
            rows = self._rows("select keys from layout where layout = ?", layout)
            if not rows:
                raise OutboxCorrupt(f"outbox {self.path}: layout {layout} is missing")
            known = self._known[layout] = Layout.read(rows[0][0])
        return known

    def _layout(self, wanted: Layout) -> int:
        """The number of a layout; within a transaction."""
        layout = self._layouts.get(wanted)
        if layout is None:
            text = wanted.text()
            self._delete_unused_layouts()
            self._execute("insert into layout (keys) values (?) on conflict do nothing", text)
            layout = int(self._rows("select layout from layout where keys = ?", text)[0][0])
            self._layouts[wanted] = layout
            self._newest_of_layout[layout] = self._last + 1
        return layout

    def _delete_unused_layouts(self) -> None:
        """Deletes layouts that no held tick has, as far as that is known without looking at every tick."""
        low = self.low()
        oldest = self._last + 1 if low is None else low + self._offset
        for (layout,) in self._rows("select layout from layout where layout not in (select layout from waiting)"):
            if self._newest_of_layout.get(layout, self._last_at_open) < oldest:
                self._execute("delete from layout where layout = ?", layout)
                self._known.pop(layout, None)
                self._newest_of_layout.pop(layout, None)
                self._layouts = {known: it for known, it in self._layouts.items() if it != layout}

    def _insert(self, ticks: Sequence[StoredTick], spared: Container[int]) -> Given:
        """Stores the ticks, within a transaction; what had to go for them."""
        self._db.executemany("insert into tick (seq, t, layout, data) values (?, ?, ?, ?)", ticks)
        return self._room.make(self._depth + len(ticks), lambda seq: seq - self._offset in spared)

    def _account(self, depth: int, given: Given = Given()) -> None:  # noqa: B008 - it is immutable
        """Writes the depth that holds at the end of this transaction, and counts what was given up."""
        self._execute(
            "update outbox set depth = ?, thinned = thinned + ?, dropped = dropped + ?,"
            " depth_seq = (select seq from sqlite_sequence where name = 'tick')",
            depth,
            *given,
        )

    def _count(self, given: Given) -> None:
        before = self._given
        if given.thinned and not before.thinned:
            log.warning("outbox %s is full: the oldest ticks are thinned and counted", self.path)
        if given.dropped and not before.dropped:
            log.warning("outbox %s is full: the oldest ticks are dropped and counted", self.path)
        self._given = Given(before.thinned + given.thinned, before.dropped + given.dropped)

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[None]:
        """One write transaction, all or nothing; without `durable` a power failure may undo it."""
        with translated(self.path):
            if durable != self._durable:
                self._db.pragma("synchronous", "full" if durable else "normal")
                self._durable = durable
            self._db.execute("begin immediate")
            try:
                yield
                self._db.execute("commit")
            except BaseException:
                self._layouts.clear()
                self._known.clear()
                self._room.forget()
                if self._db.in_transaction:  # SQLite has rolled back by itself after some errors
                    with contextlib.suppress(apsw.Error):
                        self._db.execute("rollback")
                raise

    def _execute(self, statement: str, *bindings: str | int | None) -> None:
        self._db.execute(statement, bindings)

    def _rows(self, query: str, *bindings: str | int | None) -> list[tuple[Any, ...]]:
        with translated(self.path):
            return list(self._db.execute(query, bindings))
