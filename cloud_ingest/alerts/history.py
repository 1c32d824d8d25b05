"""What happened, once all samples of a time are there: the episodes of a series, whatever order its samples came in.

The truth is the machine over the samples in the order of their times (`judge`). Late samples need not run it from the
beginning: a clear sample forgets all that was before, so that nothing can have changed outside the clear samples around
them (`affected`). Judging that span again, and putting its episodes in place of those that began in it, gives the
truth.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

from cloud_ingest.alerts.machine import Ended, Open, Peak, State, advance
from cloud_ingest.alerts.rule import Severity, Versions


class Sample(NamedTuple):
    """A value at a time; NaN where there was none."""

    time_ms: int
    value: float


@dataclass(frozen=True, slots=True)
class Episode:
    """From the first sample beyond the nearest level to the clear one that ended it; `end_ms` is None while open.

    `fired_ms` is when it had lasted for as long as the rule asks, `version` the rule that found that. `last` is the
    last value before the end.
    """

    start_ms: int
    fired_ms: int
    end_ms: int | None
    severity: Severity
    version: int
    peak: float
    peak_ms: int
    last: float


class Span(NamedTuple):
    """Samples after `after_ms` and up to `until_ms`, both clear; None is the beginning, or the present."""

    after_ms: int | None
    until_ms: int | None


def in_order(samples: Iterable[Sample]) -> list[Sample]:
    """The samples as they are judged: by time, one of each time.

    Of two with one time that differ the larger counts, so that it does not matter which came first.
    """
    by_time: dict[int, float] = {}
    for time_ms, value in samples:
        known = by_time.get(time_ms)
        if known is None or isnan(known) or value > known:
            by_time[time_ms] = value
    return [Sample(time_ms, by_time[time_ms]) for time_ms in sorted(by_time)]


def judge(versions: Versions, samples: Iterable[Sample], state: State | None = None) -> tuple[list[Episode], State]:
    """The episodes of samples that are in order, and the state at their end; one that is open comes last.

    Samples from before the first version are not judged.
    """
    state = state or State()
    episodes = []
    for time_ms, value in samples:
        rule = versions.at(time_ms)
        if rule is not None:
            state, transition = advance(state, rule, time_ms, value)
            if isinstance(transition, Ended):
                episodes.append(_episode(transition.episode, transition.peak, transition.time_ms))
    if state.open is not None and state.peak is not None:
        episodes.append(_episode(state.open, state.peak, None))
    return episodes, state


def affected(versions: Versions, samples: Sequence[Sample], first_ms: int, last_ms: int) -> Span:
    """The span to judge again because of late samples: between the nearest clear samples before and after them.

    `samples` are in order, and hold the late ones, the first of them at `first_ms` and the last at `last_ms`.
    """
    after = until = None
    for index in range(bisect_left(samples, first_ms, key=_time) - 1, -1, -1):
        if _is_clear(versions, samples[index]):
            after = samples[index].time_ms
            break
    for index in range(bisect_right(samples, last_ms, key=_time), len(samples)):
        if _is_clear(versions, samples[index]):
            until = samples[index].time_ms
            break
    return Span(after, until)


def _time(sample: Sample) -> int:
    return sample.time_ms


def _is_clear(versions: Versions, sample: Sample) -> bool:
    rule = versions.at(sample.time_ms)
    # A NaN is beyond nothing, but tells nothing either
    return rule is None or (not isnan(sample.value) and rule.is_clear(sample.value))


def _episode(episode: Open, peak: Peak, end_ms: int | None) -> Episode:
    return Episode(
        episode.start_ms,
        episode.fired_ms,
        end_ms,
        episode.severity,
        episode.version,
        peak.value,
        peak.time_ms,
        peak.last,
    )
