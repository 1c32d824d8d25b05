"""Readings on their way into the outbox, and in memory while the disk refuses them."""

import logging
from collections import deque
from collections.abc import Callable, Container, Iterable
from typing import Final

from edge_agent.errors import OutboxCorrupt, OutboxError
from edge_agent.outbox import Outbox
from edge_agent.reading import Reading

MAX_WAITING_VALUES: Final = 100_000

log = logging.getLogger(__name__)


class Intake:
    """Stores readings; keeps those that the disk refuses, the newest 100,000 values of them, until it takes them.

    They have no sequence number before they are stored, so none is ever sent and then used again. What has to go for
    want of memory is counted as dropped.
    """

    def __init__(self, max_values: int = MAX_WAITING_VALUES) -> None:
        self._max_values = max_values
        self._waiting: deque[Reading] = deque()
        self._values = 0
        self._lost = 0
        self._refused = False

    @property
    def waiting(self) -> int:
        """How many readings are not stored."""
        return len(self._waiting)

    def add(self, readings: Iterable[Reading]) -> None:
        """Takes readings in."""
        for reading in readings:
            self._waiting.append(reading)
            self._values += len(reading.values)
        while self._values > self._max_values and len(self._waiting) > 1:
            self._values -= len(self._waiting.popleft().values)
            self._lost += 1

    def store(self, outbox: Outbox, spared: Container[int] = ()) -> list[int]:
        """The sequence numbers of the readings, now stored; empty where the disk refuses them.

        Raises OutboxCorrupt.
        """
        seqs: list[int] = []
        self._empty(lambda readings, lost: seqs.extend(outbox.append_many(readings, lost=lost, spared=spared)))
        return seqs

    def hold(self, outbox: Outbox, boot: str, spared: Container[int] = ()) -> None:
        """Stores the readings, which are of this boot, until their times are known; unless the disk refuses them.

        Raises OutboxCorrupt.
        """
        self._empty(lambda readings, lost: outbox.hold(boot, readings, lost=lost, spared=spared))

    def _empty(self, storing: Callable[[list[Reading], int], None]) -> None:
        if not self._waiting:
            return
        try:
            storing(list(self._waiting), self._lost)
        except OutboxCorrupt:
            raise
        except OutboxError as exc:
            if not self._refused:
                log.warning("%s; readings wait in memory until it takes them", exc)
                self._refused = True
            return
        if self._refused:
            log.warning("readings are kept again: %d waited, %d were dropped", len(self._waiting), self._lost)
            self._refused = False
        self._waiting.clear()
        self._values = self._lost = 0
