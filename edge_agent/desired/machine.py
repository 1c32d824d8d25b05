"""What becomes of desired configurations, as a state machine without clock, disk or network.

A desired configuration that is new goes into effect on trial. It becomes the good one when a sample that was measured
under it is confirmed, and is given up when none is in time, or when the agent ended several times before one was. What
was given up is not tried again. The caller puts `State.in_effect` into effect whenever a step has changed it.
"""

from dataclasses import dataclass, replace
from typing import Final

from telemetry_contract.desired import DesiredConfig
from telemetry_contract.payload import DesiredState

MAX_ATTEMPTS: Final = 3
_MAX_REASON_CHARACTERS: Final = 256


@dataclass(frozen=True, slots=True)
class Trial:
    """A configuration that is in effect and has to prove itself until `deadline`, for the so many-th time."""

    config: DesiredConfig
    attempt: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A trial that the end of the agent cut short."""

    config: DesiredConfig
    attempt: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a version is not in effect; `config` is None where it could not even be read."""

    state: str
    version: int
    reason: str
    config: DesiredConfig | None = None


@dataclass(frozen=True, slots=True)
class State:
    """`good` proved itself. `verdict` is on the version that was heard of last, where that is not in effect.

    `given_up` is the last one that was reverted, whatever came after it.
    """

    good: DesiredConfig | None = None
    trial: Trial | None = None
    interrupted: Interrupted | None = None
    verdict: Verdict | None = None
    given_up: Verdict | None = None

    @property
    def in_effect(self) -> DesiredConfig | None:
        """What goes over the device's own configuration; None: nothing does."""
        return self.good if self.trial is None else self.trial.config

    @property
    def report(self) -> DesiredState | None:
        """What the status says; None where no desired configuration is known."""
        in_effect = None if self.in_effect is None else self.in_effect.version
        if self.verdict is not None:
            return DesiredState(
                state=self.verdict.state, version=self.verdict.version, reason=self.verdict.reason, in_effect=in_effect
            )
        if in_effect is None:
            return None
        return DesiredState(state="applied" if self.trial is None else "trying", version=in_effect, in_effect=in_effect)


def heard(state: State, config: DesiredConfig, now: float, within_seconds: float) -> State:
    """A desired configuration arrived, perhaps one that had arrived before."""
    if _is(state.verdict, config):
        return state
    if _is(state.given_up, config):
        return replace(state, trial=None, verdict=state.given_up)
    if state.trial is not None and state.trial.config == config:
        return replace(state, verdict=None)
    if state.good == config:
        return replace(state, trial=None, interrupted=None, verdict=None)
    before = state.interrupted
    attempts = before.attempt if before is not None and before.config == config else 0
    if attempts >= MAX_ATTEMPTS:
        why = f"the agent ended {attempts} times before a sample was confirmed"
        return _given_up(replace(state, trial=None, interrupted=None, verdict=None), config, why)
    return replace(state, trial=Trial(config, attempts + 1, now + within_seconds), interrupted=None, verdict=None)


def heard_unusable(state: State, version: int, reason: str) -> State:
    """Something arrived that names a version and is no desired configuration: what is in effect stays."""
    return replace(state, verdict=Verdict("refused", version, _short(reason)))


def cleared(state: State) -> State:
    """The cloud wants nothing otherwise any more."""
    return replace(state, good=None, trial=None, interrupted=None, verdict=None)


def confirmed(state: State) -> State:
    """A sample that was measured under the trial is confirmed."""
    if state.trial is None:
        return state
    return replace(state, good=state.trial.config, trial=None)


def clock(state: State, now: float, within_seconds: float) -> State:
    """It is `now`."""
    if state.trial is None or now < state.trial.deadline:
        return state
    why = f"no sample was confirmed within {within_seconds:g} s"
    return _given_up(replace(state, trial=None), state.trial.config, why)


def failed(state: State, reason: str) -> State:
    """What is to be in effect can't be, on this device as it is configured; something else is now."""
    config = state.in_effect
    if config is None:
        return state
    verdict = state.verdict or Verdict("refused", config.version, _short(reason), config)
    if state.trial is not None:
        return replace(state, trial=None, verdict=verdict)
    return replace(state, good=None, verdict=verdict)


def _given_up(state: State, config: DesiredConfig, reason: str) -> State:
    verdict = Verdict("reverted", config.version, reason, config)
    return replace(state, given_up=verdict, verdict=state.verdict or verdict)


def _is(verdict: Verdict | None, config: DesiredConfig) -> bool:
    return verdict is not None and verdict.config == config


def _short(reason: str) -> str:
    return reason if len(reason) <= _MAX_REASON_CHARACTERS else f"{reason[: _MAX_REASON_CHARACTERS - 3]}..."
