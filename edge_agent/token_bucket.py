"""A rate limit as a value: what may be spent now, and what is left after it."""

from dataclasses import dataclass, replace
from typing import Self

_BURST_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """Holds what comes in at `per_second`, two seconds' worth at most.

    Something of any size may be taken while it is not empty, and leaves a debt then: over a long time no more is taken
    than comes in, however large the single thing. `now` is any clock's seconds that don't go back.
    """

    per_second: float
    level: float
    at: float

    @classmethod
    def full(cls, per_second: float, now: float) -> Self:
        """As it begins."""
        return cls(per_second, per_second * _BURST_SECONDS, now)

    def allows(self, now: float) -> bool:
        """Whether something may be taken now."""
        return self._level(now) > 0

    def taken(self, now: float, size: int) -> Self:
        """What it is after something of this size was taken."""
        return replace(self, level=self._level(now) - size, at=now)

    def _level(self, now: float) -> float:
        return min(self.per_second * _BURST_SECONDS, self.level + self.per_second * (now - self.at))
