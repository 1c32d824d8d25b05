from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.api.times import (
    EARLIEST,
    MAX_AHEAD,
    format_duration,
    format_time,
    parse_duration,
    parse_time,
    resolve,
)

NOW = datetime(2026, 11, 20, 23, 39, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("-1h", NOW - timedelta(hours=1)),
        ("-7d", NOW - timedelta(days=7)),
        ("-90", NOW - timedelta(seconds=90)),
        ("2026-11-20T23:39:00Z", NOW),
        ("2026-11-20t23:39:00z", NOW),
        ("2026-11-20 23:39:00Z", NOW),
        ("2026-11-21T08:39:00+09:00", NOW),
        ("2026-11-21T08:39:00 09:00", NOW),  # a plus sign that was not percent-encoded
        ("2026-11-20T20:09:00-03:30", NOW),
        ("2026-11-20T23:39:00.123456789Z", NOW + timedelta(microseconds=123_456)),
        ("2026-11-20T23:39:00.5Z", NOW + timedelta(milliseconds=500)),
    ],
)
def test_times_are_read_as_written(text: str, expected: datetime) -> None:
    assert resolve(parse_time(text), NOW) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-11-20T23:39:00", "needs a time zone"),
        ("2026-11-20", "must be RFC 3339"),
        ("2026-02-30T00:00:00Z", "is not a time that exists"),
        ("2026-11-20T24:00:00Z", "is not a time that exists"),
        ("2026-11-20T23:39:60Z", "is not a time that exists"),
        ("2026-11-20T23:39:00+24:00", "is not a time that exists"),
        ("0001-01-01T00:00:00+09:00", "is not a time that exists"),
        ("20262-11-20T23:39:00Z", "must be RFC 3339"),
        ("٢٠٢٦-11-20T23:39:00Z", "must be RFC 3339"),
        ("-1y", "must be RFC 3339"),
        ("-0h", "must be at least one second"),
        ("-999999999999w", "must be at most 36525 days"),
        ("1h", "must be RFC 3339"),
        ("yesterday", "must be RFC 3339"),
        ("", "must be RFC 3339"),
        ("2026-11-20T23:39:00Z\n", "must be RFC 3339"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(parse_time(text), NOW)


@pytest.mark.parametrize("text", ["1969-12-31T23:59:59Z", "1200-01-01T00:00:00Z", "2027-12-01T00:00:00Z", "-36525d"])
def test_absurd_years_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must not be"):
        resolve(parse_time(text), NOW)


def test_the_bounds_themselves_are_allowed() -> None:
    assert resolve(EARLIEST, NOW) == EARLIEST
    assert resolve(NOW + MAX_AHEAD, NOW) == NOW + MAX_AHEAD


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1), timezones=st.just(UTC)), st.integers(-1439, 1439))  # noqa: DTZ001 - Hypothesis wants naive bounds
def test_a_formatted_time_reads_back_to_the_millisecond_from_any_zone(moment: datetime, minutes: int) -> None:
    elsewhere = moment.astimezone(timezone(timedelta(minutes=minutes)))
    read = parse_time(format_time(elsewhere))
    assert isinstance(read, datetime)
    assert timedelta(0) <= moment - read < timedelta(milliseconds=1)


@given(st.text())
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    for parse in (parse_time, parse_duration):
        try:
            parse(text)
        except ValueError as exc:
            assert str(exc)  # noqa: PT017 - any text may also be fine


@pytest.mark.parametrize(("text", "seconds"), [("60", 60), ("30s", 30), ("5m", 300), ("1h", 3600), ("1d", 86_400)])
def test_durations_are_read_as_written(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["0", "-5", "1.5h", "5 m", "5mm", "m", "", "999999999999d", "1e3", "٣s"])
def test_a_duration_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_duration(text)


@given(st.integers(1, 86_400 * 60))
def test_a_formatted_duration_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == timedelta(seconds=seconds)
