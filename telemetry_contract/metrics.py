"""The metric catalogue: name, kind, unit and help of every metric that the agent's own collectors send.

Names follow https://prometheus.io/docs/practices/naming/. A metric that is not listed (an `exec` collector's, a
foreign publisher's) is as welcome; its unit is read off its name's suffix and its kind off `_total`.
"""

from enum import StrEnum
from typing import NamedTuple


class MetricKind(StrEnum):
    """Whether a value stands for itself or only its increase means something."""

    GAUGE = "gauge"
    COUNTER = "counter"


class Metric(NamedTuple):
    """One metric. `unit` is "" where it counts things."""

    name: str
    kind: MetricKind
    unit: str
    help: str


# Base units by name suffix, `_total` removed; the first that fits.
_UNIT_SUFFIXES = ("percent", "bytes", "seconds", "celsius", "hertz", "volts", "amperes", "watts", "pascals", "ratio")


def kind_of(name: str) -> MetricKind:
    """The kind of any metric, from its name."""
    return MetricKind.COUNTER if name.endswith("_total") else MetricKind.GAUGE


def unit_of(name: str) -> str:
    """The unit of any metric, from its name's suffix; "" where it names none."""
    base = name.removesuffix("_total")
    return next((unit for unit in _UNIT_SUFFIXES if base == unit or base.endswith(f"_{unit}")), "")


def _metric(name: str, help_: str) -> Metric:
    return Metric(name, kind_of(name), unit_of(name), help_)


CATALOGUE: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _metric("cpu_usage_percent", "CPU time not idle since the previous reading, all cores together, 0 to 100."),
        _metric("memory_usage_percent", "Memory in use, 0 to 100: (total - available) / total."),
        _metric("disk_used_bytes", "Bytes in use on the file system mounted at `mount`."),
    )
}
