"""The pages for people: the live page at /, the API's description at /docs. Static files, nothing from elsewhere."""

from importlib.resources import files
from typing import Final

from fastapi import APIRouter, FastAPI, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What a page of ours may do: load its own files and ask its own API; no frames, no forms, no inline code.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

# address -> file beside the package, media type
_PAGES: Final = {
    "/": ("live.html", "text/html"),
    "/live.js": ("live.js", "text/javascript"),
    "/docs": ("docs.html", "text/html"),
    "/docs.js": ("docs.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def install(app: FastAPI) -> None:
    """Serves each page; they are not part of the API's description."""
    routes = APIRouter(include_in_schema=False)
    for address, (name, media_type) in _PAGES.items():
        _serve(routes, address, (files("cloud_ingest") / "dashboard" / name).read_bytes(), media_type)
    app.include_router(routes)


def _serve(routes: APIRouter, address: str, body: bytes, media_type: str) -> None:
    @routes.get(address)
    async def page() -> Response:
        return Response(body, media_type=media_type, headers={"Cache-Control": "no-cache"})


class SecurityHeaders:
    """ASGI middleware: every answer says what a browser may do with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self._app(scope, receive, with_headers)
