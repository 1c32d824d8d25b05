"""Ticks that may be what can't be delivered: they wait, longer each time, and travel in ever smaller messages."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

MAX_PAUSE_SECONDS: Final = 3_600.0
_NOW: Final = float("-inf")


@dataclass(slots=True)
class _Suspicion:
    """Ticks of one message, how often they were suspected, and until when they wait."""

    seqs: list[int]
    times: int
    until: float


class Suspects:
    """The suspected ticks that are not on their way. Pure: it has no clock."""

    def __init__(self, first_pause_seconds: float, pause: Callable[[float], float]) -> None:
        """`pause` makes a random pause out of the longest one."""
        self._first_pause = first_pause_seconds
        self._pause = pause
        self._suspicions: list[_Suspicion] = []
        self._seqs: set[int] = set()

    def __contains__(self, seq: int) -> bool:
        return seq in self._seqs

    def __iter__(self) -> Iterator[int]:
        return iter(self._seqs)

    def add(self, now: float, seqs: Sequence[int], times: int) -> None:
        """The ticks of one message, suspected for the `times`th time."""
        longest = min(MAX_PAUSE_SECONDS, self._first_pause * 2 ** min(times - 1, 20))
        self._put(seqs, times, now + self._pause(longest))

    def put_back(self, seqs: Sequence[int], times: int) -> None:
        """Suspects whose message came to nothing without a fault of theirs: they need not wait."""
        self._put(seqs, times, _NOW)

    def due(self, now: float, ticks_per_message: int) -> list[int]:
        """The ticks of the next message to try, half as many each time; empty where none is due."""
        suspicion = next((it for it in self._suspicions if it.until <= now), None)
        if suspicion is None:
            return []
        return suspicion.seqs[: max(1, ticks_per_message >> suspicion.times)]

    def take(self, seqs: Iterable[int]) -> int:
        """How often these ticks, which are on their way now, were suspected; 0: they were not."""
        taken = self._seqs.intersection(seqs)
        times = max((it.times for it in self._suspicions if not taken.isdisjoint(it.seqs)), default=0) if taken else 0
        self.remove(taken)
        return times

    def remove(self, seqs: Collection[int]) -> None:
        """These are none any more."""
        gone = self._seqs.intersection(seqs)
        if gone:
            self._seqs -= gone
            for suspicion in self._suspicions:
                suspicion.seqs = [seq for seq in suspicion.seqs if seq not in gone]
            self._suspicions = [it for it in self._suspicions if it.seqs]

    def clear(self) -> None:
        """There are none any more."""
        self._suspicions.clear()
        self._seqs.clear()

    def _put(self, seqs: Sequence[int], times: int, until: float) -> None:
        self._suspicions.append(_Suspicion(list(seqs), times, until))
        self._seqs.update(seqs)
