"""TCP connections by state."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from edge_agent.collectors.base import series
from edge_agent.errors import CollectorError

# The kernel's numbers of them (include/net/tcp_states.h), as /proc/net/tcp writes them.
_STATES = {
    "01": "established",
    "02": "syn_sent",
    "03": "syn_recv",
    "04": "fin_wait1",
    "05": "fin_wait2",
    "06": "time_wait",
    "07": "close",
    "08": "close_wait",
    "09": "last_ack",
    "0A": "listen",
    "0B": "closing",
}
_STATE_FIELD = 3  # of a line of /proc/net/tcp, see proc_net_tcp.txt of the kernel's documentation
_ALIKE = {"new_syn_recv": "syn_recv", "0C": "syn_recv"}


class Connections:
    """`root` is /proc/net, or a folder like it; where there is none, `system` (psutil) is asked."""

    def __init__(self, *, root: Path = Path("/proc/net"), system: Any = psutil) -> None:
        self._files = [root / "tcp", root / "tcp6"]
        self._system = system

    def collect(self) -> dict[str, float]:
        """How many there are in each state, also in those that none is in; listening sockets count too."""
        found = Counter(self._states())
        return {series("network_connections", state=state): float(found[state]) for state in _STATES.values()}

    def _states(self) -> Iterable[str]:
        # Reading the files costs a tenth of what psutil does, which looks for the process of each socket
        if self._files[0].exists():
            return self._from_files()
        return self._from_system()

    def _from_files(self) -> Iterator[str]:
        for file in self._files:
            try:
                lines = file.read_text(encoding="ascii").splitlines()[1:]
            except FileNotFoundError:  # a kernel without IPv6
                continue
            for line in lines:
                state = line.split()[_STATE_FIELD]
                yield _STATES.get(state) or _ALIKE.get(state, "")

    def _from_system(self) -> Iterator[str]:
        try:
            connections = self._system.net_connections(kind="tcp")
        except psutil.AccessDenied as exc:
            raise CollectorError("this system shows connections to administrators only") from exc
        for connection in connections:
            state = connection.status.lower()
            yield _ALIKE.get(state, state)
