import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent import machine_clock
from edge_agent.clock import EARLIEST_MS


def test_both_clocks_go_on() -> None:
    before = machine_clock.now()
    until = time.monotonic_ns() + 20_000_000
    while time.monotonic_ns() < until:
        pass
    after = machine_clock.now()
    assert after.boot_ns - before.boot_ns >= 20_000_000
    assert abs((after.boot_ns - before.boot_ns) / 1e6 - (after.wall_ms - before.wall_ms)) < 1_000
    assert after.wall_ms > EARLIEST_MS


@pytest.mark.skipif(sys.platform != "linux", reason="adjtimex is Linux's")
def test_the_kernel_is_asked_and_answers() -> None:
    try:
        said = subprocess.run(
            ["timedatectl", "show", "--property=NTPSynchronized", "--value"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        said = ""
    answer = machine_clock.synchronised()
    assert answer is not None
    assert said in {"", "yes" if answer else "no"}


def kernel(status: int, returned: int) -> Callable[..., int]:
    """As the C library's function: fills in the status and returns the state of the clock."""

    def adjtimex(pointer: Any) -> int:
        timex = pointer._obj  # noqa: SLF001 - what byref points to
        assert timex.modes == 0, "the clock is read, never set"
        timex.status = status
        return returned

    return adjtimex


@pytest.mark.parametrize(
    ("status", "returned", "expected"),
    [
        (0x2001, 0, True),
        (0x0040, 5, False),
        (0x2041, 0, False),
        (0x0000, 3, True),  # a leap second goes on
        (0x0000, -1, None),  # not allowed here
    ],
)
def test_what_the_kernel_says(
    status: int,
    returned: int,
    expected: bool | None,  # noqa: FBT001 - a parameter of the test
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine_clock, "_adjtimex", lambda: kernel(status, returned))
    assert machine_clock.synchronised() is expected


def test_systems_without_such_a_kernel_can_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    machine_clock._adjtimex.cache_clear()  # noqa: SLF001
    try:
        assert machine_clock.synchronised() is None
        assert abs(machine_clock.boot_ns() - time.monotonic_ns()) < 1_000_000_000
    finally:
        machine_clock._adjtimex.cache_clear()  # noqa: SLF001


def test_a_clock_that_goes_on_while_off_is_where_the_kernel_shows_one(tmp_path: Path) -> None:
    assert not machine_clock.kept_while_off(tmp_path / "absent")
    assert not machine_clock.kept_while_off(tmp_path)
    (tmp_path / "rtc0").mkdir()
    assert machine_clock.kept_while_off(tmp_path)
