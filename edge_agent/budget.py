"""So much a second and no more: for what others could make endless, like a program's output."""

import time
from collections.abc import Callable


class Budget:
    """Fills by `per_second`, up to `capacity`, and begins full. For one thread at a time."""

    def __init__(self, capacity: float, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._clock = clock
        self._left = capacity
        self._at = clock()

    def spend(self, amount: float) -> bool:
        """Take so much if there is so much; whether there was."""
        self._fill()
        enough = amount <= self._left
        if enough:
            self._left -= amount
        return enough

    def overdraw(self, amount: float) -> float:
        """Take so much in any case, and answer how many seconds to pause until it is made up for."""
        self._fill()
        self._left -= amount
        return max(0.0, -self._left / self._per_second)

    def _fill(self) -> None:
        now = self._clock()
        self._left = min(self._capacity, self._left + (now - self._at) * self._per_second)
        self._at = now
