import io

import pytest
from rich.console import Console

from telemetry_bridge import display as display_module
from telemetry_bridge.display import Display


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=40, highlight=False, color_system=None), file


def test_without_a_terminal_there_are_plain_lines_that_are_not_wrapped() -> None:
    to, file = console(terminal=False)
    display = Display(to)
    with display.step("broker") as step:
        step.say("mosquitto, /a/long/path/with [brackets] and more than the width")
    display.line("a line that is longer than the forty columns of this console")
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("  broker    mosquitto, /a/long/path/with [brackets] and more than the width  0.")
    assert lines[1:] == ["a line that is longer than the forty columns of this console"]
    assert "\x1b" not in file.getvalue()


def test_without_a_terminal_the_current_state_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    to, file = console(terminal=False)
    display = Display(to)
    for number in range(3):
        display.current(f"state {number}")
    assert file.getvalue() == "state 0\n"
    monkeypatch.setattr(display_module, "_PLAIN_LINE_EVERY_SECONDS", 0.0)
    display = Display(to)
    display.current("state 3")
    display.current("state 4")
    display.end_current()
    assert file.getvalue() == "state 0\nstate 3\nstate 4\n"


def test_at_a_terminal_the_current_state_is_rewritten_in_place() -> None:
    to, file = console(terminal=True)
    display = Display(to)
    display.current("state 1")
    display.current("state 2")
    display.end_current()
    display.line("the end")
    assert "state 1" in file.getvalue() or "state 2" in file.getvalue()
    assert "\x1b[2K" in file.getvalue(), "the line is erased"
    assert file.getvalue().endswith("the end\n")


def test_a_step_that_fails_leaves_no_line() -> None:
    to, file = console(terminal=False)
    with pytest.raises(OSError, match="refused"), Display(to).step("broker"):
        raise OSError("refused")
    assert file.getvalue() == ""
