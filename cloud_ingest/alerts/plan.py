"""Which threshold watches which column of a tick: thresholds compiled for a layout.

Devices that no threshold tells apart share a plan, so that the samples of many are looked at as one matrix.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cloud_ingest.alerts.precedence import Candidate, Sensor, winners
from cloud_ingest.alerts.rule import Operator, Rule, Versions
from telemetry_contract.series import SeriesKey

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

_COMPARISONS: Final[Mapping[Operator, np.ufunc]] = {
    Operator.ABOVE: np.greater,
    Operator.AT_LEAST: np.greater_equal,
    Operator.BELOW: np.less,
    Operator.AT_MOST: np.less_equal,
    Operator.EQUAL: np.equal,
    Operator.UNEQUAL: np.not_equal,
}


class Column(NamedTuple):
    """A column of a layout: the number of its series, and the series."""

    key_id: int
    key: SeriesKey


class Placed(NamedTuple):
    """What people said of one series of a device."""

    location: str | None
    sensor_type: str | None


@dataclass(frozen=True, slots=True)
class Device:
    """A device, where it is, and what was said of its series, by their numbers."""

    name: str
    site: str
    location: str | None
    sensors: Mapping[int, Placed]


@dataclass(frozen=True, slots=True)
class Watch:
    """A threshold that judges a column of the layout, counted from 0."""

    threshold_id: int
    key_id: int
    column: int
    versions: Versions


class Plan:
    """The watches of a layout with these series.

    `beyond` finds in whole matrices where the machine has anything to do.
    """

    def __init__(self, watches: Iterable[Watch], key_ids: Iterable[int]) -> None:
        self.watches = tuple(watches)
        self.key_ids = frozenset(key_ids)
        self.watched_keys = frozenset(watch.key_id for watch in self.watches)
        starts = [rule.valid_from_ms for watch in self.watches for rule in watch.versions]
        self.since_ms = min(starts, default=0)  # nothing judges what is older
        self.by_series = {(watch.threshold_id, watch.key_id): watch for watch in self.watches}
        by_operator: dict[Operator, list[tuple[int, int, float]]] = {}
        for number, watch in enumerate(self.watches):
            for rule in watch.versions:
                for level in _levels(rule):
                    by_operator.setdefault(rule.operator, []).append((number, watch.column, level))
        self._tests = [
            (
                operator,
                [number for number, _, _ in tests],
                np.array([column for _, column, _ in tests], np.intp),
                np.array([level for _, _, level in tests], np.float64),
            )
            for operator, tests in by_operator.items()
        ]

    def beyond(self, samples: Floats, starts: Integers) -> Booleans:
        """Which watches see, in which groups of rows, a value beyond a level of any of their versions.

        `samples` has shape (n, width), n >= 1; group i is the rows from `starts[i]` up to the next start. The answer
        has shape (groups, watches). What is not beyond leaves a series as it is that was ok before.
        """
        found = np.zeros((len(starts), len(self.watches)), np.bool_)
        for operator, numbers, columns, levels in self._tests:
            compare = _COMPARISONS[operator]
            if operator.direction:
                # If any value of a group is beyond a level, its extreme is; a value that is missing is none
                extreme = np.fmax if operator.direction > 0 else np.fmin
                hits = compare(extreme.reduceat(samples, starts, axis=0)[:, columns], levels)
            else:
                values = samples[:, columns]
                hits = np.logical_or.reduceat(compare(values, levels) & ~np.isnan(values), starts, axis=0)
            for column, number in enumerate(numbers):
                found[:, number] |= hits[:, column]
        return found


def compile_plan(
    columns: Sequence[Column], device: Device, candidates: Sequence[Candidate], versions: Mapping[int, Versions]
) -> Plan:
    """The plan of a layout for a device; `versions` by the numbers of the candidates."""
    watches = []
    for position, (key_id, key) in enumerate(columns):
        placed = device.sensors.get(key_id, Placed(None, None))
        sensor = Sensor(
            device.name,
            device.site,
            key.metric,
            dict(key.labels),
            placed.location or device.location,
            placed.sensor_type,
        )
        watches += [
            Watch(it.threshold_id, key_id, position, versions[it.threshold_id]) for it in winners(candidates, sensor)
        ]
    return Plan(watches, (it.key_id for it in columns))


def plan_class(device: Device, named: Container[str]) -> tuple[object, ...]:
    """What a device's plans depend on beside the layout: devices with equal classes share them.

    `named` are the devices that selectors name.
    """
    alone = bool(device.sensors) or device.name in named
    return (device.name,) if alone else (None, device.site, device.location)


def _levels(rule: Rule) -> Iterable[float]:
    # Where there is an order, what is beyond the worse level is beyond the nearest
    if rule.operator.direction:
        return (rule.nearest,)
    return [level for level in (rule.warning, rule.critical) if level is not None]
