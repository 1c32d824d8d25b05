"""Waiting for a condition instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_INTERVAL_SECONDS = 0.02


def until(condition: Callable[[], T], timeout: float, what: str) -> T:
    """The first truthy value of `condition`, which is asked at least once and every 20 ms until `timeout` seconds.

    Raises AssertionError naming `what` and the last value. What `condition` raises is raised at once: a condition
    that may fail on its way says so itself.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; the last value was {value!r}")
        time.sleep(_INTERVAL_SECONDS)
    return value
