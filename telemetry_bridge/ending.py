"""Ending a process: ask, wait, and in the end kill it with all its descendants.

Used for our own children, by the guard after our death, and for what an earlier run left behind; therefore it works on
process handles, which know the start time of their process and so never hit a stranger with a reused id.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

_POLL_SECONDS = 0.02
_KILL_WAIT_SECONDS = 5.0


@dataclass(frozen=True)
class Ending:
    """How a process wants to be ended: the signal that asks it, and how long it may take to follow.

    Signal 0 asks nothing: it ends by itself.
    """

    signal: int
    grace_seconds: float


@dataclass(frozen=True)
class Endable:
    """A process to be ended some day, possibly by another program than the one that started it."""

    name: str
    process: psutil.Process
    ending: Ending


def end(process: psutil.Process, ending: Ending, *, hurry: Callable[[], bool] = lambda: False) -> bool:
    """End the process; True where it ended when asked (or had ended before), False where it had to be killed.

    `hurry` is asked all the while; once it says yes, nothing is waited for any more. When this returns the process is
    gone, but may still have to be reaped by its parent.
    """
    deadline = time.monotonic() + ending.grace_seconds
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(ending.signal)
    while not is_gone(process):
        if hurry() or time.monotonic() > deadline:
            kill_tree(process)
            return False
        time.sleep(_POLL_SECONDS)
    return True


def kill_tree(process: psutil.Process) -> None:
    """Kill the process and its descendants and wait until they are gone."""
    family = [process]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    deadline = time.monotonic() + _KILL_WAIT_SECONDS
    while not all(map(is_gone, family)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def is_gone(process: psutil.Process) -> bool:
    """Whether it has ended; a zombie has, it only waits for its parent."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
