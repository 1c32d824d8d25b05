"""The guard: a process that ends the others when `telemetry-bridge up` is gone without having done so itself.

It reads from a pipe whose other end only `up` holds. When that end closes, by a clean end as by SIGKILL, it ends what
still runs of what it was told of, the youngest first. A closed pipe is noticed on every system, also on behalf of
processes that changed their user, for which Linux clears a parent-death signal (prctl(2), PR_SET_PDEATHSIG).
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable

import psutil

from telemetry_bridge.child import Child
from telemetry_bridge.ending import Ending, end, is_gone
from telemetry_bridge.logs import PartLog

_LAST_WAIT_SECONDS = 5.0


class Guard:
    """The running guard, as `up` sees it."""

    def __init__(self, log: PartLog) -> None:
        with log.open_fresh() as output:
            self._popen = subprocess.Popen(
                # -P: what lies in the working directory must not shadow a module.
                [sys.executable, "-P", "-m", "telemetry_bridge.guard"],
                env=dict(os.environ),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether it still guards."""
        return self._popen.poll() is None

    def watch(self, child: Child) -> None:
        """Guard this child from now on; without effect where the guard itself is gone."""
        pipe = self._popen.stdin
        if pipe is None:
            return
        ending = child.part.ending
        order = {"pid": child.process.pid, "signal": int(ending.signal), "grace_seconds": ending.grace_seconds}
        with contextlib.suppress(BrokenPipeError):
            pipe.write(json.dumps({"name": child.part.name, **order}).encode() + b"\n")
            pipe.flush()

    def dismiss(self) -> None:
        """Let it go, once the others have ended; otherwise it stays until it has ended them."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.communicate(timeout=_LAST_WAIT_SECONDS)


def keep_watch(orders: Iterable[bytes]) -> None:
    """Read orders as `Guard.watch` writes them until there are no more, then end what runs, the youngest first."""
    watched: list[tuple[str, psutil.Process, Ending]] = []
    for line in orders:
        order = json.loads(line)
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(order["pid"])
            watched.append((order["name"], process, Ending(order["signal"], order["grace_seconds"])))
    for name, process, ending in reversed(watched):
        if not is_gone(process):
            sys.stdout.write(f"telemetry-bridge is gone; ending {name} (process {process.pid})\n")
            sys.stdout.flush()
            end(process, ending)


if __name__ == "__main__":
    keep_watch(sys.stdin.buffer)
