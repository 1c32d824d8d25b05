"""What series did over a time, in figures, from all readings of it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cloud_ingest.api.coverage import Floats, Integers, typical_interval_ms
from cloud_ingest.api.shapes import Frame, Summary
from cloud_ingest.errors import DataRejected
from cloud_ingest.store.matrices import Matrix

_RANKS: Final = (0.5, 0.95)


def of_readings(devices: Iterable[Sequence[Matrix]], stretch_ms: int, frame: Frame) -> Iterator[Summary]:
    """The series that have readings, all of which lie in the frame, in the order of the devices.

    How often a series is measured is read off stretches of `stretch_ms`. Raises DataRejected where a sum overflows.
    """
    for matrices in devices:
        for matrix in _joined(matrices):
            interval = _interval(matrix.times_ms, stretch_ms)
            columns = _columns(matrix)
            for at, index in enumerate(matrix.series):
                figures: dict[str, Any] = {name: column[at] for name, column in columns.items()}
                yield Summary(index=index, coverage=frame.coverage(index, figures["count"], interval), **figures)


def _joined(matrices: Sequence[Matrix]) -> Iterator[Matrix]:
    """Matrices that hold each series once, whole: a series may lie in several layouts."""
    holders: dict[int, list[tuple[int, int]]] = {}
    for number, matrix in enumerate(matrices):
        for row, index in enumerate(matrix.series):
            holders.setdefault(index, []).append((number, row))
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, places in holders.items():
        alike.setdefault(tuple(number for number, _ in places), []).append(index)
    for numbers, series in alike.items():
        samples = [
            matrices[number].samples[[holders[index][piece][1] for index in series]]
            for piece, number in enumerate(numbers)
        ]
        times = [matrices[number].times_ms for number in numbers]
        yield Matrix(series, np.concatenate(times), np.concatenate(samples, axis=1))


def _interval(times_ms: Integers, stretch_ms: int) -> float | None:
    ordered = np.sort(times_ms)
    _, first, readings = np.unique(ordered // stretch_ms, return_index=True, return_counts=True)
    return typical_interval_ms(readings, ordered[first], ordered[first + readings - 1])


def _columns(matrix: Matrix) -> dict[str, list[Any]]:
    """The figures of each series by name; NaN where it has no value."""
    samples, times = matrix.samples, matrix.times_ms
    observed = ~np.isnan(samples)
    counts = observed.sum(axis=1)
    none = counts == 0
    newest = np.where(observed, times, np.iinfo(np.int64).min).max(axis=1)
    # Of several values of one time the largest counts as the last
    latest = observed & (times == newest[:, np.newaxis])
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.where(observed, samples, 0.0).sum(axis=1)
        p50, p95 = _quantiles(samples, counts)
        figures: dict[str, npt.NDArray[Any]] = {
            "min": np.where(observed, samples, np.inf).min(axis=1),
            "mean": sums / np.maximum(counts, 1),
            "max": np.where(observed, samples, -np.inf).max(axis=1),
            "last": np.where(latest, samples, -np.inf).max(axis=1),
            "p50": p50,
            "p95": p95,
        }
    if np.isinf(sums).any():
        raise DataRejected("value out of range: overflow")
    return {"count": counts.tolist(), **{name: np.where(none, np.nan, it).tolist() for name, it in figures.items()}}


def _quantiles(samples: Floats, counts: Integers) -> list[Floats]:
    """Those of `_RANKS`, each interpolated between the two values that it falls between."""
    ordered = np.sort(samples, axis=1)  # NaN behind all numbers
    rows = np.arange(len(counts))
    quantiles = []
    for rank in _RANKS:
        at = rank * np.maximum(counts - 1, 0)
        below = np.floor(at).astype(np.int64)
        low = ordered[rows, below]
        high = ordered[rows, np.ceil(at).astype(np.int64)]
        quantiles.append(low + (at - below) * (high - low))
    return quantiles
