"""A thread for a call that may hang, so that only its own thread hangs with it.

`concurrent.futures` does not serve here: its pools join their threads when the interpreter ends, and a thread that
waits for a dead NFS server would keep the agent from ever ending.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What a call came to: a value, or else the exception it raised."""

    value: T | None = None
    error: BaseException | None = None


class Worker(Generic[T]):
    """Calls one function, each time it is asked to, in a daemon thread of its own.

    `begin`, `outcome` and `close` are for one caller thread at a time. The thread starts with the first `begin`.
    """

    def __init__(self, function: Callable[[], T], *, name: str) -> None:
        self._function = function
        self._changed = threading.Condition()  # guards the three below
        self._running = False
        self._closed = False
        self._outcome: Outcome[T] | None = None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def begin(self) -> bool:
        """Have the function called; False, without any effect, while an earlier call has not returned."""
        with self._changed:
            if self._running:
                return False
            self._running = True
            self._outcome = None
            self._changed.notify_all()
        if self._thread.ident is None:
            self._thread.start()
        return True

    def outcome(self, timeout_seconds: float) -> Outcome[T] | None:
        """What the call came to; None where it has not returned in time (or was never begun)."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, max(0.0, timeout_seconds))
            return None if self._running else self._outcome

    def close(self) -> None:
        """End the thread as soon as the function has returned; doesn't wait for it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._running or self._closed)
                if self._closed:
                    return
            try:
                outcome = Outcome(value=self._function())
            except BaseException as exc:  # noqa: BLE001 - whatever it raises is the caller's to judge
                outcome = Outcome(error=exc)
            with self._changed:
                self._outcome = outcome
                self._running = False
                self._changed.notify_all()
