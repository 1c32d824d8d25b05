"""Ctrl-C and its relatives: noticed at once, acted on between two steps."""

import os
import select
import signal
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """The person asked to stop while something was being waited for."""


class StopRequest:
    """Counts requests to stop while it is entered: the first asks, the second insists.

    Only for the main thread, as signals are. A pipe and not a `threading.Event` wakes the waiter: a handler that runs
    while the event's own lock is held would wait for itself.
    """

    def __init__(self) -> None:
        self._count = 0
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            ignored = signal.getsignal(number) is signal.SIG_IGN
            if number is signal.SIGHUP and ignored:
                continue  # nohup: the end of the terminal is to end nothing
            self._previous[number] = signal.signal(number, self._received)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._read_end)
        os.close(self._write_end)

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._count > 0

    def insisted(self) -> bool:
        """Whether to stop without waiting for anyone."""
        return self._count > 1

    def wait(self, seconds: float) -> None:
        """Return after this long, or as soon as a stop is requested."""
        if not self.requested:
            select.select([self._read_end], [], [], seconds)

    def check(self) -> None:
        """Raise Stopped where a stop is requested."""
        if self.requested:
            raise Stopped

    def _received(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        os.write(self._write_end, b".")
