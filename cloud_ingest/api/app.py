"""The API as an ASGI application: composition only."""

from datetime import timedelta
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp

from cloud_ingest.api import (
    aggregation,
    alerts,
    backtest,
    current,
    desired,
    devices,
    explanation,
    gaps,
    health,
    history,
    liveness,
    locations,
    metrics,
    pages,
    places,
    problems,
    realtime,
    silences,
    statistics,
    summary,
    thresholds,
    write,
)
from cloud_ingest.api.heads import HeadAsGet
from cloud_ingest.api.hosts import LoopbackHosts
from cloud_ingest.api.streams import routes as stream_routes
from cloud_ingest.api.streams.streams import Streams
from cloud_ingest.api.writers import Writers
from cloud_ingest.config import Config
from cloud_ingest.store.pool import ReadPool
from telemetry_contract.version import __version__

_DESCRIPTION: Final = (
    "Reads the telemetry that edge devices sent, and keeps what people say of it. Times are RFC 3339, UTC, with"
    " milliseconds. Errors are application/problem+json and name the parameter. Unknown parameters are refused."
)


def create_app(config: Config, pool: ReadPool, writers: Writers, streams: Streams) -> ASGIApp:
    """The application. `pool` and `writers` must be open while it serves, and `streams` be closed before it ends."""
    app = FastAPI(
        title="Telemetry Bridge", description=_DESCRIPTION, version=__version__, docs_url=None, redoc_url=None
    )
    counts = statistics.Statistics(pool, streams)
    app.include_router(devices.router(pool))
    app.include_router(desired.router(pool))
    app.include_router(liveness.router(pool))
    app.include_router(gaps.router(pool))
    app.include_router(current.router(pool, timedelta(hours=config.retention.raw_hours)))
    app.include_router(realtime.router(pool, timedelta(hours=config.retention.raw_hours)))
    app.include_router(history.router(pool))
    app.include_router(summary.router(pool))
    app.include_router(aggregation.router(pool))
    app.include_router(metrics.router(pool))
    app.include_router(explanation.router(pool))  # before the addresses of single thresholds
    app.include_router(thresholds.router(pool))
    app.include_router(backtest.router(pool))
    app.include_router(stream_routes.router(streams))  # before the addresses of single alerts
    app.include_router(alerts.router(pool))
    app.include_router(silences.router(pool))
    app.include_router(locations.router(pool))
    app.include_router(places.router(pool))
    app.include_router(write.router(writers, config))
    app.include_router(health.router(pool))
    app.include_router(statistics.router(counts))
    pages.install(app)
    problems.install(app)
    app.openapi = lambda: _description(app)  # type: ignore[method-assign] # FastAPI's documented way
    if config.api.listen.is_loopback:
        app.add_middleware(LoopbackHosts)
    app.add_middleware(statistics.CountRequests, statistics=counts)
    return pages.SecurityHeaders(HeadAsGet(app))


def _description(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description with our errors in place of its own."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = schema["components"]["schemas"]
        components.pop("HTTPValidationError", None)
        components.pop("ValidationError", None)
        components |= problems.schemas()
        for operations in schema["paths"].values():
            for operation in operations.values():
                problems.describe(operation)
        app.openapi_schema = schema
    return app.openapi_schema
