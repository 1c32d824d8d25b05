"""A POST to an address that people configured, which must not become a way into the cloud's own network.

The host name is resolved once, each address is judged, and the connection goes to the very address that was judged, so
that a name server can't answer differently the second time (DNS rebinding). Redirections are not followed.
"""

import http.client
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from cloud_ingest.alerts.notify.notifier import DeliveryFailed, DeliveryRefused
from telemetry_contract.version import __version__

TIMEOUT_SECONDS: Final = 10.0
_MAX_ANSWER_BYTES: Final = 10_000
_SHOWN_CHARACTERS: Final = 200
_LONGEST_RETRY_AFTER_SECONDS: Final = 3_600.0
# Client errors that may pass: timeout, too early, too many requests.
_MAY_PASS: Final = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Target:
    """Where to. `allow_private` lets it lie in a private, loopback, link-local or otherwise special network."""

    url: str
    allow_private: bool = False

    @property
    def shown(self) -> str:
        """Scheme, host and port alone: a path or a query may hold a token."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def problem_of(url: str) -> str | None:
    """What is wrong with a URL to post to, for the one who wrote it; None where nothing is."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        return "must be a URL like https://host.example/path"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or password"
    if not url.isascii() or any(character <= " " for character in url):
        return "must hold no spaces, control characters or letters beyond ASCII; write them percent-encoded"
    return None


def post(
    target: Target,
    body: bytes,
    headers: Mapping[str, str],
    *,
    resolve: Callable[[str, int], list[str]] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> None:
    """Returns once it was answered with a 2xx status.

    Raises DeliveryRefused for an address that is not allowed and for an answer that will not change, DeliveryFailed
    for everything else.
    """
    parts = urlsplit(target.url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        addresses = (resolve or _resolve)(host, port)
        address = _judged(addresses, host, allow_private=target.allow_private)
        connection = _connect(parts, host, address, port, timeout_seconds)
        try:
            connection.request("POST", _path(parts), body, {"User-Agent": f"telemetry-bridge/{__version__}", **headers})
            answer = connection.getresponse()
            text = answer.read(_MAX_ANSWER_BYTES).decode(errors="replace").strip()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as exc:
        raise DeliveryFailed(f"{target.shown}: {str(exc) or type(exc).__name__}") from exc
    _check(answer, target, text)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet at large."""
    found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        # An IPv4 address in another coat: mapped, 6to4, Teredo, or behind a translator (RFC 6052)
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and int(found) >> 32 == 0x0064_FF9B << 64:
            inner = IPv4Address(int(found) & 0xFFFF_FFFF)
        if inner is not None:
            found = inner
    return found.is_global and not (found.is_private or found.is_multicast or found.is_reserved)


def _resolve(host: str, port: int) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _judged(addresses: list[str], host: str, *, allow_private: bool) -> str:
    """The first address; none may be forbidden, or who answers for the name could choose."""
    if not addresses:
        raise DeliveryFailed(f"{host} has no address")
    for address in addresses:
        if not allow_private and not is_public(address):
            raise DeliveryRefused(
                f"{host} is {address}, which is not in the internet; set allow_private where that is meant"
            )
    return addresses[0]


def _connect(
    parts: SplitResult, host: str, address: str, port: int, timeout_seconds: float
) -> http.client.HTTPConnection:
    raw = socket.create_connection((address, port), timeout_seconds)
    try:
        if parts.scheme == "https":
            raw = ssl.create_default_context().wrap_socket(raw, server_hostname=host)
    except BaseException:
        raw.close()
        raise
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=timeout_seconds)
    connection.sock = raw
    return connection


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _check(answer: http.client.HTTPResponse, target: Target, text: str) -> None:
    status = answer.status
    if 200 <= status < 300:  # noqa: PLR2004 - RFC 9110, section 15
        return
    why = f"{target.shown} answered {status} {answer.reason}: {text[:_SHOWN_CHARACTERS]}".rstrip(": ")
    if 300 <= status < 500 and status not in _MAY_PASS:  # noqa: PLR2004
        raise DeliveryRefused(why)
    raise DeliveryFailed(why, _retry_after(answer.getheader("Retry-After")))


def _retry_after(header: str | None) -> float | None:
    """Seconds, from either form of the header (RFC 9110, section 10.2.3)."""
    if header is None:
        return None
    try:
        seconds = (
            float(header) if header.isdigit() else (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        )
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_SECONDS)
