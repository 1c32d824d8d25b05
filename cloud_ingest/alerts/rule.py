"""What a threshold asks of one series: the part of it that judges."""

import operator
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final


class Severity(IntEnum):
    """How bad; ordered."""

    WARNING = 1
    CRITICAL = 2


class Operator(StrEnum):
    """How a value that is beyond a level stands to it."""

    ABOVE = ">"
    AT_LEAST = ">="
    BELOW = "<"
    AT_MOST = "<="
    EQUAL = "=="
    UNEQUAL = "!="

    def holds(self, value: float, level: float) -> bool:
        """Whether the value is beyond the level."""
        return _COMPARISONS[self](value, level)

    @property
    def direction(self) -> int:
        """1 where larger is worse, -1 where smaller is worse, 0 where there is no order."""
        return _DIRECTIONS.get(self, 0)


_COMPARISONS: Final[Mapping[Operator, Callable[[float, float], bool]]] = {
    Operator.ABOVE: operator.gt,
    Operator.AT_LEAST: operator.ge,
    Operator.BELOW: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.EQUAL: operator.eq,
    Operator.UNEQUAL: operator.ne,
}
_DIRECTIONS: Final[Mapping[Operator, int]] = {
    Operator.ABOVE: 1,
    Operator.AT_LEAST: 1,
    Operator.BELOW: -1,
    Operator.AT_MOST: -1,
}


class NoData(StrEnum):
    """What it means where a series has been silent for longer than `silence_ms`."""

    UNKNOWN = "unknown"  # nobody can say: shown as unknown, a firing alert too
    KEEP = "keep"  # the last state stands, for series that report on change
    ALERT = "alert"  # silence itself is worth telling


@dataclass(frozen=True, slots=True)
class Rule:
    """One version of a threshold's judging part. At least one of `warning` and `critical` is set.

    `clear` lies on the good side of every level and is None for an operator without direction; None otherwise means
    no hysteresis. `for_ms` is how long a value must stay beyond a level, `silence_ms` the longest time between two
    samples across which it counts as having stayed. `valid_from_ms` is when this version began to apply.
    """

    version: int
    operator: Operator
    warning: float | None = None
    critical: float | None = None
    clear: float | None = None
    for_ms: int = 0
    silence_ms: int = 300_000
    no_data: NoData = NoData.UNKNOWN
    valid_from_ms: int = 0

    @property
    def nearest(self) -> float:
        """The level that a value going bad reaches first."""
        level = self.critical if self.warning is None else self.warning
        if level is None:
            raise ValueError("a rule without a level")
        return level

    @property
    def least(self) -> Severity:
        """The severity of the nearest level."""
        return Severity.CRITICAL if self.warning is None else Severity.WARNING

    def severity_of(self, value: float) -> Severity | None:
        """The worst level that the value is beyond."""
        if self.critical is not None and self.operator.holds(value, self.critical):
            return Severity.CRITICAL
        if self.warning is not None and self.operator.holds(value, self.warning):
            return Severity.WARNING
        return None

    def is_clear(self, value: float) -> bool:
        """Whether the value ends everything: beyond no level, and not beyond the clear level."""
        return self.severity_of(value) is None and (self.clear is None or not self.operator.holds(value, self.clear))

    def badness(self, value: float) -> float:
        """A number that is larger the worse the value is, by which the peak of an episode is found."""
        return value * self.operator.direction if self.operator.direction else abs(value - self.nearest)


class Versions:
    """The versions of one threshold, of which each applies to the samples from its `valid_from_ms` on."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = sorted(rules, key=lambda rule: (rule.valid_from_ms, rule.version))
        self._starts = [rule.valid_from_ms for rule in self._rules]

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    def at(self, time_ms: int) -> Rule | None:
        """The one that judges a sample of this time; None before the first."""
        index = bisect_right(self._starts, time_ms)
        return self._rules[index - 1] if index else None
