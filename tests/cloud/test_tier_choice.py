"""Which tier answers, and from which stretches of time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.store.rollup.state import TierState
from cloud_ingest.store.tier_choice import Choice, choose_tier, parts_of
from cloud_ingest.store.tiers import DAY, FIVE_MINUTES, HOUR, RAW, TIERS, Tier

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOW = 20_000 * DAY_MS + 9 * HOUR_MS + 17 * 60_000

# As a worker leaves it that keeps a day, 7, 30 and 365 days.
STATE = TierState(
    rolled=(NOW // 300_000 * 300_000, NOW // 300_000 * 300_000, NOW // HOUR_MS * HOUR_MS, NOW // DAY_MS * DAY_MS),
    floors=tuple(
        (NOW - days * DAY_MS) // tier.span_ms * tier.span_ms for days, tier in zip((1, 7, 30, 365), TIERS, strict=True)
    ),
)
FRESH = TierState(rolled=(0, 0, 0, 0), floors=(0, 0, 0, 0))


@pytest.mark.parametrize(
    ("start", "end", "step", "tier", "answered"),
    [
        # what there is of a short, recent time is read as it came
        (HOUR_MS, 0, None, RAW, None),
        (HOUR_MS, 0, 60_000, RAW, 60_000),
        (HOUR_MS, 0, 300_000, RAW, 300_000),
        (6 * HOUR_MS, 0, HOUR_MS, RAW, HOUR_MS),
        # a longer one from the coarsest that its steps can be made of
        (23 * HOUR_MS, 0, 300_000, FIVE_MINUTES, 300_000),
        (23 * HOUR_MS, 0, 600_000, FIVE_MINUTES, 600_000),
        (23 * HOUR_MS, 0, HOUR_MS, HOUR, HOUR_MS),
        (23 * HOUR_MS, 0, 90 * 60_000, FIVE_MINUTES, 90 * 60_000),
        (23 * HOUR_MS, 0, 60_000, RAW, 60_000),
        (6 * DAY_MS, 0, 3 * HOUR_MS, HOUR, 3 * HOUR_MS),
        (29 * DAY_MS, 0, 7 * DAY_MS, DAY, 7 * DAY_MS),
        (200 * DAY_MS, 0, DAY_MS, DAY, DAY_MS),
        # where readings are gone, the shortest buckets that are left
        (3 * DAY_MS, 2 * DAY_MS, None, FIVE_MINUTES, 300_000),
        (3 * DAY_MS, 2 * DAY_MS, 1_000, FIVE_MINUTES, 300_000),
        (3 * DAY_MS, 2 * DAY_MS, 420_000, FIVE_MINUTES, 600_000),
        (20 * DAY_MS, 0, 60_000, HOUR, HOUR_MS),
        (20 * DAY_MS, 0, 90 * 60_000, HOUR, 2 * HOUR_MS),
        (200 * DAY_MS, 0, None, DAY, DAY_MS),
        (200 * DAY_MS, 0, HOUR_MS, DAY, DAY_MS),
        # what nobody holds any more
        (4_000 * DAY_MS, 0, None, DAY, DAY_MS),
        (4_000 * DAY_MS, 0, HOUR_MS, DAY, DAY_MS),
        # the first bucket would begin where the readings are gone
        (23 * HOUR_MS, 20 * HOUR_MS, DAY_MS, DAY, DAY_MS),
    ],
)
def test_tier_fits_age_range_and_step(start: int, end: int, step: int | None, tier: Tier, answered: int | None) -> None:
    assert choose_tier(STATE, NOW - start, NOW - end, step) == Choice(tier, answered)


def test_a_rate_is_made_of_the_finest_that_its_steps_can_be_made_of() -> None:
    assert choose_tier(STATE, NOW - 20 * HOUR_MS, NOW, HOUR_MS, finest=True) == Choice(RAW, HOUR_MS)
    assert choose_tier(STATE, NOW - 3 * DAY_MS, NOW, HOUR_MS, finest=True) == Choice(FIVE_MINUTES, HOUR_MS)
    assert choose_tier(STATE, NOW - 3 * DAY_MS, NOW, DAY_MS, finest=True) == Choice(FIVE_MINUTES, DAY_MS)


def test_nothing_rolled_up_yet_is_read_from_readings() -> None:
    assert choose_tier(FRESH, NOW - 300 * DAY_MS, NOW, None) == Choice(RAW, None)
    choice = choose_tier(FRESH, NOW - 300 * DAY_MS, NOW, DAY_MS)
    assert [part.tier for part in parts_of(FRESH, choice.tier, NOW - 300 * DAY_MS, NOW)] == [RAW]


def test_newest_time_is_read_from_finer_tiers() -> None:
    start, end = NOW - 20 * DAY_MS, NOW + HOUR_MS
    assert parts_of(STATE, DAY, start, end) == [
        (DAY, start, STATE.rolled[3]),
        (HOUR, STATE.rolled[3], STATE.rolled[2]),
        (FIVE_MINUTES, STATE.rolled[2], STATE.rolled[1]),
        (RAW, STATE.rolled[1], end),
    ]


@given(st.sampled_from(TIERS), st.integers(-500, 2), st.integers(0, 500))
def test_parts_hold_each_moment_that_is_kept_once(tier: Tier, start_days: int, days: int) -> None:
    start = NOW // DAY_MS * DAY_MS + start_days * DAY_MS
    end = start + days * DAY_MS
    parts = parts_of(STATE, tier, start, end)
    expected = max(start, STATE.floors[tier.level])
    for part in parts:
        assert part.start_ms == expected < part.end_ms
        assert part.start_ms >= STATE.floors[part.tier.level]
        if part.tier is not RAW:
            assert part.end_ms <= STATE.rolled[part.tier.level]
        expected = part.end_ms
    assert expected == max(end, STATE.floors[tier.level], start) or not parts
    assert parts or end <= max(start, STATE.floors[tier.level])
