"""Values that come whenever they like, and wait for the tick that takes them."""

import threading
from typing import Final

from edge_agent.collectors.formats import Found

MAX_SERIES: Final = 10_000

# A series that does not come for so many ticks with others is not expected any more.
FORGOTTEN_AFTER_TICKS: Final = 100


class Inbox:
    """Keeps the newest value of each series since the last `take`. Every method may be called from any thread."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._lock = threading.Lock()  # guards all below
        self._fresh: dict[str, float | None] = {}
        self._absent_ticks: dict[str, int] = {}  # by series, all that are expected

    def __bool__(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._fresh)

    def put(self, found: Found) -> int:
        """How many values of before were superseded. What can't be kept is added to the entries left out."""
        values, unusable = found
        superseded = 0
        with self._lock:
            for key, value in values.items():
                superseded += key in self._fresh
                if key in self._fresh or len(self._fresh) < self._max_series:
                    self._fresh[key] = value
                else:
                    unusable.append(f"{key}: there are {self._max_series} series already")
        return superseded

    def take(self) -> dict[str, float | None]:
        """What has come since the last time; empty where nothing has.

        Series that are expected and have not come are None, so that those that come at different times make one set
        of keys.
        """
        with self._lock:
            fresh, self._fresh = self._fresh, {}
            if not fresh:
                return {}
            ticks = {key: absent + 1 for key, absent in self._absent_ticks.items() if absent < FORGOTTEN_AFTER_TICKS}
            ticks |= dict.fromkeys(fresh, 0)
            if len(ticks) > self._max_series:
                ticks = dict(sorted(ticks.items(), key=lambda it: it[1])[: self._max_series])
            self._absent_ticks = ticks
            return dict.fromkeys(self._absent_ticks) | fresh
