"""The guard: a process that ends the others when `telemetry-bridge up` is gone without having done so itself.

It reads from a pipe whose other end only `up` holds. When that end closes, by a clean end as by SIGKILL, it ends what
still runs of what it was told of, the youngest first. A closed pipe is noticed on every system, also on behalf of
processes that changed their user, for which Linux clears a parent-death signal (prctl(2), PR_SET_PDEATHSIG).
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable

import psutil

from telemetry_bridge.ending import Endable, Ending, end, is_gone
from telemetry_bridge.errors import CannotStart
from telemetry_bridge.logs import PartLog

_LAST_WAIT_SECONDS = 5.0


class Guard:
    """The running guard, as `up` sees it."""

    def __init__(self, log: PartLog) -> None:
        # -P: what lies in the working directory must not shadow a module.
        command = [sys.executable, "-P", "-m", "telemetry_bridge.guard"]
        with log.open_fresh() as output:
            try:
                self._popen = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as exc:
                raise CannotStart(f"can't execute {sys.executable} for the guard: {exc.strerror}") from exc

    @property
    def endable(self) -> Endable:
        """For a later run that finds it still at work: let it finish, all its patience with the others included."""
        return Endable("guard", psutil.Process(self._popen.pid), Ending(0, grace_seconds=60))

    @property
    def is_running(self) -> bool:
        """Whether it still guards."""
        return self._popen.poll() is None

    def watch(self, endable: Endable) -> None:
        """Guard this process from now on; without effect where the guard itself is gone."""
        pipe = self._popen.stdin
        if pipe is None:
            return
        ending = endable.ending
        order = {"pid": endable.process.pid, "signal": int(ending.signal), "grace_seconds": ending.grace_seconds}
        with contextlib.suppress(BrokenPipeError):
            pipe.write(json.dumps({"name": endable.name, **order}).encode() + b"\n")
            pipe.flush()

    def dismiss(self) -> None:
        """Let it go, once the others have ended; otherwise it stays until it has ended them."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.communicate(timeout=_LAST_WAIT_SECONDS)


def keep_watch(orders: Iterable[bytes]) -> None:
    """Read orders as `Guard.watch` writes them until there are no more, then end what runs, the youngest first."""
    watched: list[Endable] = []
    for line in orders:
        order = json.loads(line)
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(order["pid"])
            watched.append(Endable(order["name"], process, Ending(order["signal"], order["grace_seconds"])))
    for it in reversed(watched):
        if not is_gone(it.process):
            sys.stdout.write(f"telemetry-bridge is gone; ending {it.name} (process {it.process.pid})\n")
            sys.stdout.flush()
            end(it.process, it.ending)


if __name__ == "__main__":
    keep_watch(sys.stdin.buffer)
