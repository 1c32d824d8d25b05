"""Rollups as arrays, and the one operation on them: merging those that fall into the same bucket."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from cloud_ingest.store.readings import Floats, Integers

_NEVER: Final = np.iinfo(np.int64).min  # the time of the last value where there is none


@dataclass(frozen=True, slots=True)
class Rollups:
    """n rollups of layouts with `width` series each; rows of the same device, layout and bucket may be several.

    Of shape (n,): `starts_ms` of the bucket, `device_ids`, `layout_ids`, how many `ticks`, and the times of the
    earliest and the latest of them. Of shape (n, width), by series: `counts` of values, and of those values the
    `sums`, `mins`, `maxs`, and `lasts` with its time `lasts_ms`. Where a count is 0 the sum is 0, the others are NaN
    and the time means nothing.
    """

    starts_ms: Integers
    device_ids: Integers
    layout_ids: Integers
    ticks: Integers
    first_ms: Integers
    last_ms: Integers
    counts: Integers
    sums: Floats
    mins: Floats
    maxs: Floats
    lasts: Floats
    lasts_ms: Integers

    @classmethod
    def of_readings(cls, times_ms: Integers, device_ids: Integers, layout_ids: Integers, samples: Floats) -> Self:
        """Each reading as a rollup of its own; `samples` has shape (n, width), NaN means "no value"."""
        measured = ~np.isnan(samples)
        return cls(
            starts_ms=times_ms,
            device_ids=device_ids,
            layout_ids=layout_ids,
            ticks=np.ones_like(times_ms),
            first_ms=times_ms,
            last_ms=times_ms,
            counts=measured.astype(np.int64),
            sums=np.where(measured, samples, 0.0),
            mins=samples,
            maxs=samples,
            lasts=samples,
            lasts_ms=np.broadcast_to(times_ms[:, np.newaxis], samples.shape),
        )

    @property
    def width(self) -> int:
        """The number of series."""
        return int(self.counts.shape[1])

    def __len__(self) -> int:
        return len(self.starts_ms)

    def rows(self, chosen: npt.NDArray[Any]) -> Self:
        """Those that a mask or indices choose."""
        return type(self)(**{name: getattr(self, name)[chosen] for name in self.__slots__})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One behind the other; of one width, and at least one."""
        if len(parts) == 1:
            return parts[0]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__})

    def merged(self, step_ms: int) -> Self:
        """One row for each device, layout and bucket of `step_ms`, in that order.

        The order of the rows makes no difference, but for the rounding of sums: of values with the same latest time
        the largest is the last one.
        """
        if not len(self):
            return self
        starts_ms = self.starts_ms // step_ms * step_ms
        order = np.lexsort((starts_ms, self.layout_ids, self.device_ids))
        ordered = self.rows(order)
        starts_ms = starts_ms[order]
        is_first = np.ones(len(self), np.bool_)
        is_first[1:] = (
            (starts_ms[1:] != starts_ms[:-1])
            | (ordered.layout_ids[1:] != ordered.layout_ids[:-1])
            | (ordered.device_ids[1:] != ordered.device_ids[:-1])
        )
        groups = np.flatnonzero(is_first)
        lengths = np.diff(groups, append=len(self))
        dated = np.where(ordered.counts > 0, ordered.lasts_ms, _NEVER)
        lasts_ms = np.maximum.reduceat(dated, groups)
        newest = np.where(dated == np.repeat(lasts_ms, lengths, axis=0), ordered.lasts, np.nan)
        with np.errstate(over="ignore", invalid="ignore"):  # a sum that no number can hold is infinite
            sums = np.add.reduceat(ordered.sums, groups)
        return type(self)(
            starts_ms=starts_ms[groups],
            device_ids=ordered.device_ids[groups],
            layout_ids=ordered.layout_ids[groups],
            ticks=np.add.reduceat(ordered.ticks, groups),
            first_ms=np.minimum.reduceat(ordered.first_ms, groups),
            last_ms=np.maximum.reduceat(ordered.last_ms, groups),
            counts=np.add.reduceat(ordered.counts, groups),
            sums=sums,
            mins=np.fmin.reduceat(ordered.mins, groups),
            maxs=np.fmax.reduceat(ordered.maxs, groups),
            lasts=np.fmax.reduceat(newest, groups),
            lasts_ms=lasts_ms,
        )
