"""Which tiers answer a question about some stretch of time: decided here, read in `store.history`."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from cloud_ingest.store.rollup.state import TierState
from cloud_ingest.store.tiers import DAY, RAW, TIERS, Tier

# Up to here readings are read even where rollups would do: they are few, and show at once what came late.
_RAW_PREFERRED_MS: Final = 6 * 3_600_000


@dataclass(frozen=True, slots=True)
class Choice:
    """The tier that is read, and the length of a bucket; no length is every reading of the raw tier."""

    tier: Tier
    step_ms: int | None


class Part(NamedTuple):
    """A stretch of time in one tier, from `start_ms`, inclusive, to `end_ms`, exclusive."""

    tier: Tier
    start_ms: int
    end_ms: int


def choose_tier(state: TierState, start_ms: int, end_ms: int, step_ms: int | None, *, finest: bool = False) -> Choice:
    """The tier for a time, of those that hold its start; for what none holds, the one that goes back furthest.

    It is the coarsest that buckets of `step_ms` can be made of, but readings for short times, and the `finest` where
    that is asked for. Where none will do, and where readings are asked for that are gone, the buckets become as long
    as the finest needs them.
    """
    first_ms = start_ms // (step_ms or 1) * (step_ms or 1)  # the first bucket is to be a whole one
    finest_held = finest_tier(state, first_ms)
    if step_ms is None:
        return Choice(finest_held, None if finest_held is RAW else finest_held.step_ms)
    tier = fitting_tier(state, first_ms, end_ms, step_ms, length_ms=end_ms - start_ms, finest=finest)
    if tier is None:
        return Choice(finest_held, -(-step_ms // finest_held.step_ms) * finest_held.step_ms)
    return Choice(tier, step_ms)


def fitting_tier(
    state: TierState, start_ms: int, end_ms: int, grain_ms: int, *, length_ms: int | None = None, finest: bool = False
) -> Tier | None:
    """As `choose_tier`, for buckets that all begin at multiples of `grain_ms`, the first at `start_ms`.

    None where no tier that holds the time has rollups that fit into them. `length_ms` is that of the time that
    was asked for, where the buckets reach beyond it.
    """
    held = _held(state, start_ms)
    fitting = [tier for tier in held if grain_ms % tier.step_ms == 0]
    if not fitting:
        return None
    short = (end_ms - start_ms if length_ms is None else length_ms) <= _RAW_PREFERRED_MS
    prefers_finest = finest or (held[0] is RAW and short)
    return fitting[0] if prefers_finest else fitting[-1]


def finest_tier(state: TierState, start_ms: int) -> Tier:
    """The finest tier that holds the time; where none does, the one that goes back furthest."""
    return _held(state, start_ms)[0]


def _held(state: TierState, start_ms: int) -> list[Tier]:
    return [tier for tier in TIERS if start_ms >= state.floors[tier.level]] or [DAY]


def parts_of(state: TierState, tier: Tier, start_ms: int, end_ms: int) -> list[Part]:
    """The stretches to read for a time: the tier as far as it is made, and for the newest time finer ones."""
    parts = []
    begin = max(start_ms, state.floors[tier.level])
    for one in reversed(TIERS[: tier.level + 1]):
        end = end_ms if one is RAW else min(end_ms, state.rolled[one.level])
        if begin < end:
            parts.append(Part(one, begin, end))
            begin = end
    return parts
