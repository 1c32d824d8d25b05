"""How the collectors have fared since the agent started."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class CollectorCounts:
    """Since the start: calls that raised, ticks it was late for, and values that were not usable.

    Superseded values were good, but a newer one of the same series came before the tick that would have taken them.
    """

    failures: int = 0
    overruns: int = 0
    rejected_values: int = 0
    superseded_values: int = 0

    @property
    def nothing_wrong(self) -> bool:
        """Whether it gave all that it should have given."""
        return not (self.failures or self.overruns or self.rejected_values)


class Statistics:
    """Counts by collector name. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._counts: dict[str, CollectorCounts] = {}
        self._heartbeats = 0
        self._began: float | None = None

    def register(self, name: str) -> None:
        """Know a collector from now on, so that its counts are shown as 0 and not as absent."""
        self._add(name)

    def keep(self, names: Iterable[str]) -> None:
        """Know these collectors alone from now on."""
        kept = set(names)
        with self._lock:
            self._counts = {name: counts for name, counts in self._counts.items() if name in kept}

    def beat(self) -> int:
        """How often this was called; goes on when collectors are exchanged."""
        with self._lock:
            self._heartbeats += 1
            return self._heartbeats

    def began(self, now: float) -> float:
        """What this was first called with."""
        with self._lock:
            if self._began is None:
                self._began = now
            return self._began

    def failed(self, name: str) -> None:
        """It raised."""
        self._add(name, failures=1)

    def overran(self, name: str) -> None:
        """It was late for a tick."""
        self._add(name, overruns=1)

    def rejected(self, name: str, values: int) -> None:
        """So many entries of its answer were not a series key with a number."""
        self._add(name, rejected_values=values)

    def superseded(self, name: str, values: int) -> None:
        """So many values were replaced by newer ones before a tick took them."""
        self._add(name, superseded_values=values)

    def snapshot(self) -> Mapping[str, CollectorCounts]:
        """The counts now, in the order in which the collectors were registered."""
        with self._lock:
            return dict(self._counts)

    def _add(
        self, name: str, *, failures: int = 0, overruns: int = 0, rejected_values: int = 0, superseded_values: int = 0
    ) -> None:
        with self._lock:
            now = self._counts.get(name, CollectorCounts())
            self._counts[name] = replace(
                now,
                failures=now.failures + failures,
                overruns=now.overruns + overruns,
                rejected_values=now.rejected_values + rejected_values,
                superseded_values=now.superseded_values + superseded_values,
            )
