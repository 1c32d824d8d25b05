"""The machine that judges one series by one threshold, sample by sample, in the order of the samples' own times.

States: `ok`; `pending`, beyond a level but not yet for long enough; `firing`, an episode is open. `unknown` is no state
of its own but how any of them looks once the series has been silent for too long (`phase_at`): what is known of an
episode is kept, and the next sample goes on from there.

What a sample does:

1. A sample that is not newer than the newest one judged does nothing. It is history: see `history`.
2. A sample without a value moves the newest time and nothing else.
3. A *clear* sample (beyond no level, and not beyond the clear level either) forgets everything: a pending run is
   dropped, an episode ends at this sample's time.
4. A sample beyond a level begins a run of that level, or goes on with one. Being beyond `critical` counts as being
   beyond `warning` too. A run goes on only from a sample that was beyond that level, was judged by the same version of
   the rule, and is at most `silence_ms` older.
5. A run that has lasted `for_ms`, from its first sample to this one, both included, fires: it opens an episode that
   began with the first sample of the run of the nearest level, or raises the severity of the one that is open. The
   severity of an episode never goes down: it is the worst that was held for `for_ms`.
6. A sample between the clear level and the nearest level ends runs, and with them `pending`, but not an episode.
7. An episode survives silence and an edit of its threshold: the next sample, judged by the version that applies to its
   time, keeps it or ends it. It keeps the number of the version that opened it.

From 3 follows what makes judging independent of the order in which samples arrive: whatever came before, the state
after a clear sample is the same. So late samples can change what happened only between the clear samples around them.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from math import isnan

from cloud_ingest.alerts.rule import NoData, Rule, Severity


class Phase(StrEnum):
    """The states as people see them."""

    OK = "ok"
    PENDING = "pending"
    FIRING = "firing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Peak:
    """The worst value, the earliest of equals, and the last value."""

    value: float
    time_ms: int
    last: float

    def with_sample(self, rule: Rule, time_ms: int, value: float) -> "Peak":
        """The peak once this sample is counted too."""
        if rule.badness(value) > rule.badness(self.value):
            return Peak(value, time_ms, value)
        return replace(self, last=value)


@dataclass(frozen=True, slots=True)
class Open:
    """An episode that has not ended. `version` is that of the rule that opened it."""

    start_ms: int
    fired_ms: int
    severity: Severity
    version: int


@dataclass(frozen=True, slots=True)
class State:
    """All that has to be remembered between two samples. `State(time_ms)` is `ok`.

    `time_ms` is that of the newest sample judged, None before the first. The other fields are set only while something
    is pending or firing: since when each level is held without a break, the last sample with a value and the version of
    the rule that judged it.
    """

    time_ms: int | None = None
    beyond_since_ms: int | None = None
    critical_since_ms: int | None = None
    seen_ms: int | None = None
    version: int | None = None
    peak: Peak | None = None
    open: Open | None = None

    @property
    def phase(self) -> Phase:
        """What it is, as far as samples tell."""
        if self.open is not None:
            return Phase.FIRING
        return Phase.OK if self.beyond_since_ms is None else Phase.PENDING

    @property
    def is_idle(self) -> bool:
        """Whether nothing but the time is remembered."""
        return self.open is None and self.beyond_since_ms is None


@dataclass(frozen=True, slots=True)
class Opened:
    """An episode began to fire."""

    episode: Open
    time_ms: int
    value: float


@dataclass(frozen=True, slots=True)
class Escalated:
    """An open episode became worse."""

    episode: Open
    time_ms: int
    value: float


@dataclass(frozen=True, slots=True)
class Ended:
    """An episode ended with a clear sample, whose value is `value`."""

    episode: Open
    peak: Peak
    time_ms: int
    value: float


Transition = Opened | Escalated | Ended


def advance(state: State, rule: Rule, time_ms: int, value: float) -> tuple[State, Transition | None]:
    """The state after a sample, and what is to be told. NaN is a sample without a value."""
    if state.time_ms is not None and time_ms <= state.time_ms:
        return state, None
    if isnan(value):
        return replace(state, time_ms=time_ms), None
    if rule.is_clear(value):
        ended = None
        if state.open is not None and state.peak is not None:
            ended = Ended(state.open, state.peak, time_ms, value)
        return State(time_ms), ended
    severity = rule.severity_of(value)
    if severity is None and state.open is None:
        return State(time_ms), None
    return _beyond(state, rule, time_ms, value, severity)


def _beyond(
    state: State, rule: Rule, time_ms: int, value: float, severity: Severity | None
) -> tuple[State, Transition | None]:
    """After a sample that is beyond a level, or keeps an episode open in the band of the hysteresis."""
    unbroken = (
        state.seen_ms is not None and time_ms - state.seen_ms <= rule.silence_ms and state.version == rule.version
    )
    beyond_since = _since(state.beyond_since_ms, time_ms, held=severity is not None, unbroken=unbroken)
    critical_since = _since(state.critical_since_ms, time_ms, held=severity is Severity.CRITICAL, unbroken=unbroken)
    goes_on = state.peak is not None and (state.open is not None or beyond_since == state.beyond_since_ms)
    peak = state.peak.with_sample(rule, time_ms, value) if state.peak and goes_on else Peak(value, time_ms, value)
    after = State(time_ms, beyond_since, critical_since, time_ms, rule.version, peak, state.open)
    reached = _reached(rule, time_ms, beyond_since, critical_since)
    if reached is None or (state.open is not None and reached <= state.open.severity):
        return after, None
    if state.open is not None:
        episode = replace(state.open, severity=reached)
        return replace(after, open=episode), Escalated(episode, time_ms, value)
    episode = Open(time_ms if beyond_since is None else beyond_since, time_ms, reached, rule.version)
    return replace(after, open=episode), Opened(episode, time_ms, value)


def _since(before: int | None, time_ms: int, *, held: bool, unbroken: bool) -> int | None:
    if not held:
        return None
    return before if unbroken and before is not None else time_ms


def _reached(rule: Rule, time_ms: int, beyond_since: int | None, critical_since: int | None) -> Severity | None:
    """The worst level whose run has lasted long enough."""
    if critical_since is not None and time_ms - critical_since >= rule.for_ms:
        return Severity.CRITICAL
    if beyond_since is not None and time_ms - beyond_since >= rule.for_ms:
        return rule.least
    return None


def phase_at(state: State, rule: Rule, now_ms: int) -> Phase:
    """How the state looks at a time, for which silence counts as `rule.no_data` says; an alert of it is an episode.

    `now_ms` may be before the newest sample, by a clock that is ahead. A series that never sent anything is `unknown`.
    """
    newest = state.time_ms if state.seen_ms is None else state.seen_ms
    if newest is not None and (now_ms - newest <= rule.silence_ms or rule.no_data is NoData.KEEP):
        return state.phase
    return Phase.UNKNOWN
