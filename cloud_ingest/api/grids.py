"""How the time of a question is cut into buckets: at multiples of a step, or by the clock and calendar of a zone."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import reduce
from math import gcd
from typing import Final, Self
from zoneinfo import ZoneInfo

import numpy as np

from cloud_ingest.api.coverage import Integers
from cloud_ingest.store.history import Cut, Window
from cloud_ingest.store.rollup.state import from_ms, to_ms

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Grid:
    """Buckets without a gap between them: `edges` (ms) are their starts, ascending, and the end of the last.

    `step_ms` is their length; in a zone of `local` days one may be longer or shorter, where a clock is put forward or
    back.
    """

    edges: tuple[int, ...]
    step_ms: int
    local: bool = False

    @classmethod
    def around(cls, window: Window, step: timedelta) -> Self:
        """The buckets that hold any of the window; they begin at multiples of the step since the epoch."""
        first = (window.start - EPOCH) // step
        behind = -((EPOCH - window.end) // step)  # rounded up, by rounding its negative down
        step_ms = step // timedelta(milliseconds=1)
        return cls(tuple(range(first * step_ms, (behind + 1) * step_ms, step_ms)), step_ms)

    @classmethod
    def in_zone(cls, window: Window, step: timedelta, zone: ZoneInfo) -> Self:
        """The buckets that hold any of the window, by the clock of a zone.

        Steps of whole days begin at its midnights, counted from 1970-01-01; shorter ones at multiples of the step since
        midnight. Where a clock is put back, the hour that comes twice is two of steps of an hour or less, and makes
        one of a longer step longer. Raises ValueError for a step that is neither.
        """
        if step % DAY and DAY % step:
            raise ValueError("must with a tz be whole days or divide a day, like 1d, 6h or 15m")
        days = step // DAY or 1
        first = _ordinal(window.start, zone) // days * days
        last = _ordinal(window.end, zone) + days
        ordinals = range(first, last + days, days)
        if step >= DAY:
            times = {_midnight(ordinal, zone) for ordinal in ordinals}
        else:
            clock = [step * index for index in range(DAY // step)]
            times = {moment for ordinal in ordinals for at in clock for moment in _moments(ordinal, at, step, zone)}
        ordered = sorted(times)
        begin = max(index for index, at in enumerate(ordered) if at <= window.start)
        end = min(index for index, at in enumerate(ordered) if at >= window.end)
        edges = tuple(to_ms(at) for at in ordered[begin : end + 1])
        return cls(edges, step // timedelta(milliseconds=1), local=True)

    @property
    def count(self) -> int:
        """How many buckets there are."""
        return len(self.edges) - 1

    @property
    def starts(self) -> Integers:
        """The start of each bucket, ms."""
        return np.array(self.edges[:-1], np.int64)

    @property
    def lengths(self) -> Integers:
        """The length of each bucket, ms."""
        return np.array(self.edges[1:], np.int64) - self.starts

    @property
    def start_ms(self) -> int:
        """The start of the first."""
        return self.edges[0]

    @property
    def end_ms(self) -> int:
        """The end of the last."""
        return self.edges[-1]

    @property
    def window(self) -> Window:
        """The time that the buckets hold, which may begin earlier and end later than what they were made around."""
        return Window(from_ms(self.start_ms), from_ms(self.end_ms))

    @property
    def grain_ms(self) -> int:
        """The longest time of which all starts and ends are multiples."""
        return reduce(gcd, self.edges) if self.local else self.step_ms

    @property
    def cut(self) -> Cut:
        """As the store takes it."""
        edges = [from_ms(edge) for edge in self.edges] if self.local else None
        return Cut(from_ms(self.start_ms), timedelta(milliseconds=self.step_ms), edges)


def _ordinal(moment: datetime, zone: ZoneInfo) -> int:
    """The day there, counted from 1970-01-01."""
    return moment.astimezone(zone).date().toordinal() - EPOCH.date().toordinal()


def _midnight(ordinal: int, zone: ZoneInfo) -> datetime:
    # Where midnight is skipped, the rules of PEP 495 for fold=0 give the moment at which the clock is put forward.
    day = date.fromordinal(ordinal + EPOCH.date().toordinal())
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _moments(ordinal: int, at: timedelta, step: timedelta, zone: ZoneInfo) -> list[datetime]:
    """When the clock shows this time of this day: once, twice where it is put back, never where that is skipped."""
    shown = datetime.combine(date.fromordinal(ordinal + EPOCH.date().toordinal()), time()) + at
    folds = (0, 1) if step <= _HOUR else (0,)
    moments = [shown.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in folds]
    return [moment for moment in moments if moment.astimezone(zone).replace(tzinfo=None) == shown]
