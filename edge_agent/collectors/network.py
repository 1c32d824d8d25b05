"""Network interfaces."""

from fnmatch import fnmatch
from typing import Any

import psutil

from edge_agent.collectors.base import series
from edge_agent.config import Network as NetworkConfig

_COUNTERS = {
    "network_receive_bytes_total": "bytes_recv",
    "network_transmit_bytes_total": "bytes_sent",
    "network_receive_packets_total": "packets_recv",
    "network_transmit_packets_total": "packets_sent",
    "network_receive_errors_total": "errin",
    "network_transmit_errors_total": "errout",
    "network_receive_dropped_total": "dropin",
    "network_transmit_dropped_total": "dropout",
}
_BYTES_A_SECOND = 1_000_000 / 8  # in a megabit a second


class Network:
    """`system` is psutil, or what answers like it."""

    def __init__(self, config: NetworkConfig, *, system: Any = psutil) -> None:
        self._config = config
        self._system = system

    def collect(self) -> dict[str, float | None]:
        """The counters of each interface, whether it has a link, and how fast that is where the driver tells."""
        found: dict[str, float | None] = {}
        links = self._system.net_if_stats()
        # Without `nowrap` psutil would keep adding up a counter that has begun again, and grow with every interface.
        for device, counts in self._system.net_io_counters(pernic=True, nowrap=False).items():
            if any(fnmatch(device, pattern) for pattern in self._config.exclude_interfaces):
                continue
            for metric, field in _COUNTERS.items():
                found[series(metric, device=device)] = getattr(counts, field)
            if device in links:
                speed = links[device].speed * _BYTES_A_SECOND  # 0: not known
                found[series("network_up", device=device)] = float(links[device].isup)
                found[series("network_speed_bytes_per_second", device=device)] = speed or None
        return found
