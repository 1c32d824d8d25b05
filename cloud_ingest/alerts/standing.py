"""How a series stands to the thresholds that judge it: its state, and how far its value is from a level."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan
from typing import Final

from cloud_ingest.alerts.machine import Phase, State, phase_at
from cloud_ingest.alerts.precedence import Candidate
from cloud_ingest.alerts.rule import NoData, Operator, Rule

# Where nothing judges a series, all that can be told is whether it has been silent for as long as by default.
_UNJUDGED: Final = Rule(0, Operator.ABOVE, warning=float("inf"), no_data=NoData.UNKNOWN)
_WORST_FIRST: Final = (Phase.FIRING, Phase.UNKNOWN, Phase.PENDING, Phase.OK)


@dataclass(frozen=True, slots=True)
class Standing:
    """`distance` is how far the value is from the nearest level: 0 or less where it is beyond, None without a value."""

    candidate: Candidate
    rule: Rule
    phase: Phase
    distance: float | None


def standing(candidate: Candidate, rule: Rule, state: State, value: float, now_ms: int) -> Standing:
    """How a series stands to one threshold; `value` is its newest, NaN where there was none."""
    return Standing(candidate, rule, phase_at(state, rule, now_ms), _distance(rule, value))


def worst(standings: Iterable[Standing]) -> Standing | None:
    """The one to look at: the worst state, and of equal ones the nearest level."""
    return min(standings, key=_order, default=None)


def phase_without(newest_ms: int, now_ms: int) -> Phase:
    """The state of a series that no threshold judges."""
    return phase_at(State(newest_ms), _UNJUDGED, now_ms)


def _distance(rule: Rule, value: float) -> float | None:
    if isnan(value):
        return None
    direction = rule.operator.direction
    if direction:
        return (rule.nearest - value) * direction
    # Of == and != a value is beyond a level at once, or any way off from it
    if rule.severity_of(value) is not None:
        return 0.0
    return min(abs(value - level) for level in (rule.warning, rule.critical) if level is not None)


def _order(it: Standing) -> tuple[int, float]:
    return _WORST_FIRST.index(it.phase), float("inf") if it.distance is None else it.distance
