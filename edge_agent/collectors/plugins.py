"""Collectors of other packages, found by the entry points that these declare in the group `edge_agent.collectors`.

An entry point names a factory: it is called with the options of the configuration and the interval in seconds, and
answers with a Collector (`edge_agent.collectors.base`). docs/collectors.md has an example.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from edge_agent.collectors.base import Closeable, Collector
from edge_agent.config import Plugin
from edge_agent.errors import ConfigError
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.series import SeriesKey

GROUP = "edge_agent.collectors"


def build(plugin: Plugin, interval_seconds: float, rejected: Callable[[int], None]) -> Collector:
    """The collector that the factory makes; `rejected` is told how many of its values have no series key.

    Raises ConfigError where there is no such entry point or its factory can't make one.
    """
    where = f"collectors.plugins: {plugin.name}"
    entry_point = _entry_point(plugin.type, where)
    try:
        collector = entry_point.load()(plugin.options, interval_seconds)
    except ValueError as exc:
        raise ConfigError(f"{where}: {exc}") from exc
    except Exception as exc:
        raise ConfigError(f"{where}: {entry_point.value} fails: {type(exc).__name__}: {exc}") from exc
    if not callable(getattr(collector, "collect", None)):
        raise ConfigError(f"{where}: {entry_point.value} gives {collector!r}, which has no method `collect`")
    return Checked(collector, rejected)


def _entry_point(name: str, where: str) -> EntryPoint:
    installed = entry_points(group=GROUP)
    named = tuple(installed.select(name=name))
    if not named:
        there_are = ", ".join(sorted(installed.names)) or "none"
        raise ConfigError(f"{where}: no installed package offers a collector {name!r}; on offer: {there_are}")
    if len({entry_point.value for entry_point in named}) > 1:
        both = " and ".join(sorted(entry_point.value for entry_point in named))
        raise ConfigError(f"{where}: several packages offer a collector {name!r}: {both}")
    return named[0]


class Checked:
    """A collector whose keys are made canonical; values with keys that are none are left out and counted."""

    def __init__(self, collector: Collector, rejected: Callable[[int], None]) -> None:
        self._collector = collector
        self._rejected = rejected

    def collect(self) -> dict[str, float | None]:
        """What the collector gives, under canonical keys; of two values for one series the first counts."""
        answer: Mapping[Any, Any] = self._collector.collect()
        found: dict[str, float | None] = {}
        for written, value in answer.items():
            key = _canonical(written) if isinstance(written, str) else None
            if key is not None:
                found.setdefault(key, value)
        if len(found) < len(answer):
            self._rejected(len(answer) - len(found))
        return found

    def close(self) -> None:
        """Close the collector where it can be."""
        if isinstance(self._collector, Closeable):
            self._collector.close()


@lru_cache(maxsize=4096)
def _canonical(written: str) -> str | None:
    try:
        key = str(SeriesKey.parse(written))
        key.encode()
    except (InvalidSeriesKey, UnicodeEncodeError):
        return None
    return key
