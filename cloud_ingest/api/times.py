"""Times and durations as a query writes them.

A time is RFC 3339 with a zone (`2026-11-20T23:39:00+09:00`), `now`, or an offset from now (`-1h`, `-7d`).
A duration is a number of seconds or a number with a unit (`30s`, `5m`, `1h`, `1d`, `1w`).
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final, TypeAlias

# A time of its own, or an offset from now.
TimeSpec: TypeAlias = datetime | timedelta

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
MAX_AHEAD: Final = timedelta(days=366)
MAX_OFFSET: Final = timedelta(days=36_525)

_EXPECTED_TIME: Final = "must be RFC 3339 with a zone, like 2026-11-20T23:39:00Z, or now, or an offset like -1h"
_EXPECTED_DURATION: Final = "must be a duration like 30s, 5m, 1h or 1d"
_UNIT_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,12})([smhdw]?)")
# RFC 3339, section 5.6. A `+` that was not percent-encoded arrives as a space.
_RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([-+ ])(\d\d):(\d\d))?", re.ASCII
)


def parse_time(text: str) -> TimeSpec:
    """The time that `text` writes. Raises ValueError with a message for the one who wrote it."""
    if text == "now":
        return timedelta(0)
    if text.startswith("-") and _DURATION.fullmatch(text[1:]) is not None:
        return -parse_duration(text[1:])
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise ValueError(_EXPECTED_TIME)
    *clock, fraction, zulu, sign, hours, minutes = match.groups()
    if zulu is None and sign is None:
        raise ValueError("needs a time zone: end it with Z or an offset like +09:00")
    try:
        zone = UTC if zulu else timezone(timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1))
        year, month, day, hour, minute, second = map(int, clock)
        microsecond = int((fraction or "0").ljust(9, "0")[:6])
        moment = datetime(year, month, day, hour, minute, second, microsecond, tzinfo=zone)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ValueError(f"is not a time that exists: {exc}") from None


def parse_duration(text: str) -> timedelta:
    """A positive duration, at most MAX_OFFSET. Raises ValueError with a message for the one who wrote it."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(_EXPECTED_DURATION)
    seconds = int(match[1]) * _UNIT_SECONDS[match[2]]
    if seconds == 0:
        raise ValueError("must be at least one second")
    if seconds > MAX_OFFSET.total_seconds():
        raise ValueError(f"must be at most {MAX_OFFSET.days} days")
    return timedelta(seconds=seconds)


def resolve(spec: TimeSpec, now: datetime) -> datetime:
    """The moment meant by `spec`. Raises ValueError where it is before EARLIEST or more than MAX_AHEAD from now."""
    moment = now + spec if isinstance(spec, timedelta) else spec
    if moment < EARLIEST:
        raise ValueError(f"must not be before {format_time(EARLIEST)}")
    if moment > now + MAX_AHEAD:
        raise ValueError(f"must not be more than {MAX_AHEAD.days} days ahead")
    return moment


def format_time(moment: datetime) -> str:
    """RFC 3339, UTC, milliseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"


def format_duration(seconds: int) -> str:
    """The shortest way to write it that `parse_duration` reads."""
    for unit in "wdhm":
        if seconds % _UNIT_SECONDS[unit] == 0:
            return f"{seconds // _UNIT_SECONDS[unit]}{unit}"
    return f"{seconds}s"
