"""Buckets by the clock and calendar of a zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.api.grids import Grid
from cloud_ingest.store.history import Window
from cloud_ingest.store.rollup.state import from_ms

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")  # forward on 2026-03-29 at 2:00, back on 2026-10-25 at 3:00
MOMENTS = st.integers(631_152_000, 2_051_222_400).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
ZONES = [
    "UTC",
    "Asia/Seoul",
    "Asia/Kolkata",
    "Europe/Berlin",
    "America/Havana",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
]


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def shown(grid: Grid, zone: ZoneInfo = BERLIN) -> list[str]:
    return [from_ms(edge).astimezone(zone).strftime("%d %H:%M") for edge in grid.edges]


def test_days_begin_at_midnight_there_and_last_as_long_as_they_do() -> None:
    grid = Grid.in_zone(Window(at("2026-03-28T12:00"), at("2026-03-30T00:01")), DAY, BERLIN)
    assert shown(grid) == ["28 00:00", "29 00:00", "30 00:00", "31 00:00"]
    assert (grid.lengths // 3_600_000).tolist() == [24, 23, 24]
    back = Grid.in_zone(Window(at("2026-10-25T12:00"), at("2026-10-25T13:00")), DAY, BERLIN)
    assert (back.lengths // 3_600_000).tolist() == [25]


def test_an_hour_that_is_skipped_has_no_bucket_and_one_that_comes_twice_has_two() -> None:
    forward = Grid.in_zone(Window(at("2026-03-29T01:00"), at("2026-03-29T04:00")), HOUR, BERLIN)
    assert shown(forward) == ["29 01:00", "29 03:00", "29 04:00"]
    back = Grid.in_zone(Window(at("2026-10-25T01:00"), at("2026-10-25T04:00")), HOUR, BERLIN)
    assert shown(back) == ["25 01:00", "25 02:00", "25 02:00", "25 03:00", "25 04:00"]
    assert set(back.lengths.tolist() + forward.lengths.tolist()) == {3_600_000}


def test_longer_steps_keep_to_the_clock_when_it_is_changed() -> None:
    grid = Grid.in_zone(Window(at("2026-10-25T00:00"), at("2026-10-25T12:00")), 6 * HOUR, BERLIN)
    assert shown(grid) == ["25 00:00", "25 06:00", "25 12:00"]
    assert (grid.lengths // 3_600_000).tolist() == [7, 6]


def test_a_day_whose_midnight_is_skipped_begins_when_the_clock_is_put_forward() -> None:
    havana = ZoneInfo("America/Havana")  # forward on 2026-03-08 at 0:00
    grid = Grid.in_zone(Window(at("2026-03-08T12:00", havana), at("2026-03-08T13:00", havana)), DAY, havana)
    assert shown(grid, havana) == ["08 01:00", "09 00:00"]


def test_a_zone_of_half_hours_has_whole_hours_of_its_own() -> None:
    kolkata = ZoneInfo("Asia/Kolkata")
    grid = Grid.in_zone(Window(at("2026-01-01T08:00", kolkata), at("2026-01-01T10:00", kolkata)), HOUR, kolkata)
    assert shown(grid, kolkata) == ["01 08:00", "01 09:00", "01 10:00"]
    assert grid.grain_ms == 1_800_000


@pytest.mark.parametrize("step", [7 * HOUR, 36 * HOUR, timedelta(seconds=7)])
def test_a_step_that_no_day_can_be_cut_by_is_refused(step: timedelta) -> None:
    with pytest.raises(ValueError, match="divide a day"):
        Grid.in_zone(Window(at("2026-01-01T08:00"), at("2026-01-01T10:00")), step, BERLIN)


@given(
    start=MOMENTS,
    length=st.timedeltas(timedelta(seconds=1), 20 * DAY),
    step=st.sampled_from([15 * 60, 1_800, 3_600, 6 * 3_600, 12 * 3_600, 86_400, 7 * 86_400]),
    zone=st.sampled_from(ZONES).map(ZoneInfo),
)
def test_buckets_of_a_zone_hold_the_window_and_no_bucket_too_many(
    start: datetime, length: timedelta, step: int, zone: ZoneInfo
) -> None:
    window = Window(start, start + length)
    grid = Grid.in_zone(window, timedelta(seconds=step), zone)
    assert list(grid.edges) == sorted(set(grid.edges))
    assert from_ms(grid.edges[0]) <= start < from_ms(grid.edges[1])
    assert from_ms(grid.edges[-2]) < window.end <= from_ms(grid.edges[-1])
    for edge in grid.edges:
        local = from_ms(edge).astimezone(zone)
        since_midnight = timedelta(hours=local.hour, minutes=local.minute, seconds=local.second)
        if step < 86_400:
            assert since_midnight % timedelta(seconds=step) == timedelta(0)
        elif since_midnight:  # midnight is skipped there: a moment before it was another day
            assert (from_ms(edge) - timedelta(milliseconds=1)).astimezone(zone).date() < local.date()


@given(
    start=MOMENTS,
    step=st.sampled_from([60, 3_600, 86_400, 7 * 86_400]),
)
def test_utc_is_a_zone_like_any_other(start: datetime, step: int) -> None:
    window, length = Window(start, start + 2 * DAY), timedelta(seconds=step)
    local, uniform = Grid.in_zone(window, length, ZoneInfo("UTC")), Grid.around(window, length)
    assert local.edges == uniform.edges
    assert local.grain_ms % uniform.grain_ms == 0
