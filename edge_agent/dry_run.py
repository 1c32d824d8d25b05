"""One tick of every collector, shown to people or programs and sent nowhere."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from edge_agent.collectors.registry import groups
from edge_agent.config import Config
from edge_agent.constant_labels import ConstantLabels
from edge_agent.reading import Reading
from edge_agent.scheduler import Scheduler
from edge_agent.statistics import CollectorCounts, Statistics
from telemetry_contract.metrics import unit_of
from telemetry_contract.series import SeriesKey

# CPU usage is measured over a span, and a dry run has none before it.
_SPAN_SECONDS = 0.25


@dataclass(frozen=True)
class DryRun:
    """What was collected, and how each collector fared."""

    readings: list[Reading]
    counts: Mapping[str, CollectorCounts]

    @property
    def failed(self) -> list[str]:
        """The collectors that gave nothing, or something that could not be used."""
        return [name for name, counts in self.counts.items() if not counts.nothing_wrong]


def collect(config: Config) -> DryRun:
    """Collect once; what fails is logged."""
    statistics = Statistics()
    scheduler = Scheduler(groups(config, statistics), lambda _: None, statistics)
    try:
        time.sleep(_SPAN_SECONDS)
        labels = ConstantLabels(config.labels)
        readings = [labels.reading(reading) for reading in scheduler.collect_once()]
        return DryRun(readings, scheduler.statistics())
    finally:
        scheduler.stop()


def as_json(config: Config, readings: Iterable[Reading]) -> str:
    """`{"device", "site", "readings": [{"t", "values"}]}`, a reading as a tick has it on the wire."""
    content = {
        "device": config.device,
        "site": config.site,
        "readings": [{"t": reading.t_ms, "values": reading.values} for reading in readings],
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


def as_table(readings: Iterable[Reading]) -> Iterator[str]:
    """A line for each series: key, value, unit."""
    rows = [
        (key, _shown(value), unit_of(SeriesKey.parse(key).metric))
        for reading in readings
        for key, value in reading.values.items()
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    for key, value, unit in rows:
        yield f"{key:<{widths[0]}}  {value:>{widths[1]}}  {unit}".rstrip()


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value.is_integer() else f"{value:.3f}"
