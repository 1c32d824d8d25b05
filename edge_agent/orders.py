"""What signals order: to stop, to read the configuration again."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_STOP: Final = ("SIGTERM", "SIGINT")
_RELOAD: Final = "SIGHUP"  # which Windows has not


class Orders:
    """Waits for orders in the main thread. `stop` may be called from any thread."""

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._stopping = False
        self._reloading = False

    @property
    def stopping(self) -> bool:
        """Whether to stop."""
        return self._stopping

    def stop(self) -> None:
        """Order to stop."""
        self._stopping = True
        self._wake.set()

    def reload(self) -> None:
        """Order to read the configuration again."""
        self._reloading = True
        self._wake.set()

    def wake(self) -> None:
        """End a wait, without an order."""
        self._wake.set()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for an order or a `wake`, or until the time is over; whether to stop."""
        self._wake.wait(timeout_seconds)
        if not self._stopping:
            self._wake.clear()
        return self._stopping

    def take_reload(self) -> bool:
        """Whether the configuration is to be read again; the order counts as carried out."""
        wanted, self._reloading = self._reloading, False
        return wanted

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT order to stop, SIGHUP to reload; they mean what they did before afterwards."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if signal.Signals(number).name == _RELOAD:
                self.reload()
            else:
                self.stop()

        names = list(_STOP)
        if hasattr(signal, _RELOAD) and signal.getsignal(getattr(signal, _RELOAD)) != signal.SIG_IGN:  # nohup
            names.append(_RELOAD)
        before = {name: signal.signal(getattr(signal, name), on_signal) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)
