"""Commit acks: which streams to tell now, at most once a second each."""

from collections.abc import Iterable, Iterator
from uuid import UUID

from cloud_ingest.store.batch import Settlement


class AckSchedule:
    """Coalesces settlements: the first of a stream is told at once, later ones at most every `interval` seconds.

    An ack is cumulative, so only the latest settlement of a stream matters.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._told: dict[UUID, float] = {}
        self._waiting: dict[UUID, Settlement] = {}

    def add(self, settlements: Iterable[Settlement]) -> None:
        """Notes what a commit settled."""
        for settlement in settlements:
            self._waiting[settlement.stream] = settlement

    def due(self, now: float) -> Iterator[Settlement]:
        """The settlements to tell at `now` (monotonic seconds); each is given once."""
        due = [stream for stream in self._waiting if now - self._told.get(stream, -self._interval) >= self._interval]
        for stream in due:
            self._told[stream] = now
            yield self._waiting.pop(stream)
        if len(self._told) > 2 * len(self._waiting) + 10_000:
            self._told = {stream: at for stream, at in self._told.items() if now - at < self._interval}

    def wait_seconds(self, now: float) -> float | None:
        """How long until something is due; None where nothing waits."""
        if not self._waiting:
            return None
        earliest = min(self._told.get(stream, -self._interval) for stream in self._waiting)
        return max(0.0, earliest + self._interval - now)
