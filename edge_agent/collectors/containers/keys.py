"""Series keys of a host with any number of containers, each put together once."""

from edge_agent.collectors.base import spelled
from edge_agent.collectors.containers.labels import Labels


class Keys:
    """Remembers the keys that were asked for since the turn before last, and so those of every container that runs.

    A cache of fixed size would keep nothing at all of a host with more series than it holds, which asks in a circle.
    """

    def __init__(self) -> None:
        self._now: dict[tuple[str, Labels], str] = {}
        self._before: dict[tuple[str, Labels], str] = {}

    def turn(self) -> None:
        """A new measurement begins: what the last one did not ask for is forgotten."""
        self._before, self._now = self._now, {}

    def of(self, metric: str, labels: Labels) -> str:
        """The key of a series."""
        asked = (metric, labels)
        key = self._now[asked] = self._now.get(asked) or self._before.get(asked) or spelled(metric, dict(labels))
        return key
