"""What comes late, in the transaction that stores it: marks for the worker, and rollups where readings are gone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cloud_ingest.store.database import Connection
from cloud_ingest.store.partitions import Partitions, partitions_of
from cloud_ingest.store.readings import Floats, Integers
from cloud_ingest.store.rollup.copying import write_rollups
from cloud_ingest.store.rollup.rows import Rollups
from cloud_ingest.store.rollup.state import TierState, hold_state, read_state
from cloud_ingest.store.tiers import DAY, FIVE_MINUTES, RAW, ROLLUPS, TIERS, Tier


class Readings(NamedTuple):
    """n readings of one layout: `times_ms` and `device_ids` of shape (n,), `samples` of (n, width)."""

    layout_id: int
    times_ms: Integers
    device_ids: Integers
    samples: Floats

    def rows(self, chosen: npt.NDArray[np.bool_]) -> "Readings":
        """Those of a mask."""
        return Readings(self.layout_id, self.times_ms[chosen], self.device_ids[chosen], self.samples[chosen])


class Mark(NamedTuple):
    """A bucket that the worker must look at again."""

    level: int
    start_ms: int
    device_id: int
    layout_id: int


@dataclass(slots=True)
class Late:
    """What a transaction leaves behind beside raw readings, and of how many readings."""

    ticks: int = 0
    marks: set[Mark] = field(default_factory=set)
    rollups: dict[Tier, list[Rollups]] = field(default_factory=dict)

    def mark(self, tier: Tier, starts_ms: Integers, device_ids: Integers, layout_ids: Integers) -> None:
        """Marks buckets of a tier, given as columns."""
        columns = zip(starts_ms.tolist(), device_ids.tolist(), layout_ids.tolist(), strict=True)
        self.marks.update(Mark(tier.level, *row) for row in columns)


def place(readings: Readings, state: TierState, late: Late) -> Readings:
    """The readings that go into the raw tier; what the others need is added to `late`.

    None of the readings may be from before every tier's floor.
    """
    if readings.times_ms.min() >= state.watermark:
        return readings
    late.ticks += int(np.count_nonzero(readings.times_ms < state.watermark))
    for finer, tier in zip(TIERS, ROLLUPS, strict=False):
        gone = readings.times_ms < state.floors[finer.level]
        here = gone & (readings.times_ms >= state.floors[tier.level])
        if here.any():
            rolled = _rolled(readings.rows(here), tier)
            late.rollups.setdefault(tier, []).append(rolled)
            late.mark(tier, rolled.starts_ms, rolled.device_ids, rolled.layout_ids)
    kept = readings.rows(readings.times_ms >= state.floors[RAW.level])
    marked = kept.rows(kept.times_ms < state.watermark)
    step_ms = FIVE_MINUTES.step_ms
    late.mark(
        FIVE_MINUTES,
        marked.times_ms // step_ms * step_ms,
        marked.device_ids,
        np.full_like(marked.device_ids, marked.layout_id),
    )
    return kept


def _rolled(readings: Readings, tier: Tier) -> Rollups:
    layout_ids = np.full_like(readings.device_ids, readings.layout_id)
    return Rollups.of_readings(readings.times_ms, readings.device_ids, layout_ids, readings.samples).merged(
        tier.step_ms
    )


class Placement:
    """Where readings of any time go, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._partitions: dict[Tier, Partitions] = {tier: partitions_of(connection, tier) for tier in TIERS}
        self._state = read_state(connection)

    @property
    def state(self) -> TierState:
        """What holds, within a transaction that `hold` began."""
        return self._state

    @property
    def earliest_ms(self) -> int:
        """What is from before it belongs nowhere."""
        return self._state.floors[DAY.level]

    def cover(self, times_ms: Integers) -> None:
        """Makes room for readings of these times, as the tiers were when last looked at. Outside a transaction."""
        ceiling = np.iinfo(np.int64).max
        for tier in TIERS:
            floor = self._state.floors[tier.level]
            here = times_ms[(times_ms >= floor) & (times_ms < ceiling)]
            spans = np.unique(here // tier.span_ms) * tier.span_ms
            self._partitions[tier].cover(self._connection, spans.tolist())
            ceiling = floor

    def hold(self) -> bool:
        """Keeps the tiers as they are until the transaction ends; to be called first in it.

        False where readings may now belong elsewhere than `cover` thought: begin again with that.
        """
        before, self._state = self._state, hold_state(self._connection)
        return before.floors == self._state.floors

    def store_late(self, late: Late) -> None:
        """Writes what is not raw readings, in the transaction."""
        for tier, rollups in late.rollups.items():
            write_rollups(self._connection, tier, rollups)
        add_marks(self._connection, late.marks)


def add_marks(connection: Connection, marks: Iterable[Mark]) -> None:
    """Adds marks; one that is there already does no harm."""
    wanted: Sequence[Mark] = list(marks)
    if wanted:
        with connection.cursor() as cursor:
            cursor.execute(
                "insert into telemetry.rollup_mark (level, time, device_id, layout_id)"
                " select level, to_timestamp(start_ms / 1000), device_id, layout_id from unnest("
                "%(levels)s::smallint[], %(starts)s::bigint[], %(devices)s::integer[], %(layouts)s::integer[])"
                " as wanted (level, start_ms, device_id, layout_id)",
                {
                    "levels": [mark.level for mark in wanted],
                    "starts": [mark.start_ms for mark in wanted],
                    "devices": [mark.device_id for mark in wanted],
                    "layouts": [mark.layout_id for mark in wanted],
                },
            )
