"""What late samples change of the episodes that are recorded.

Late samples can do no more than that: begin an episode earlier or later, end it earlier, split it, show one that nobody
knew of, or that one that was told was none. An episode that is still there keeps its record, so that who acknowledged
it did not do so in vain.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cloud_ingest.alerts.history import Episode, Sample, Span, affected, judge
from cloud_ingest.alerts.machine import Open, Peak, State
from cloud_ingest.alerts.rule import Versions


@dataclass(frozen=True, slots=True)
class Recorded:
    """An episode as it is recorded. `is_final`: its end is not a matter of samples, so that they can't change it.

    The peak of one that is open is what its state knows.
    """

    alert_id: int
    episode: Episode
    is_final: bool = False


@dataclass(slots=True)
class Revision:
    """What to do to the record of a series: episodes that are otherwise, that were not known, that were none."""

    changed: list[tuple[Recorded, Episode]] = field(default_factory=list)
    added: list[Episode] = field(default_factory=list)
    disproved: list[Recorded] = field(default_factory=list)

    @property
    def touched_ms(self) -> int:
        """Up to when an episode was open that this knows of, as far as it has ended."""
        return max((it.end_ms or 0 for it in (*self.added, *(it for _, it in self.changed))), default=0)


class Judged(NamedTuple):
    """What happened to a series in a span, and how it stands now; `state` is None where the span ends in the past."""

    span: Span
    revision: Revision
    state: State | None


def judge_late(
    versions: Versions, samples: Sequence[Sample], first_ms: int, last_ms: int, recorded: Sequence[Recorded]
) -> Judged:
    """Judges again what samples from `first_ms` to `last_ms`, which came late, may have changed.

    `samples` are in order, to the newest one there is or to a clear one after `last_ms`, and from a clear one before
    `first_ms` or the oldest one there is. `recorded` holds all episodes of the series that overlap with these.
    """
    span = affected(versions, samples, first_ms, last_ms)
    carried = None
    state = State(span.after_ms)
    if span.after_ms is None and samples:
        # What was before the samples that are kept nobody can judge again: an episode that went on into them stands
        carried = next((it for it in recorded if it.episode.start_ms < samples[0].time_ms and not it.is_final), None)
        state = State() if carried is None else _carried(carried.episode)
    episodes, state = judge(versions, _within(span, samples), state)
    own = [it for it in recorded if it is carried or _began_within(span, samples, it.episode.start_ms)]
    return Judged(span, revise(own, episodes), state if span.until_ms is None else None)


def revise(recorded: Iterable[Recorded], judged: Iterable[Episode]) -> Revision:
    """How the record must change to say what was judged."""
    left = list(judged)
    revision = Revision()
    # One that is open is what people are busy with: it goes on with the open one, whatever its beginning
    for it in sorted(recorded, key=lambda it: (it.episode.end_ms is not None, it.episode.start_ms)):
        found = _counterpart(it.episode, left)
        if found is not None:
            left.remove(found)
            if found != it.episode and not it.is_final:
                revision.changed.append((it, found))
        elif not it.is_final:
            revision.disproved.append(it)
    revision.added = left
    return revision


def _counterpart(episode: Episode, judged: Sequence[Episode]) -> Episode | None:
    def likeness(it: Episode) -> tuple[bool, bool, int]:
        is_open = it.end_ms is None and episode.end_ms is None
        return is_open, it.start_ms == episode.start_ms, -abs(it.start_ms - episode.start_ms)

    return max((it for it in judged if _overlap(episode, it)), key=likeness, default=None)


def _overlap(one: Episode, other: Episode) -> bool:
    return (one.end_ms is None or other.start_ms <= one.end_ms) and (
        other.end_ms is None or one.start_ms <= other.end_ms
    )


def _within(span: Span, samples: Sequence[Sample]) -> list[Sample]:
    return [
        it
        for it in samples
        if (span.after_ms is None or it.time_ms > span.after_ms)
        and (span.until_ms is None or it.time_ms <= span.until_ms)
    ]


def _began_within(span: Span, samples: Sequence[Sample], start_ms: int) -> bool:
    after = samples[0].time_ms - 1 if span.after_ms is None and samples else span.after_ms
    return (after is None or start_ms > after) and (span.until_ms is None or start_ms < span.until_ms)


def _carried(episode: Episode) -> State:
    # Runs begin anew: how long they had lasted is not known any more
    return State(
        version=episode.version,
        peak=Peak(episode.peak, episode.peak_ms, episode.last),
        open=Open(episode.start_ms, episode.fired_ms, episode.severity, episode.version),
    )
