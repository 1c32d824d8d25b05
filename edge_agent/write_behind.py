"""An outbox that keeps new ticks in memory for a while, so that one confirmed meanwhile never touches the disk."""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import apsw

from edge_agent.clock import Moment
from edge_agent.layout import Layout
from edge_agent.outbox import Options, Outbox, StoredTick
from edge_agent.reading import Reading
from edge_agent.room import Given
from edge_agent.waiting import Waiting
from telemetry_contract.payload import OutboxState

RESERVED: Final = 256
MAX_TAIL_BYTES: Final = 1_000_000


class WriteBehindOutbox(Outbox):
    """An outbox whose appended ticks are stored by `flush`, which its owner calls in time.

    A crash loses what is not flushed. The numbers that it may have used on the wire are never used again: they are
    reserved on disk, in blocks, before use, and after a crash the rest of a block is skipped.
    """

    _holds_durably = False

    def __init__(self, path: Path, db: apsw.Connection, held: int, options: Options) -> None:
        self._tail: dict[int, StoredTick] = {}
        self._tail_bytes = 0
        super().__init__(path, db, held, options)
        self._reserved = self._last

    @property
    def depth(self) -> int:
        """How many ticks it holds, in memory and on disk."""
        return self._depth + len(self._tail)

    @property
    def unflushed(self) -> int:
        """How many of its ticks a crash would lose."""
        return len(self._tail)

    def append_many(self, readings: Sequence[Reading], *, lost: int = 0, spared: Container[int] = ()) -> list[int]:
        """The sequence numbers of the readings, which are in memory now. A full tail is flushed before."""
        if self._tail_bytes >= MAX_TAIL_BYTES:
            self.flush(spared)
        last = self._last + len(readings)
        if lost or last > self._reserved or any(Layout.of(it) not in self._layouts for it in readings):
            reserved = self._reserved if last <= self._reserved else last + RESERVED
            with self._transaction():
                self._reserve(reserved, next(iter(self._tail), self._last + 1))
                self._account(self._depth, Given(dropped=lost))
                for reading in readings:
                    self._layout(Layout.of(reading))
            self._reserved = reserved
            self._count(Given(dropped=lost))
        ticks = [self._stored(seq, reading) for seq, reading in enumerate(readings, self._last + 1)]
        self._tail.update((tick.seq, tick) for tick in ticks)
        self._tail_bytes += sum(len(tick.data) for tick in ticks)
        self._last = last
        return [tick.seq - self._offset for tick in ticks]

    def release(self, time_ms: Callable[[str, Moment], tuple[int, bool]], limit: int) -> list[int]:
        """As the base class has it: they are on disk, and stay there."""
        self.flush()
        seqs = super().release(time_ms, limit)
        self._reserved = max(self._reserved, self._last)
        return seqs

    def flush(self, spared: Container[int] = ()) -> None:
        """Stores the ticks that are in memory only; `spared` as in `append_many`."""
        if not self._tail:
            return
        with self._transaction():
            given = self._insert(list(self._tail.values()), spared)
            depth = self._depth + len(self._tail) - sum(given)
            self._account(depth, given)
            self._reserve(self._reserved, self._last + 1)
        self._depth = depth
        self._count(given)
        self._tail.clear()
        self._tail_bytes = 0

    def confirm(self, ranges: Iterable[tuple[int, int]]) -> int:
        """How many ticks it deleted, in memory and on disk."""
        held = self._overlapping(ranges)
        deleted = super().confirm((first - self._offset, last - self._offset) for first, last in held)
        for seq in [seq for seq in self._tail if any(first <= seq <= last for first, last in held)]:
            self._tail_bytes -= len(self._tail.pop(seq).data)
            deleted += 1
        return deleted

    def low(self) -> int | None:
        """The lowest sequence number that it holds."""
        on_disk = super().low() if self._depth else None
        if on_disk is None and self._tail:
            return next(iter(self._tail)) - self._offset
        return on_disk

    def index(self, first: int) -> Iterator[tuple[int, int]]:
        """Sequence number and layout of each tick from `first` on, ascending; what is in memory is the newest."""
        yield from super().index(first)
        for tick in list(self._tail.values()):
            if tick.seq - self._offset >= first:
                yield tick.seq - self._offset, tick.layout

    def recent(self, limit: int) -> list[tuple[int, int]]:
        """Sequence number and layout of the newest ticks, ascending."""
        in_memory = [(tick.seq - self._offset, tick.layout) for tick in self._tail.values()]
        return [*super().recent(limit), *in_memory][-limit:]

    def ticks(self, seqs: Sequence[int]) -> list[StoredTick]:
        """The ticks with these sequence numbers, ascending, without those that it does not hold."""
        in_memory = [self._tail[seq + self._offset] for seq in sorted(seqs) if seq + self._offset in self._tail]
        on_disk = super().ticks(seqs) if len(in_memory) < len(seqs) else []
        return [*on_disk, *(tick._replace(seq=tick.seq - self._offset) for tick in in_memory)]

    def state(self) -> OutboxState:
        """What it holds and what it had to give up, as the status message says it."""
        state = super().state()
        state.bytes += self._tail_bytes
        return state

    def restart_stream(self) -> None:
        """Begins a new stream, after storing what is in memory."""
        self.flush()
        super().restart_stream()

    def close(self) -> None:
        """Stores what is in memory and gives the file free; raises OutboxError where it could not store."""
        try:
            self.flush()
            if self._reserved > self._last:
                with self._transaction():
                    self._reserve(self._last, None)
                    self._account(self._depth)
        finally:
            super().close()

    def _leave(self, waiting: Sequence[Waiting]) -> int:
        last = self._last + len(waiting)
        self._reserve(max(self._reserved, last), last + 1)
        return super()._leave(waiting)

    def _highest_below(self, seq: int) -> int | None:
        """The highest number that it holds below this one, in memory or on disk."""
        in_memory = [held - self._offset for held in self._tail if held - self._offset < seq]
        return in_memory[-1] if in_memory else super()._highest_below(seq)

    def _reserve(self, last: int, unflushed_from: int | None) -> None:
        """Numbers up to `last` may be used; those from `unflushed_from` on are, or will be, not on disk."""
        self._execute("update sqlite_sequence set seq = ? where name = 'tick'", last)
        self._execute("update outbox set unflushed_from = ?", unflushed_from)
