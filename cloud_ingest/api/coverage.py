"""How much of a bucket was observed, as far as the readings themselves can tell.

Nobody tells the cloud how often a series is measured, so it is read off the readings: the typical interval is the
median of the mean spacings within the buckets, each weighted by its spacings. Where no bucket holds two readings -
the step is shorter than the interval - or there are too few, nothing is claimed. What is known to be missing bounds
it: where all readings of a time were thinned, their own interval would say that nothing is missing.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cloud_ingest.store.known_gaps import Loss

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_MIN_SPACINGS: Final = 3


def typical_interval_ms(readings: Integers, first: Integers, last: Integers) -> float | None:
    """The typical time between readings, from the count and the first and last time (ms) of each bucket."""
    spacings = readings - 1
    dense = (spacings > 0) & (last > first)
    weights = spacings[dense]
    if weights.sum() < _MIN_SPACINGS:
        return None
    means = (last[dense] - first[dense]) / weights
    order = np.argsort(means)
    middle = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
    return float(means[order][middle])


def coverage(
    starts: Integers, lengths: Integers, observed: Integers, interval_ms: float | None, now_ms: int
) -> list[float | None] | None:
    """For each bucket the fraction of the expected readings that had a value, 0 to 1; None where that can't be told.

    `starts`, `lengths` (ms) and `observed` go together. One reading fewer than the quotient of length and interval is
    normal, since readings don't fall in step with buckets. A bucket in progress is judged by the part that has passed,
    less the newest reading, which may be on its way. None for all where the interval is unknown or longer than the
    shortest bucket.
    """
    if interval_ms is None or interval_ms > lengths.min():
        return None
    passed = np.minimum(lengths, now_ms - starts)
    expected: npt.NDArray[Any] = np.floor(passed / interval_ms + 1e-9) - (passed < lengths)
    tellable = expected >= 1
    fractions = np.minimum(1.0, observed / np.where(tellable, expected, 1))
    return [round(float(it), 4) if ok else None for it, ok in zip(fractions, tellable, strict=True)]


def missing_shares(starts: Integers, lengths: Integers, losses: Iterable[Loss]) -> Floats:
    """For each bucket the fraction of its readings, 0 to 1, that is known to be missing."""
    shares = np.zeros(len(starts))
    for loss in losses:
        overlap = np.minimum(starts + lengths, loss.end_ms) - np.maximum(starts, loss.start_ms)
        shares += np.maximum(overlap, 0) / lengths * loss.share
    return np.minimum(shares, 1.0)


def bounded(estimates: list[float | None] | None, missing: Floats | None) -> list[float | None] | None:
    """The coverage, nowhere more than what is missing leaves; None for all where nothing can be told of any bucket."""
    if missing is None or not missing.any():
        return estimates
    known: list[float | None] = [None] * len(missing) if estimates is None else estimates
    most = [round(1 - share, 4) if share else None for share in missing.tolist()]
    return [
        bound if estimate is None else estimate if bound is None else min(bound, estimate)
        for estimate, bound in zip(known, most, strict=True)
    ]
