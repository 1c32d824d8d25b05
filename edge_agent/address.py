"""Where a server listens."""

from ipaddress import ip_address
from typing import Final, NamedTuple, Self

_LOOPBACK_NAMES: Final = frozenset({"localhost", "ip6-localhost"})
_MAX_PORT: Final = 65_535


class Address(NamedTuple):
    """A host name or an IP address, without brackets, and a port; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What `HOST:PORT` says, an IPv6 address in brackets; None where it is not that."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        plausible = (
            colon and host and host.isprintable() and not set(host) & set(" []@/") and (bracketed or ":" not in host)
        )
        if not plausible or not (port.isascii() and port.isdigit()) or len(port) > len(str(_MAX_PORT)):
            return None
        return cls(host, int(port)) if int(port) <= _MAX_PORT else None


def is_loopback(host: str) -> bool:
    """Whether a host name or address without brackets means this machine alone."""
    if host.lower() in _LOOPBACK_NAMES:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
