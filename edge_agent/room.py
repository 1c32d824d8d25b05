"""Room in the outbox's file: where it is full, what is old loses resolution, and only where it can't, the oldest go.

It goes over the oldest half of the ticks, from the oldest on, only as far as it needs room; then over what is by then
the oldest half, and so on. What thins the same times over is bounded by the resolution (`thinning`): where all ticks
up to a frontier are at their limit, a pass begins there; where the whole oldest half is, the oldest ticks are dropped.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Final, NamedTuple

import apsw

from edge_agent.thinning import Thinning

# Ticks looked at in one step; of small ones so many that they fill several pages, of large ones about so many bytes.
_STEP: Final = 64
_MIN_STEP_BYTES: Final = 16_384
_MAX_STEP_BYTES: Final = 262_144
_MIN_STEP: Final = 8
# So many steps without effect, and then the oldest are dropped this time: an append never takes long.
_MAX_IDLE_STEPS: Final = 16
# A tick is decided when the next of its layout is seen, or when so many others, and so many steps, were.
_MAX_UNDECIDED: Final = 512
_MAX_UNDECIDED_STEPS: Final = 2
_DROP_STEP: Final = 8


class Given(NamedTuple):
    """What had to be given up for room."""

    thinned: int = 0
    dropped: int = 0


@dataclass(slots=True)
class _Progress:
    """How far it got, as the file keeps it. All numbers are those of stored ticks, without the stream's offset.

    Nothing below `frontier` can be thinned any more; `below` ticks are there. The pass under way has thinned what
    lies from the frontier to `cursor`, and looks at `quota` ticks more.
    """

    frontier: int
    below: int
    cursor: int
    quota: int


class Room:
    """Keeps the file within its bound, in transactions of the outbox. After a rollback call `forget`.

    To delete every second row of an SQLite table frees no page: pages merge only when they are almost empty. So what
    remains of a run of rows is written anew, and fills its pages.
    """

    def __init__(self, db: apsw.Connection, max_bytes: int, min_resolution_seconds: float) -> None:
        self._db = db
        self._max_bytes = max_bytes
        self._max_spacing_ms = min_resolution_seconds * 1_000
        self._progress: _Progress | None = None
        self._thinning = Thinning(self._max_spacing_ms)
        self._seen: deque[int] = deque()  # the numbers from the cursor on that it has looked at
        self._doomed: set[int] = set()  # those of them that may go

    def forget(self) -> None:
        """What it knows may not be so any more; it reads it again."""
        self._progress = None

    def used_bytes(self) -> int:
        """The bytes of the file that are in use; the write-ahead log comes on top."""
        pages: int = self._db.pragma("page_count") - self._db.pragma("freelist_count")
        size: int = self._db.pragma("page_size")
        return pages * size

    def is_full(self) -> bool:
        """Whether more is in use than may be."""
        return self.used_bytes() > self._max_bytes

    def make(self, depth: int, spared: Callable[[int], bool]) -> Given:
        """Gives up as many of the `depth` ticks as it must; what is `spared` is not thinned, and dropped last."""
        thinned = dropped = idle = 0
        while self.is_full():
            freed = self._thin(depth - thinned - dropped, spared) if idle < _MAX_IDLE_STEPS else None
            if freed is None:
                gone = self._drop(spared)
                if not gone:
                    break
                dropped += gone
            else:
                thinned += freed
                idle = 0 if freed else idle + 1
        if thinned or dropped or idle:
            self._save()
        return Given(thinned, dropped)

    def delete(self, first: int, last: int) -> int:
        """Deletes the ticks of an inclusive range; how many there were."""
        progress = self._known()
        deleted = 0
        if first < progress.frontier and progress.below:
            deleted = self._delete(first, min(last, progress.frontier - 1))
            progress.below -= deleted
            if deleted:
                self._save()
        return deleted + self._delete(max(first, progress.frontier), last)

    def _thin(self, depth: int, spared: Callable[[int], bool]) -> int | None:
        """One step: how many ticks it freed; None where the oldest half has nothing to give."""
        progress = self._known()
        step = self._step(depth)
        if not progress.quota and not self._seen:
            progress.quota = depth // 2 - progress.below
            if progress.quota < min(step, max(4, depth // 8)):
                progress.quota = 0
                return None
            progress.cursor = progress.frontier
            self._begin_at_cursor()
        rows = list(
            self._db.execute(
                "select seq, t, layout from tick where seq >= ? order by seq limit ?",
                (max(progress.cursor, self._seen[-1] + 1 if self._seen else 0), min(step, progress.quota)),
            )
        )
        for seq, t_ms, layout in rows:
            goes = self._thinning.look(seq, t_ms, layout, spared=spared(seq))
            if goes is not None:
                self._doomed.add(goes)
            self._seen.append(seq)
        progress.quota = progress.quota - len(rows) if rows else 0
        return self._rewrite(spared, max(_MAX_UNDECIDED, _MAX_UNDECIDED_STEPS * step))

    def _step(self, depth: int) -> int:
        """How many ticks to look at at a time, from their average size."""
        many, few = (size * depth // self._max_bytes for size in (_MIN_STEP_BYTES, _MAX_STEP_BYTES))
        return max(_MIN_STEP, min(max(_STEP, many), few))

    def _rewrite(self, spared: Callable[[int], bool], max_undecided: int) -> int:
        """Deletes what may go as far as everything is decided; how many ticks went."""
        progress = self._known()
        if not self._seen:
            return 0
        if not progress.quota:
            self._thinning.keep_below(self._seen[-1] + 1)
        elif len(self._seen) > max_undecided:
            self._thinning.keep_below(self._seen[len(self._seen) // 2])
        end = self._thinning.undecided()
        if end is None:
            end = self._seen[-1] + 1
        going = {seq for seq in self._doomed if seq < end and not spared(seq)}
        freed = 0
        if going:
            rows = list(
                self._db.execute(
                    "select seq, t, layout, data from tick where seq >= ? and seq < ?", (progress.cursor, end)
                )
            )
            staying = [row for row in rows if row[0] not in going]
            freed = len(rows) - len(staying)
            self._delete(progress.cursor, end - 1)
            self._db.executemany("insert into tick (seq, t, layout, data) values (?, ?, ?, ?)", staying)
        elif progress.cursor == progress.frontier:
            [(passed,)] = self._db.execute(
                "select count(*) from tick where seq >= ? and seq < ?", (progress.frontier, end)
            )
            progress.frontier = end
            progress.below += passed
        progress.cursor = end
        while self._seen and self._seen[0] < end:
            self._seen.popleft()
        self._doomed = {seq for seq in self._doomed if seq >= end}
        return freed

    def _drop(self, spared: Callable[[int], bool]) -> int:
        """Deletes some of the oldest; how many."""
        progress = self._known()
        limit = _DROP_STEP
        while True:
            rows = [seq for (seq,) in self._db.execute("select seq from tick order by seq limit ?", (limit,))]
            going = [seq for seq in rows if not spared(seq)][:_DROP_STEP]
            if going or len(rows) < limit:
                break
            limit *= 8
        going = going or rows[:_DROP_STEP]
        self._db.executemany("delete from tick where seq = ?", ((seq,) for seq in going))
        progress.below -= sum(seq < progress.frontier for seq in going)
        return len(going)

    def _delete(self, first: int, last: int) -> int:
        self._db.execute("delete from tick where seq between ? and ?", (first, last))
        return self._db.changes()

    def _begin_at_cursor(self) -> None:
        self._thinning = Thinning(self._max_spacing_ms)
        self._seen.clear()
        self._doomed.clear()

    def _known(self) -> _Progress:
        if self._progress is None:
            [row] = self._db.execute("select thin_frontier, thin_below, thin_cursor, thin_quota from outbox")
            self._progress = _Progress(*row)
            self._begin_at_cursor()
        return self._progress

    def _save(self) -> None:
        frontier, below, cursor, quota = astuple(self._known())
        self._db.execute(
            "update outbox set thin_frontier = ?, thin_below = ?, thin_cursor = ?, thin_quota = ?",
            (frontier, below, cursor, quota + len(self._seen)),
        )
