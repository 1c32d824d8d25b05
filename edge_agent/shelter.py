"""Where readings go while the disk refuses the outbox: into one in memory, with a stream of its own."""

import math
from collections.abc import Callable
from itertools import islice
from typing import Final

from edge_agent.errors import OutboxCorrupt, OutboxError
from edge_agent.layout import Layout
from edge_agent.outbox import Outbox, StoredTick, unpack
from edge_agent.reading import Reading

MAX_BYTES: Final = 8_000_000
_MOVED_AT_A_TIME: Final = 500


class Shelter:
    """An outbox in memory beside the one on disk, until that works again and nothing is left here. For one thread.

    Numbers are only kept apart by what is on disk, so here they belong to a stream of their own. What was sent from
    here may have arrived and stays here until that is confirmed: with another number it would count twice. What was
    not sent moves.
    """

    def __init__(self, memory: Outbox, disk: Outbox | None, open_disk: Callable[[], Outbox]) -> None:
        self.memory = memory
        self.disk = disk
        self._open_disk = open_disk
        self._disk_works = False

    @property
    def target(self) -> Outbox:
        """The outbox for new readings."""
        return self.disk if self.disk is not None and self._disk_works else self.memory

    def return_here(self) -> None:
        """The disk refuses again."""
        self._disk_works = False

    def left(self, highest_sent: int) -> Outbox | None:
        """The outbox on disk, once it works and nothing is left here; what is above `highest_sent` moves there.

        None: not yet, what was sent waits for its confirmation. Raises OutboxError while the disk refuses.
        """
        if self.disk is None:
            self.disk = self._open_disk()
        try:
            self.disk.prove()
            self._move(self.disk, highest_sent)
        except OutboxCorrupt as exc:
            self.replace_disk(exc)
        except OutboxError:
            self._disk_works = False
            raise
        self._disk_works = True
        return None if self.memory.depth or self.memory.waiting else self.disk

    def replace_disk(self, cause: OutboxCorrupt) -> None:
        """The outbox on disk is damaged; raises OutboxError where no new one can be made."""
        if self.disk is not None:
            damaged, self.disk = self.disk, None
            self.disk = damaged.replaced(cause)

    def _move(self, disk: Outbox, highest_sent: int) -> None:
        while found := list(islice(self.memory.index(highest_sent + 1), _MOVED_AT_A_TIME)):
            ticks = self.memory.ticks([seq for seq, _ in found])
            disk.append_many([self._reading(tick) for tick in ticks])
            self.memory.confirm([(ticks[0].seq, ticks[-1].seq)])

    def _reading(self, tick: StoredTick) -> Reading:
        layout = Layout(self.memory.keys(tick.layout), self.memory.clock(tick.layout))
        values = (None if math.isnan(value) else value for value in unpack(tick.data))
        found = dict(zip(layout.keys, values, strict=True))
        return Reading(tick.t_ms, 0, found, synchronised=layout.clock is None)
