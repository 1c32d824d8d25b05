"""What tells a program to stop: a signal, or the end of the process that watches over it."""

import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Final

logger = logging.getLogger(__name__)

# How long an orphan may take to stop by itself. Longer than any role needs.
_ORPHAN_GRACE_SECONDS: Final = 30


def stop_on_signals(stop: threading.Event) -> None:
    """From now on SIGTERM and SIGINT set `stop`; a second one ends the process at once, as if nothing were handled.

    To be called from the main thread.
    """

    def handle(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        # The main thread may have been interrupted inside `stop.wait`, holding the lock that `set` needs.
        threading.Thread(target=stop.set, name="stop").start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def stop_with_stdin(stop: threading.Event) -> None:
    """From now on the end of standard input sets `stop`; who then does not stop is ended.

    A supervisor holds the other end of a pipe and never writes to it. Its end closes whatever becomes of it, a SIGKILL
    included, and on every system.
    """

    def watch() -> None:
        # Not through sys.stdin, whose lock a blocked reader would hold while the interpreter ends.
        while os.read(0, 4_096):
            pass
        if not stop.is_set():
            logger.warning("the supervisor is gone; stopping")
        stop.set()
        threading.Event().wait(_ORPHAN_GRACE_SECONDS)
        sys.stderr.flush()
        os._exit(1)

    threading.Thread(target=watch, name="stdin", daemon=True).start()
