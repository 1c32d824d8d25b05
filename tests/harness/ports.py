"""Free TCP ports for servers that are killed and started again on the same port.

They are taken from below the range that the kernel gives to outgoing connections. A port from inside that range
could, while its server is down, become the local end of a client's connection: then the server can't come back, or
the client that retries connects to itself.
"""

import random
import socket
from pathlib import Path

_LOWEST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listens and no outgoing connection starts."""
    highest = _first_ephemeral() - 1
    while True:
        port = random.randint(_LOWEST, highest)  # noqa: S311 - nothing secret
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _first_ephemeral() -> int:
    try:
        first = int(_EPHEMERAL.read_text().split()[0])
    except OSError:
        first = 32_768
    return first if first > _LOWEST + 1_000 else 32_768
