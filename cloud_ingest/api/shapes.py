"""Columns of points -> the lists and figures of each series or group of an answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloud_ingest.api.coverage import Floats, Integers, bounded, coverage, typical_interval_ms
from cloud_ingest.api.grids import Grid
from cloud_ingest.store.columns import Columns
from cloud_ingest.store.history import Aggregate


@dataclass(frozen=True, slots=True)
class Shape:
    """One series of an answer. `index` is that of the series it was asked for; NaN in `value` becomes null."""

    index: int
    time: list[str]
    value: list[float]
    coverage: list[float | None] | None


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
        at = np.searchsorted(grid.starts, buckets["time"][rows])
        value = np.full(grid.count, 0.0 if aggregate is Aggregate.COUNT else np.nan)
        value[at] = buckets[aggregate.value][rows]
        observed = np.zeros(grid.count, np.int64)
        observed[at] = buckets["observed"][rows]
        interval = _interval(buckets, rows)
        estimates = coverage(grid.starts, grid.lengths, observed, interval, now_ms)
        yield Shape(index, time, value.tolist(), bounded(estimates, missing.get(index)))


@dataclass(frozen=True, slots=True)
class Group:
    """One group of an answer: every bucket of the grid, NaN where it has no value; `count` counts values."""

    index: int
    mean: list[float]
    min: list[float]
    max: list[float]
    count: list[int]


def grouped(buckets: Columns, grid: Grid) -> Iterator[Group]:
    """The groups that have readings, from buckets with mean, min, max and count."""
    for index, rows in _by_series(buckets):
        at = np.searchsorted(grid.starts, buckets["time"][rows])
        columns = {}
        for name in ("mean", "min", "max"):
            columns[name] = np.full(grid.count, np.nan)
            columns[name][at] = buckets[name][rows]
        count = np.zeros(grid.count, np.int64)
        count[at] = buckets["observed"][rows]
        mean, low, high = (columns[name].tolist() for name in ("mean", "min", "max"))
        yield Group(index, mean, low, high, count.tolist())


@dataclass(frozen=True, slots=True)
class Summary:
    """All of one series in one: NaN where there is no value, or where `p50` and `p95` can't be told."""

    index: int
    count: int
    min: float
    mean: float
    max: float
    last: float
    coverage: float | None
    p50: float = np.nan
    p95: float = np.nan


@dataclass(frozen=True, slots=True)
class Frame:
    """The time that summaries are of, one of `starts` and `lengths` (ms), and what is known beside its readings.

    `missing` as of `bucketed`.
    """

    starts: Integers
    lengths: Integers
    now_ms: int
    missing: Mapping[int, Floats]

    def coverage(self, index: int, count: int, interval_ms: float | None) -> float | None:
        """That of a series with so many values, measured each `interval_ms`."""
        estimate = coverage(self.starts, self.lengths, np.array([count], np.int64), interval_ms, self.now_ms)
        covered = bounded(estimate, self.missing.get(index))
        return None if covered is None else covered[0]


def summed(buckets: Columns, frame: Frame) -> Iterator[Summary]:
    """The series that have readings, from buckets with sum, min, max and last, all of which lie in the frame."""
    for index, rows in _by_series(buckets):
        observed = buckets["observed"][rows]
        count = int(observed.sum())
        held = rows[observed > 0]
        yield Summary(
            index=index,
            count=count,
            min=float(buckets["min"][held].min()) if count else np.nan,
            mean=float(buckets["sum"][held].sum()) / count if count else np.nan,
            max=float(buckets["max"][held].max()) if count else np.nan,
            last=float(buckets["last"][held[-1]]) if count else np.nan,
            coverage=frame.coverage(index, count, _interval(buckets, rows)),
        )


def _interval(buckets: Columns, rows: Any) -> float | None:
    return typical_interval_ms(buckets["readings"][rows], buckets["first_time"][rows], buckets["last_time"][rows])


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
