"""Commit acks: which streams to tell now, at most once a second each."""

from collections.abc import Iterable
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
        self._next = 0.0  # nothing is due before

    def add(self, settlements: Iterable[Settlement]) -> None:
        """Notes what a commit settled."""
        for settlement in settlements:
            self._waiting[settlement.stream] = settlement
        self._next = 0.0

    def due(self, now: float) -> list[Settlement]:
        """The settlements to tell at `now` (monotonic seconds); each is given once."""
        if now < self._next:  # asked thousands of times a second
            return []
        due = [stream for stream in self._waiting if now - self._told.get(stream, -self._interval) >= self._interval]
        settlements = [self._waiting.pop(stream) for stream in due]
        self._told.update(dict.fromkeys(due, now))
        self._next = self._interval + min((self._told[stream] for stream in self._waiting), default=float("inf"))
        if len(self._told) > 2 * len(self._waiting) + 10_000:
            self._told = {stream: at for stream, at in self._told.items() if now - at < self._interval}
        return settlements

    def wait_seconds(self, now: float) -> float | None:
        """How long until something is due; None where nothing waits."""
        return max(0.0, self._next - now) if self._waiting else None
