"""The collectors that run, which may be exchanged for others while the agent goes on."""

import logging
from collections.abc import Callable, Mapping

from edge_agent.collectors.registry import groups
from edge_agent.config import Config
from edge_agent.constant_labels import ConstantLabels
from edge_agent.errors import ConfigError
from edge_agent.reading import Reading
from edge_agent.scheduler import Scheduler
from edge_agent.statistics import CollectorCounts, Statistics

log = logging.getLogger(__name__)


class Collection:
    """Collects as a configuration says and hands readings to `sink`, see `Scheduler`.

    `start`, `replace` and `stop` are for one thread; the others for any.
    """

    def __init__(self, config: Config, sink: Callable[[Reading], None]) -> None:
        """Raises ConfigError where collectors can't be built as the configuration says."""
        self._config = config
        self._sink = sink
        self._statistics = Statistics()
        self._scheduler = self._built(config)

    def start(self) -> None:
        """Begin to collect."""
        self._scheduler.start()

    def collect_once(self) -> list[Reading]:
        """One tick of every group, in place of `start`."""
        labels = ConstantLabels(self._config.labels)
        return [labels.reading(reading) for reading in self._scheduler.collect_once()]

    def replace(self, config: Config, *, before_start: Callable[[], None] = lambda: None) -> None:
        """Collect as another configuration says. Every collector begins anew; counts go on where a name stays.

        `before_start` is called when the last reading of the old ones has gone to the sink, unless that hangs. Raises
        ConfigError where its collectors can't be built, and then goes on as before.
        """
        # Only one of old and new can hold what there is once: a port, a serial line.
        self._scheduler.stop()
        try:
            self._scheduler = self._built(config)
            self._config = config
        except ConfigError:
            self._scheduler = self._built(self._config)
            raise
        finally:
            before_start()
            self._scheduler.start()

    def stop(self) -> None:
        """End, see `Scheduler.stop`."""
        self._scheduler.stop()

    def counts(self) -> Mapping[str, CollectorCounts]:
        """How each collector has fared."""
        return self._statistics.snapshot()

    def stalled(self, grace_seconds: float) -> str | None:
        """What keeps a group from its ticks, see `Scheduler.stalled`."""
        return self._scheduler.stalled(grace_seconds)

    def _built(self, config: Config) -> Scheduler:
        built = groups(config, self._statistics)
        self._statistics.keep(member.name for group in built for member in group.members)
        labels = ConstantLabels(config.labels)
        return Scheduler(built, lambda reading: self._sink(labels.reading(reading)), self._statistics)
