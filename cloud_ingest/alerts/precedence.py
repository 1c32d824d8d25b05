"""Which threshold applies to a series, and why.

Several may select it. They compete where they look the same way: above (`>`, `>=`), below (`<`, `<=`), `==` and `!=`
each have one winner a series, so that "too hot" and "too cold" live side by side, and "too hot" of one device replaces
"too hot" of all. Of those that compete, the highest `priority` wins; then the most specific: one for the device, then
the deepest location, then the site, then the sensor type, then the number of labels, then a metric written out; then
the oldest. What is disabled does not compete.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.alerts.rule import Operator


@dataclass(frozen=True, slots=True)
class Sensor:
    """A series of a device, and where it is: its own location, or that of its device."""

    device: str
    site: str
    metric: str
    labels: Mapping[str, str]
    location: str | None = None
    sensor_type: str | None = None


class Candidate(NamedTuple):
    """A threshold under its number."""

    threshold_id: int
    definition: Definition


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a candidate: `wins`, or the reason why not."""

    threshold_id: int
    name: str
    slot: str
    wins: bool
    reason: str


_SLOTS: Final[Mapping[Operator, str]] = {
    Operator.ABOVE: "above",
    Operator.AT_LEAST: "above",
    Operator.BELOW: "below",
    Operator.AT_MOST: "below",
    Operator.EQUAL: "equal",
    Operator.UNEQUAL: "unequal",
}
# What `_rank` compares, in its order.
_RANKS: Final = (
    "its priority is higher",
    "it is for the device",
    "its location is deeper",
    "it is for the site",
    "it is for the type of sensor",
    "it names more labels",
    "it names the metric and not a pattern",
    "it is older",
)


def winners(candidates: Iterable[Candidate], sensor: Sensor) -> list[Candidate]:
    """The thresholds that judge the series, at most one a slot, in the order of their numbers."""
    best: dict[str, Candidate] = {}
    for candidate in candidates:
        if mismatch(candidate.definition, sensor) is None:
            slot = _SLOTS[candidate.definition.operator]
            if slot not in best or _rank(candidate) > _rank(best[slot]):
                best[slot] = candidate
    return sorted(best.values(), key=lambda it: it.threshold_id)


def explain(candidates: Iterable[Candidate], sensor: Sensor) -> list[Verdict]:
    """What becomes of each candidate, and why; those that win come first."""
    candidates = list(candidates)
    best = {_SLOTS[it.definition.operator]: it for it in winners(candidates, sensor)}
    verdicts = [
        _verdict(candidate, best.get(_SLOTS[candidate.definition.operator]), sensor) for candidate in candidates
    ]
    return sorted(verdicts, key=lambda it: (not it.wins, it.threshold_id))


def mismatch(definition: Definition, sensor: Sensor) -> str | None:
    """Why a threshold is not meant for the series; None where it is."""
    selector = definition.selector
    if not definition.enabled:
        return "it is disabled"
    if not glob(definition.metric).fullmatch(sensor.metric):
        return f"its metric is {definition.metric}, not {sensor.metric}"
    for what, wanted, there in (
        ("device", selector.device, sensor.device),
        ("site", selector.site, sensor.site),
        ("type of sensor", selector.sensor_type, sensor.sensor_type),
    ):
        if wanted is not None and wanted != there:
            return f"its {what} is {wanted}, not {there or 'unset'}"
    if selector.location is not None and not is_below(sensor.location, selector.location):
        return f"its location is {selector.location}, and the series is {sensor.location or 'nowhere'}"
    for label, pattern in selector.labels.items():
        value = sensor.labels.get(label)
        if value is None or not glob(pattern).fullmatch(value):
            return f"its label {label} is {pattern}, not {'unset' if value is None else value}"
    return None


def is_below(location: str | None, ancestor: str) -> bool:
    """Whether a location is the other or below it."""
    return location is not None and (location == ancestor or location.startswith(f"{ancestor}."))


@lru_cache(maxsize=4_096)
def glob(pattern: str) -> re.Pattern[str]:
    """A pattern in which `*` stands for any text and `?` for one character, and nothing else has a meaning."""
    parts = {"*": ".*", "?": "."}
    # Stars in a row mean the same as one, and would take exponential time
    return re.compile("".join(parts.get(it, re.escape(it)) for it in re.sub(r"\*+", "*", pattern)), re.DOTALL)


def _rank(candidate: Candidate) -> tuple[int, ...]:
    definition, selector = candidate.definition, candidate.definition.selector
    return (
        definition.priority,
        selector.device is not None,
        0 if selector.location is None else selector.location.count(".") + 1,
        selector.site is not None,
        selector.sensor_type is not None,
        len(selector.labels),
        definition.is_exact,
        -candidate.threshold_id,
    )


def _verdict(candidate: Candidate, best: Candidate | None, sensor: Sensor) -> Verdict:
    slot = _SLOTS[candidate.definition.operator]
    reason = mismatch(candidate.definition, sensor)
    wins = best is not None and best.threshold_id == candidate.threshold_id
    if reason is None:
        if wins or best is None:
            reason = "no other one of its kind is more specific"
        else:
            pairs = zip(_rank(best), _rank(candidate), _RANKS, strict=True)
            why = next(text for theirs, own, text in pairs if theirs != own)
            reason = f"{best.definition.name} goes before it: {why}"
    return Verdict(candidate.threshold_id, candidate.definition.name, slot, wins, reason)
