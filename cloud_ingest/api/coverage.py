"""How much of a bucket was observed, as far as the readings themselves can tell.

Nobody tells the cloud how often a series is measured, so it is read off the readings: the typical interval is the
median of the mean spacings within the buckets, each weighted by its spacings. Where no bucket holds two readings -
the step is shorter than the interval - or there are too few, nothing is claimed.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

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
    starts: Integers, step_ms: int, observed: Integers, interval_ms: float | None, now_ms: int
) -> list[float | None] | None:
    """For each bucket the fraction of the expected readings that had a value, 0 to 1; None where that can't be told.

    `starts` (ms) and `observed` have one length. One reading fewer than the quotient of step and interval is normal,
    since readings don't fall in step with buckets. A bucket in progress is judged by the part that has passed, less
    the newest reading, which may be on its way. None for all where the interval is unknown or longer than the step.
    """
    if interval_ms is None or interval_ms > step_ms:
        return None
    passed = np.minimum(step_ms, now_ms - starts)
    expected: npt.NDArray[Any] = np.floor(passed / interval_ms + 1e-9) - (passed < step_ms)
    tellable = expected >= 1
    fractions = np.minimum(1.0, observed / np.where(tellable, expected, 1))
    return [round(float(it), 4) if ok else None for it, ok in zip(fractions, tellable, strict=True)]
