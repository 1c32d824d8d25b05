"""What the person sees: a line for each part while things start and stop, then one line that stays current.

At a terminal the last line is rewritten in place; elsewhere (a log, a pipe) every line is written once.
"""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.status import Status
from rich.text import Text

_PLAIN_LINE_EVERY_SECONDS = 60.0


class Step:
    """A step that is under way; what `say` is told stands in its line."""

    def __init__(self) -> None:
        self.result = ""

    def say(self, result: str) -> None:
        """Describe what was reached."""
        self.result = result


class Display:
    """Writes to one console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Status | None = None
        self._next_plain_line = 0.0

    def line(self, text: str, style: str = "") -> None:
        """One line of its own. Text is never taken for markup, nor wrapped: it may hold a path to be copied."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """While a part starts; its line, with the time it took, appears once it has succeeded."""
        step = Step()
        began = time.monotonic()
        with self._spinner(name) if self._console.is_terminal else contextlib.nullcontext():
            yield step
        text = Text.assemble("  ", (f"{name:<10}", "bold"), step.result, (f"  {time.monotonic() - began:.1f} s", "dim"))
        self._console.print(text, soft_wrap=True)

    def current(self, text: str) -> None:
        """Show this as the present state."""
        if self._console.is_terminal:
            if self._live is None:
                self._live = self._spinner(text)
                self._live.start()
            self._live.update(Text(text))
        elif time.monotonic() >= self._next_plain_line:
            self._next_plain_line = time.monotonic() + _PLAIN_LINE_EVERY_SECONDS
            self.line(text)

    def end_current(self) -> None:
        """Leave the line that stays current; what follows stands below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _spinner(self, text: str) -> Status:
        return self._console.status(Text(text), spinner="line", refresh_per_second=4)
