"""The newest value of each series, for who asks this machine itself."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_agent.reading import Reading

# A series that was not in the readings of its group for longer than this is not measured any more.
KEPT_INTERVALS: Final = 3
KEPT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Kept:
    reading: Reading
    until: float


class Latest:
    """Remembers readings until they are replaced or too old. Every method may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards _kept
        self._kept: dict[str, _Kept] = {}  # by series

    def add(self, reading: Reading) -> None:
        """A reading, newer than those before it."""
        kept = _Kept(reading, self._clock() + KEPT_INTERVALS * reading.interval_seconds + KEPT_SECONDS)
        with self._lock:
            self._kept.update(dict.fromkeys(reading.values, kept))

    def clear(self) -> None:
        """What is measured is about to change."""
        with self._lock:
            self._kept.clear()

    def values(self) -> dict[str, float]:
        """By series, in no order; those whose newest value is "no value" are not among them."""
        now = self._clock()
        with self._lock:
            self._kept = {key: kept for key, kept in self._kept.items() if kept.until >= now}
            newest = {key: kept.reading.values[key] for key, kept in self._kept.items()}
        return {key: value for key, value in newest.items() if value is not None}
