"""From columns to lists, and what is claimed about coverage."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.api.coverage import coverage, typical_interval_ms
from cloud_ingest.api.grids import Grid
from cloud_ingest.api.shapes import bucketed, raw
from cloud_ingest.store.history import Aggregate, Window

MINUTE = 60_000
LATER = 10**13  # a "now" at which every bucket is over


def integers(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def observe(times: list[int], step: int, now: int = LATER) -> list[float | None] | None:
    """The coverage of readings at these times, all of which had a value."""
    starts = np.arange(times[0] // step * step, times[-1] + 1, step, dtype=np.int64)
    held = [[time for time in times if start <= time < start + step] for start in starts]
    full = [bucket for bucket in held if bucket]
    interval = typical_interval_ms(
        integers(*map(len, full)), integers(*(bucket[0] for bucket in full)), integers(*(bucket[-1] for bucket in full))
    )
    return coverage(starts, np.full_like(starts, step), integers(*map(len, held)), interval, now)


def test_a_series_without_loss_is_covered_whole() -> None:
    assert observe(list(range(1_234, 10 * MINUTE, 5_000)), MINUTE) == [1.0] * 10


@given(st.integers(1_000, 20_000), st.integers(0, 20_000), st.integers(1, 5))
def test_a_regular_series_is_covered_whole_however_it_falls_into_buckets(
    interval: int, phase: int, minutes: int
) -> None:
    step = minutes * MINUTE
    times = list(range(phase, 10 * step, interval))
    covered = observe(times, step)
    assert covered is not None
    assert covered[1:] == [1.0] * 9  # the first may begin late


def test_jitter_is_no_loss() -> None:
    times = [index * 5_003 + (index * 7_919) % 40 for index in range(200)]
    covered = observe(times, MINUTE)
    assert covered is not None
    assert covered[:-1] == [1.0] * (len(covered) - 1)


def test_a_gap_shows_as_what_is_missing() -> None:
    times = [time for time in range(0, 5 * MINUTE, 5_000) if not 90_000 <= time < 180_000]
    assert observe(times, MINUTE) == [1.0, 0.5, 0.0, 1.0, 1.0]


def test_one_lost_reading_is_seen() -> None:
    times = [time for time in range(0, 3 * MINUTE, 5_000) if time != 75_000]
    assert observe(times, MINUTE) == [1.0, round(11 / 12, 4), 1.0]


def test_nothing_is_claimed_where_the_interval_cannot_be_told() -> None:
    assert observe([0, 30_000], MINUTE) is None
    assert observe(list(range(0, 10 * MINUTE, 5_000)), 1_000) is None  # no bucket holds two
    assert coverage(integers(0), integers(1_000), integers(1), None, LATER) is None
    assert coverage(integers(0), integers(1_000), integers(1), 5_000.0, LATER) is None


def test_a_bucket_in_progress_is_judged_by_what_has_passed() -> None:
    times = list(range(0, 5 * MINUTE + 20_000, 5_000))
    covered = observe(times, MINUTE, now=5 * MINUTE + 20_000)
    assert covered == [1.0] * 6


def test_a_reading_on_its_way_is_not_missed() -> None:
    times = list(range(4_900, 5 * MINUTE + 15_000, 5_000))
    assert observe(times, MINUTE, now=5 * MINUTE + 20_000) == [1.0] * 6


def test_nothing_is_claimed_about_buckets_that_have_just_begun_or_lie_ahead() -> None:
    covered = coverage(
        integers(0, MINUTE, 2 * MINUTE), integers(*[MINUTE] * 3), integers(12, 1, 0), 5_000.0, MINUTE + 4_000
    )
    assert covered == [1.0, None, None]


def test_values_that_were_missing_in_a_reading_are_missing_from_coverage() -> None:
    readings, observed = integers(12, 12), integers(12, 6)
    interval = typical_interval_ms(readings, integers(0, MINUTE), integers(55_000, MINUTE + 55_000))
    assert coverage(integers(0, MINUTE), integers(MINUTE, MINUTE), observed, interval, LATER) == [1.0, 0.5]


def columns(**lists: list[Any]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.array(values) for name, values in lists.items()}


def test_raw_points_are_grouped_by_series_and_ordered_by_time() -> None:
    points = columns(series=[2, 0, 2, 0], time=[3_000, 2_000, 1_000, 1_000], value=[4.0, 3.0, 2.0, 1.0])
    assert [(it.index, it.time, it.value, it.coverage) for it in raw(points)] == [
        (0, ["1970-01-01T00:00:01.000Z", "1970-01-01T00:00:02.000Z"], [1.0, 3.0], None),
        (2, ["1970-01-01T00:00:01.000Z", "1970-01-01T00:00:03.000Z"], [2.0, 4.0], None),
    ]


def test_no_points_make_no_series() -> None:
    assert list(raw(columns(series=[], time=[], value=[]))) == []


def moment(seconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 60, Grid((0, 60_000), 60_000)),
        (0, 60.001, Grid((0, 60_000, 120_000), 60_000)),
        (59.999, 60, Grid((0, 60_000), 60_000)),
        (61, 179, Grid((60_000, 120_000, 180_000), 60_000)),
    ],
)
def test_a_grid_holds_whole_buckets_around_the_window(start: float, end: float, expected: Grid) -> None:
    grid = Grid.around(Window(moment(start), moment(end)), timedelta(minutes=1))
    assert grid == expected
    assert grid.window.start <= moment(start)
    assert grid.window.end >= moment(end)


@pytest.mark.parametrize(
    ("aggregate", "empty"), [(Aggregate.MEAN, None), (Aggregate.COUNT, 0.0), (Aggregate.SUM, None)]
)
def test_a_bucket_without_readings_has_no_value_but_a_count_of_zero(aggregate: Aggregate, empty: float | None) -> None:
    found = columns(
        series=[0],
        time=[MINUTE],
        readings=[2],
        observed=[2],
        first_time=[MINUTE],
        last_time=[MINUTE + 5_000],
        **{aggregate.value: [7.0]},
    )
    (shape,) = bucketed(found, Grid((0, MINUTE, 2 * MINUTE, 3 * MINUTE), MINUTE), aggregate, LATER, {})
    assert [None if np.isnan(value) else value for value in shape.value] == [empty, 7.0, empty]
    assert shape.time == [f"1970-01-01T00:0{minute}:00.000Z" for minute in range(3)]
