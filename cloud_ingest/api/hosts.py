"""Refuses requests for another host name while the API listens on loopback.

A page of any website can point its own name at 127.0.0.1 (DNS rebinding) and then read what listens there from a
visitor's browser; the name in the Host header gives it away.
"""

from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from cloud_ingest.api.problems import problem
from cloud_ingest.config import is_loopback


class LoopbackHosts:
    """ASGI middleware: 403 unless the Host header names this machine."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] == "http" and not _names_loopback(scope):
            detail = "the Host header must name this machine (localhost, 127.0.0.1 or [::1]); others need --insecure"
            await problem(HTTPStatus.FORBIDDEN, detail)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _names_loopback(scope: Scope) -> bool:
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    return len(hosts) == 1 and is_loopback(host_of(hosts[0]))


def host_of(header: str) -> str:
    """The host of a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
