"""A part of the local system as a child process."""

import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from telemetry_bridge.account import Account
from telemetry_bridge.ending import Endable, Ending, end
from telemetry_bridge.errors import CannotStart, PartFailed, PartMisconfigured
from telemetry_bridge.logs import PartLog

_TAIL_LINES = 12


@dataclass(frozen=True)
class Part:
    """What to run, and how it wants to be ended."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ending: Ending = field(default=Ending(signal.SIGTERM, grace_seconds=15))
    account: Account | None = None
    directory: Path | None = None


class Child:
    """A part that has been started, in a session of its own: Ctrl-C at the terminal reaches only us.

    Its output goes to its log. Raises CannotStart where its program can't be executed.
    """

    def __init__(self, part: Part, log: PartLog) -> None:
        self.part = part
        self.log = log
        account = part.account
        with log.open_fresh() as output:
            try:
                self._popen = subprocess.Popen(
                    part.command,
                    env=dict(part.environment),
                    cwd=part.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    user=None if account is None else account.user_id,
                    group=None if account is None else account.group_id,
                    extra_groups=None if account is None else [],
                )
            except OSError as exc:
                raise CannotStart(f"can't execute {part.command[0]} for the {part.name}: {exc.strerror}") from exc
        self.process = psutil.Process(self._popen.pid)

    @property
    def endable(self) -> Endable:
        """What others need to know to end it."""
        return Endable(self.part.name, self.process, self.part.ending)

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._popen.poll()

    def failure(self, what: str | None = None) -> PartFailed:
        """The error that says what happened (that it ended, unless told otherwise), with the end of its log."""
        kind = PartMisconfigured if self.exit_code == PartMisconfigured.exit_code else PartFailed
        tail = self.log.tail(_TAIL_LINES)
        program = Path(self.part.command[0]).name
        heading = f"{self.part.name} ({program}) {self._how_it_ended() if what is None else what}"
        if not tail:
            return kind(f"{heading}; its log {self.log.path} is empty")
        return kind("\n    ".join([f"{heading}; the end of its log {self.log.path}:", *tail]))

    def end(self, hurry: Callable[[], bool]) -> bool:
        """End and reap it; True where it followed, False where it had to be killed."""
        followed = end(self.process, self.part.ending, hurry=hurry)
        self._popen.wait()
        return followed

    def _how_it_ended(self) -> str:
        code = self._popen.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
