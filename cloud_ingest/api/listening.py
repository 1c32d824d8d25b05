"""The address that the API listens on."""

import socket

from cloud_ingest.config import Address
from cloud_ingest.errors import CloudError, ConfigError


def require_loopback(address: Address, *, insecure: bool) -> None:
    """Returns where only this machine can reach the address, or someone said that more is meant.

    Raises ConfigError.
    """
    if not address.is_loopback and not insecure:
        raise ConfigError(
            f"api.listen {address} can be reached from other machines, and this API asks nobody for a key:"
            " listen on 127.0.0.1, or say --insecure if the network is yours alone"
        )


def listen(address: Address) -> socket.socket:
    """A socket that listens there. Raises CloudError where that can't be had."""
    try:
        family, *_, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(place[:2], family=family, backlog=256)
        # Accepted sockets take it over. asyncio sets it only for those made for TCP by name, and without it each small
        # answer waits 40 ms for the client to acknowledge its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).partition(" (while")[0]  # asyncio and socket append the address again
        raise CloudError(
            f"cannot listen on {address}: {reason}; choose another address with api.listen (CLOUD_INGEST_API__LISTEN)"
        ) from exc
    return listener
