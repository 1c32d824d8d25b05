"""The tiers that readings are kept in: as they came, and as rollups of 5 minutes, an hour and a day.

Each tier but the first is made from the one before it. A tier's table is cut by time into pieces of `span_ms`, and a
span is a multiple of the next tier's step: dropping a piece never leaves a bucket of the next tier half covered.
"""

from dataclasses import dataclass
from typing import Final

_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier. `level` counts from the finest, 0; buckets and pieces begin at multiples since the epoch."""

    level: int
    name: str
    table: str
    step_ms: int
    span_ms: int

    def bucket(self, time_ms: int) -> int:
        """The start of the bucket that holds the time."""
        return time_ms // self.step_ms * self.step_ms


# The spans are also in migrations/0002_reading.timescaledb.sql and 0004_rollup.timescaledb.sql.
RAW: Final = Tier(0, "raw", "reading", 1, 6 * _HOUR_MS)
FIVE_MINUTES: Final = Tier(1, "5m", "rollup_5m", 5 * _MINUTE_MS, _DAY_MS)
HOUR: Final = Tier(2, "1h", "rollup_1h", _HOUR_MS, 7 * _DAY_MS)
DAY: Final = Tier(3, "1d", "rollup_1d", _DAY_MS, 56 * _DAY_MS)

TIERS: Final = (RAW, FIVE_MINUTES, HOUR, DAY)
ROLLUPS: Final = TIERS[1:]
