"""Labels that the configuration gives to every series of this agent."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from edge_agent.reading import Reading
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.series import SeriesKey

_MAX_KNOWN: Final = 20_000


class ConstantLabels:
    """Adds labels to series. For several threads: what they share is a memory that any of them may fill or empty."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self._known: dict[str, str] = {}

    def reading(self, reading: Reading) -> Reading:
        """The reading with its series labelled."""
        return replace(reading, values=self.values(reading.values)) if self._labels else reading

    def values(self, values: Mapping[str, float | None]) -> dict[str, float | None]:
        """The values by their labelled series, in sorted order.

        A series keeps a label of its own that has the same name. It stays as it is where it would become too long, or
        the same as another one.
        """
        if not self._labels:
            return dict(values)
        labelled: dict[str, float | None] = {}
        for key, value in values.items():
            new = self.key(key)
            labelled[key if new in values or new in labelled else new] = value
        return dict(sorted(labelled.items()))

    def key(self, key: str) -> str:
        """The labelled series."""
        if not self._labels:
            return key
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[key] = self._made(key)
        return known

    def _made(self, key: str) -> str:
        try:
            metric, own = SeriesKey.parse(key)
            return str(SeriesKey.of(metric, {**self._labels, **dict(own)}))
        except InvalidSeriesKey:
            return key
