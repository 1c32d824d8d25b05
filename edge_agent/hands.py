"""The threads that make the calls of a tick: as few as can be, and as many as it takes.

A thread for each call would be woken for each, which costs a small machine more than most calls do. So one thread makes
all calls one after another; where one of them takes its time, another thread goes on with the rest.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Generic, TypeVar

from edge_agent.worker import Outcome

T = TypeVar("T")


class Hands(Generic[T]):
    """Calls functions by their names, each time it is asked to, in daemon threads.

    `begin`, `outcome` and `close` are for one caller thread at a time. A function is never called while an earlier call
    of it has not returned, and holds up the others for `patience_seconds` at most. A single function is always called
    in the same thread.
    """

    def __init__(self, functions: Mapping[str, Callable[[], T]], *, name: str, patience_seconds: float) -> None:
        self._functions = functions
        self._name = name
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()  # guards all below
        self._to_do = threading.Condition(self._lock)
        self._done = threading.Condition(self._lock)
        self._waiting: deque[str] = deque()
        self._running: set[str] = set()
        self._outcomes: dict[str, Outcome[T]] = {}
        self._taken = 0
        self._idle = 0
        self._closed = False

    def begin(self, *, at_once: bool = False) -> frozenset[str]:
        """Have the functions called, in their order or all `at_once`; the names of those that are.

        Not among them are those whose earlier call has not returned.
        """
        with self._lock:
            asked = [name for name in self._functions if name not in self._running]
            self._outcomes.clear()
            self._waiting = deque(asked)
            self._to_do.notify_all()
            wanted = len(asked) if at_once else min(1, len(asked))
            for _ in range(wanted - self._idle):
                self._hire()
        return frozenset(asked)

    def outcome(self, name: str, timeout_seconds: float) -> Outcome[T] | None:
        """What a call came to; None where it has not returned in time, and then it is not begun any more."""
        deadline = monotonic() + timeout_seconds
        with self._lock:
            while name in self._waiting or name in self._running:
                left_seconds = deadline - monotonic()
                if left_seconds <= 0:
                    if name in self._waiting:
                        self._waiting.remove(name)
                    return None
                taken = self._taken
                self._done.wait(min(left_seconds, self._patience_seconds) if self._waiting else left_seconds)
                if self._waiting and self._running and self._taken == taken:
                    self._hire()
            return self._outcomes.get(name)

    def close(self) -> None:
        """End each thread as soon as its call has returned; doesn't wait for them."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._to_do.notify_all()

    def _hire(self) -> None:
        threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        done: tuple[str, Outcome[T]] | None = None
        while (name := self._next(done)) is not None:
            try:
                done = name, Outcome(value=self._functions[name]())
            except BaseException as exc:  # noqa: BLE001 - whatever it raises is the caller's to judge
                done = name, Outcome(error=exc)

    def _next(self, done: tuple[str, Outcome[T]] | None) -> str | None:
        """Takes what the last call came to; the function to call next, or None where this thread is to end."""
        with self._lock:
            if done is not None:
                name, outcome = done
                self._outcomes[name] = outcome
                self._running.remove(name)
                if not self._waiting:  # else who waits is woken by the last of them
                    self._done.notify()
            while not self._waiting:
                if self._closed or self._idle:  # one that waits is enough
                    return None
                self._idle += 1
                self._to_do.wait()
                self._idle -= 1
            name = self._waiting.popleft()
            self._running.add(name)
            self._taken += 1
            return name
