"""The figures of series, from matrices of their readings."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.api.figures import of_readings
from cloud_ingest.api.shapes import Frame
from cloud_ingest.errors import DataRejected
from cloud_ingest.store.matrices import Matrix

HOUR = 3_600_000
FRAME = Frame(np.array([0], np.int64), np.array([HOUR], np.int64), 10**13, {})

VALUES = st.none() | st.floats(-1e6, 1e6, width=32)
ROWS = st.lists(st.tuples(st.integers(0, HOUR - 1), VALUES, VALUES), min_size=1, max_size=30)


def matrix(series: list[int], rows: list[tuple[int, float | None, float | None]]) -> Matrix:
    columns = [[math.nan if row[at] is None else row[at] for row in rows] for at in range(1, len(series) + 1)]
    return Matrix(series, np.array([row[0] for row in rows], np.int64), np.array(columns, np.float64))


@given(ROWS, ROWS)
def test_figures_are_those_of_all_readings_of_whichever_layout(
    first: list[tuple[int, float | None, float | None]], second: list[tuple[int, float | None, float | None]]
) -> None:
    summaries = of_readings([[matrix([0, 1], first), matrix([1, 2], second)]], 60_000, FRAME)
    held = {
        0: [(row[0], row[1]) for row in first],
        1: [(row[0], row[2]) for row in first] + [(row[0], row[1]) for row in second],
        2: [(row[0], row[2]) for row in second],
    }
    found = {one.index: one for one in summaries}
    assert sorted(found) == [0, 1, 2]
    for index, points in held.items():
        values = [value for _, value in points if value is not None]
        one = found[index]
        assert one.count == len(values)
        figures = [one.min, one.mean, one.max, one.last, one.p50, one.p95]
        if values:
            last = max((time, value) for time, value in points if value is not None)[1]
            p50, p95 = np.quantile(values, [0.5, 0.95]).tolist()
            expected = [min(values), statistics.fmean(values), max(values), last, p50, p95]
            assert figures == pytest.approx(expected, rel=1e-9, abs=1e-6)
        else:
            assert all(math.isnan(figure) for figure in figures)


def test_a_sum_that_overflows_is_refused() -> None:
    with pytest.raises(DataRejected, match="overflow"):
        list(of_readings([[matrix([0], [(1, 1e308, None), (2, 1e308, None)])]], 60_000, FRAME))
