"""Which ticks may go when there is no room for all: every second of each layout, so that old times lose resolution.

What is lost so is no stretch of time: each stays covered, at half its resolution.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class _Candidate:
    seq: int
    t_ms: int
    spared: bool


@dataclass(slots=True)
class _Lane:
    """Of one layout: the time of the latest tick that stays, and the one after it, which may go."""

    kept_ms: int
    candidate: _Candidate | None = None


@dataclass(slots=True)
class Thinning:
    """Looks at ticks one after the other and says which of them may go. Pure.

    Of three ticks of a layout in a row the middle one may go if the three lie within `max_spacing_ms`; then the third
    stays. So neighbours that stay are never further apart than that because of it, wherever the clock jumped.
    """

    max_spacing_ms: float
    _lanes: dict[int, _Lane] = field(default_factory=dict)

    def look(self, seq: int, t_ms: int, layout: int, *, spared: bool = False) -> int | None:
        """The number of an earlier tick that may go, as this next one shows. A `spared` tick stays."""
        lane = self._lanes.get(layout)
        if lane is None:
            self._lanes[layout] = _Lane(t_ms)
            return None
        middle = lane.candidate
        if middle is not None:
            times = (lane.kept_ms, middle.t_ms, t_ms)
            if not middle.spared and max(times) - min(times) <= self.max_spacing_ms:
                lane.kept_ms, lane.candidate = t_ms, None
                return middle.seq
            lane.kept_ms = middle.t_ms
        lane.candidate = _Candidate(seq, t_ms, spared)
        return None

    def undecided(self) -> int | None:
        """The lowest number of which it can't say yet whether it may go."""
        return min((lane.candidate.seq for lane in self._lanes.values() if lane.candidate is not None), default=None)

    def keep_below(self, seq: int) -> None:
        """Whatever is undecided below `seq` stays."""
        for lane in self._lanes.values():
            if lane.candidate is not None and lane.candidate.seq < seq:
                lane.kept_ms, lane.candidate = lane.candidate.t_ms, None
