"""Readings that devices nearby hand over by HTTP.

`POST /write`, or `/api/v2/write` as clients of InfluxDB have it: a JSON object of series key -> number, a tick as it is
on the wire, or points in InfluxDB line protocol. Each tick holds the newest value of every series since the tick before
and carries the time of the tick, as timestamps are of clocks that the agent knows nothing about.
"""

import hmac
import json
import logging
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from edge_agent.collectors.formats import READERS, Found
from edge_agent.collectors.inbox import Inbox
from edge_agent.config import HttpInput as HttpInputConfig
from edge_agent.errors import CollectorError, ConfigError
from edge_agent.local_http import Bounds, LocalServer, Request, Response

KEY: Final = "collectors.http_input.listen"
PATHS: Final = ("/write", "/api/v2/write")
_TOKEN_SCHEMES: Final = ("Bearer ", "Token ")

logger = logging.getLogger(__name__)


class HttpInput:
    """Listens from the first `collect` on. `rejected` is told of entries left out, `superseded` of values replaced."""

    def __init__(
        self, config: HttpInputConfig, rejected: Callable[[int], None], superseded: Callable[[int], None]
    ) -> None:
        self._config = config
        self._rejected = rejected
        self._superseded = superseded
        self._inbox = Inbox()
        self._lock = threading.Lock()  # guards the two below
        self._closed = False
        self._server: LocalServer | None = None

    def collect(self) -> dict[str, float | None]:
        """What came since the last call; raises CollectorError while it can't listen, and tries again each time."""
        with self._lock:
            if self._server is None and not self._closed:
                self._server = self._listening()
        return self._inbox.take()

    def close(self) -> None:
        """Listen no more."""
        with self._lock:
            self._closed = True
            if self._server is not None:
                self._server.close()

    def _listening(self) -> LocalServer:
        bounds = Bounds(body_bytes=self._config.max_body_bytes)
        try:
            server = LocalServer(KEY, self._config.listen, self.answer, bounds)
        except ConfigError as exc:
            raise CollectorError(str(exc)) from exc
        server.start()
        logger.info("collector http_input listens on %s", server.address)
        return server

    def answer(self, request: Request) -> Response:
        """Take what a request hands over; called from several threads at once."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            values, unusable = read(request.body)
        except CollectorError as exc:
            self._rejected(1)
            return Response(HTTPStatus.BAD_REQUEST, f"you {exc}\n")
        superseded = self._inbox.put((values, unusable))
        if superseded:
            self._superseded(superseded)
        if unusable:
            self._rejected(len(unusable))
            left_out = f"{len(unusable)} entries were left out, the others taken; the first: {unusable[0]}\n"
            return Response(HTTPStatus.BAD_REQUEST, left_out)
        return Response(HTTPStatus.NO_CONTENT, "")

    def _refusal(self, request: Request) -> Response | None:
        if request.path not in PATHS:
            return Response(HTTPStatus.NOT_FOUND, f"there are {' and '.join(PATHS)}\n")
        if request.method != "POST":
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, "there is only POST\n", headers={"Allow": "POST"})
        try:
            token = self._config.token()
        except ConfigError as exc:
            logger.warning("%s", exc)
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, "the agent can't read its token\n")
        return _without_token(request) if token is None else _with_token(request, token)


def _without_token(request: Request) -> Response | None:
    # A page of any website can have a visitor's browser send this, but not without saying so.
    if "Origin" in request.headers:
        return Response(HTTPStatus.FORBIDDEN, "pages of websites may not write here\n")
    return None


def _with_token(request: Request, token: str) -> Response | None:
    given = request.headers.get("Authorization", "")
    scheme = next((it for it in _TOKEN_SCHEMES if given.startswith(it)), None)
    if scheme is not None and hmac.compare_digest(given.removeprefix(scheme).strip().encode(), token.encode()):
        return None
    headers = {"WWW-Authenticate": "Bearer"}
    return Response(HTTPStatus.UNAUTHORIZED, "Authorization must be Bearer and the token\n", headers=headers)


def read(body: bytes) -> Found:
    """What a body tells; a JSON object is told from line protocol by its first character. Raises CollectorError."""
    if not body.lstrip().startswith(b"{"):
        return READERS["influx"](body, "sent")
    return READERS["json"](_values_of_tick(body) or body, "sent")


def _values_of_tick(body: bytes) -> bytes | None:
    """The values alone where this is a tick as on the wire: an object with `v` and an object of `values`."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None  # which the reader says better
    values = found.get("values") if "v" in found else None
    return json.dumps(values).encode() if isinstance(values, dict) else None
