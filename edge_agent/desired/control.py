"""Desired configuration at work: from the broker through the state machine into effect and onto the disk."""

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

from edge_agent.config import Desired
from edge_agent.desired import machine
from edge_agent.desired.file import DesiredFile
from edge_agent.desired.machine import State
from edge_agent.errors import ConfigError, OutboxError
from telemetry_contract.codec import decode_desired, desired_version
from telemetry_contract.desired import DesiredConfig
from telemetry_contract.errors import PayloadError
from telemetry_contract.payload import DesiredState

log = logging.getLogger(__name__)


class Apply(Protocol):
    """What the agent does with a desired configuration."""

    def __call__(self, desired: DesiredConfig | None, proved: Callable[[], None]) -> None:
        """Put it into effect; call `proved`, from any thread, once a sample measured since is confirmed.

        Raises ConfigError where it can't be, and then all goes on as before.
        """
        ...


class DesiredControl:
    """Follows what the cloud wants. `hear` may be called from any thread, the rest is for one."""

    def __init__(self, settings: Desired, file: DesiredFile, wake: Callable[[], None]) -> None:
        """`wake` is called from any thread when there is something for `turn` to do."""
        self._settings = settings
        self._file = file
        self._wake = wake
        self._state = self._loaded()
        self._applied = self._state.in_effect
        self._trial = 0
        self.ignored = 0  # messages that are no desired configuration; written by one thread
        # Shared with other threads.
        self._lock = threading.Lock()  # guards the two below
        self._heard: bytes | None = None
        self._proved: int | None = None

    @property
    def in_effect(self) -> DesiredConfig | None:
        """What goes over the device's own configuration; None: nothing does."""
        return self._applied

    @property
    def report(self) -> DesiredState | None:
        """What the status says of it."""
        return self._state.report

    @property
    def deadline(self) -> float | None:
        """When `turn` is due at the latest."""
        return None if self._state.trial is None else self._state.trial.deadline

    def hear(self, payload: bytes) -> None:
        """A message on the topic; of several that were not dealt with the newest counts."""
        if self._settings.enabled:
            with self._lock:
                self._heard = payload
            self._wake()

    def turn(self, now: float, apply: Apply) -> bool:
        """Deals with what has come; whether the report has changed."""
        before = self._state.report
        with self._lock:
            payload, self._heard = self._heard, None
            proved, self._proved = self._proved, None
        if proved == self._trial:
            self._enter(machine.confirmed(self._state), apply)
        if payload is not None:
            self._enter(self._decided(payload, now), apply)
        self._enter(machine.clock(self._state, now, self._settings.confirm_within_seconds), apply)
        return self._state.report != before

    def refuse(self, reason: str) -> None:
        """What is in effect does not fit the device's own configuration any more, which changed: it ends."""
        self._become(machine.failed(self._state, reason))
        self._applied = self._state.in_effect

    def _decided(self, payload: bytes, now: float) -> State:
        if not payload:
            return machine.cleared(self._state)
        try:
            config = decode_desired(payload)
        except PayloadError as exc:
            version = desired_version(payload)
            if version is not None:
                return machine.heard_unusable(self._state, version, str(exc))
            self.ignored += 1
            if self.ignored == 1:
                log.warning("ignored a message on the config topic, and will ignore others like it: %s", exc)
            return self._state
        return machine.heard(self._state, config, now, self._settings.confirm_within_seconds)

    def _enter(self, state: State, apply: Apply) -> None:
        """Goes on with a state, and puts into effect what it says is to be."""
        if state == self._state:
            return
        self._become(
            state
        )  # before it is applied: a configuration that ends the agent must be known to have been tried
        while (wanted := self._state.in_effect) != self._applied:
            self._trial += 1
            try:
                apply(wanted, partial(self._prove, self._trial))
            except ConfigError as exc:
                if wanted is None:
                    raise
                self._become(machine.failed(self._state, str(exc)))
            else:
                self._applied = wanted

    def _prove(self, trial: int) -> None:
        with self._lock:
            self._proved = trial
        self._wake()

    def _become(self, state: State) -> None:
        """Remembers it, on disk too, and tells what is new about it."""
        before, self._state = self._state.report, state
        if state.report != before:
            self._tell(state.report)
        try:
            self._file.save(state)
        except OutboxError as exc:
            log.warning("%s; the desired configuration will not be known after a restart", exc)

    def _tell(self, report: DesiredState | None) -> None:
        if report is None:
            log.info("no desired configuration: this device's own one holds alone")
        elif report.reason is None:
            log.info("desired configuration %d: %s", report.version, report.state)
        else:
            log.warning("desired configuration %d: %s: %s", report.version, report.state, report.reason)

    def _loaded(self) -> State:
        if not self._settings.enabled:
            return State()
        try:
            return self._file.load()
        except OutboxError as exc:
            log.warning("%s; going on without what was desired before", exc)
            return State()
