"""What of desired configurations outlives the agent, in a small file beside the outbox."""

import contextlib
import os
from pathlib import Path

import msgspec

from edge_agent.desired.machine import Interrupted, State, Verdict
from edge_agent.errors import OutboxError
from telemetry_contract.desired import DesiredConfig


class _Saved(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`device` and `site` say whose it is: on the card of a device that was cloned, it is another one's."""

    device: str
    site: str
    good: DesiredConfig | None = None
    on_trial: DesiredConfig | None = None
    attempt: int = 0
    given_up: DesiredConfig | None = None
    given_up_because: str = ""


class DesiredFile:
    """The file of one device."""

    def __init__(self, outbox: Path, device: str, site: str) -> None:
        self.path = outbox.with_suffix(".desired.json")
        self._device = device
        self._site = site

    def load(self) -> State:
        """The state as it was saved, a trial that was not over as interrupted; an empty one where there is none.

        Raises OutboxError where the file is there and can't be read or understood.
        """
        try:
            saved = msgspec.json.decode(self.path.read_bytes(), type=_Saved)
        except FileNotFoundError:
            return State()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise OutboxError(f"{self.path}: {exc}") from exc
        if (saved.device, saved.site) != (self._device, self._site):
            return State()
        given_up = None
        if saved.given_up is not None:
            given_up = Verdict("reverted", saved.given_up.version, saved.given_up_because, saved.given_up)
        interrupted = None if saved.on_trial is None else Interrupted(saved.on_trial, saved.attempt)
        return State(good=saved.good, interrupted=interrupted, given_up=given_up)

    def save(self, state: State) -> None:
        """On disk when it returns, and never half of it, whenever the power fails. Raises OutboxError."""
        trial = state.trial or state.interrupted
        saved = _Saved(device=self._device, site=self._site, good=state.good)
        if trial is not None:
            saved.on_trial, saved.attempt = trial.config, trial.attempt
        if state.given_up is not None:
            saved.given_up, saved.given_up_because = state.given_up.config, state.given_up.reason
        aside = self.path.with_suffix(".new")
        try:
            with aside.open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(saved), indent=2))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self.path)
            _sync_directory(self.path.parent)
        except OSError as exc:
            raise OutboxError(f"{self.path}: {exc.strerror or exc}") from exc


def _sync_directory(directory: Path) -> None:
    """Makes a new name durable, where directories can be opened; Windows does it by itself."""
    with contextlib.suppress(PermissionError):
        opened = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
