"""Columns of points -> the `time`, `value` and `coverage` lists of each series."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import numpy as np

from cloud_ingest.api.coverage import Floats, Integers, bounded, coverage, typical_interval_ms
from cloud_ingest.store.columns import Columns
from cloud_ingest.store.history import Aggregate, Window

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Shape:
    """One series of an answer. `index` is that of the series it was asked for; NaN in `value` becomes null."""

    index: int
    time: list[str]
    value: list[float]
    coverage: list[float | None] | None


@dataclass(frozen=True, slots=True)
class Grid:
    """Whole buckets: `count` of `step_ms`, from `start_ms`."""

    start_ms: int
    step_ms: int
    count: int

    @classmethod
    def around(cls, window: Window, step: timedelta) -> Self:
        """The buckets that hold any of the window; they begin at multiples of the step since the epoch."""
        first = (window.start - EPOCH) // step
        behind = -((EPOCH - window.end) // step)  # rounded up, by rounding its negative down
        step_ms = step // timedelta(milliseconds=1)
        return cls(first * step_ms, step_ms, behind - first)

    @property
    def window(self) -> Window:
        """The time that the buckets hold, which may begin earlier and end later than what they were made around."""
        start = EPOCH + timedelta(milliseconds=self.start_ms)
        return Window(start, start + timedelta(milliseconds=self.step_ms * self.count))

    @property
    def starts(self) -> Integers:
        """The start of each bucket, ms."""
        return self.start_ms + self.step_ms * np.arange(self.count, dtype=np.int64)


def raw(points: Columns) -> Iterator[Shape]:
    """The series that have readings, each ordered by time."""
    for index, rows in _by_series(points):
        yield Shape(index, times(points["time"][rows]), points["value"][rows].tolist(), None)


def bucketed(
    buckets: Columns, grid: Grid, aggregate: Aggregate, now_ms: int, missing: Mapping[int, Floats]
) -> Iterator[Shape]:
    """The series that have readings, each with every bucket of the grid: one without a reading has no value.

    `missing`: the fractions of each bucket that are known to be missing, for the series of which any are.
    """
    time = times(grid.starts)
    for index, rows in _by_series(buckets):
        at = (buckets["time"][rows] - grid.start_ms) // grid.step_ms
        value = np.full(grid.count, 0.0 if aggregate is Aggregate.COUNT else np.nan)
        value[at] = buckets["value"][rows]
        observed = np.zeros(grid.count, np.int64)
        observed[at] = buckets["observed"][rows]
        interval = typical_interval_ms(buckets["readings"][rows], buckets["first"][rows], buckets["last"][rows])
        estimates = coverage(grid.starts, grid.step_ms, observed, interval, now_ms)
        yield Shape(index, time, value.tolist(), bounded(estimates, missing.get(index)))


def times(milliseconds: Integers) -> list[str]:
    """RFC 3339, UTC, milliseconds."""
    texts: list[str] = np.datetime_as_string(milliseconds.astype("datetime64[ms]"), timezone="UTC").tolist()
    return texts


def _by_series(columns: Columns) -> Iterator[tuple[int, Any]]:
    """Each series index that occurs, ascending, and its rows ordered by time."""
    order = np.lexsort((columns["time"], columns["series"]))
    present, first = np.unique(columns["series"][order], return_index=True)
    # Where nothing is present, the split still makes one empty piece
    yield from zip(present.tolist(), np.split(order, first[1:]), strict=False)
