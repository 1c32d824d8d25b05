"""What the API process tells Prometheus about itself, at /metrics."""

import time
from collections.abc import Iterator
from http import HTTPStatus

from fastapi import APIRouter, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_ingest.api.streams.streams import Streams
from cloud_ingest.store.pool import ReadPool

_BUCKET_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 30)


class Statistics:
    """The metrics of one API process."""

    def __init__(self, pool: ReadPool, streams: Streams) -> None:
        self.registry = CollectorRegistry()
        open_streams = Gauge("api_streams", "Event streams that are open.", registry=self.registry)
        open_streams.set_function(lambda: streams.count)
        self.requests = Counter(
            "api_requests",
            "Requests answered, by method, route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "api_request_seconds",
            "Time from a request to the end of its answer.",
            ["route"],
            buckets=_BUCKET_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_PoolCollector(pool))
        ProcessCollector(registry=self.registry)


class CountRequests:
    """ASGI middleware that counts and times every request."""

    def __init__(self, app: ASGIApp, statistics: Statistics) -> None:
        self._app = app
        self._statistics = statistics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value
        started = time.perf_counter()

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_status)
        finally:
            # Routes are few; addresses that nobody serves are without number, so they share one name.
            route = getattr(scope.get("route"), "path", "none")
            self._statistics.requests.labels(_method(scope["method"]), route, str(status)).inc()
            self._statistics.seconds.labels(route).observe(time.perf_counter() - started)


class _PoolCollector(Collector):
    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """The connections of the pool, now."""
        counts = self._pool.statistics()
        size, idle = counts.get("pool_size", 0), counts.get("pool_available", 0)
        connections = GaugeMetricFamily(
            "api_database_connections", "Connections to the database, by state.", labels=["state"]
        )
        connections.add_metric(["idle"], idle)
        connections.add_metric(["used"], size - idle)
        yield connections
        yield GaugeMetricFamily(
            "api_database_waiting_requests",
            "Requests that wait for a connection to the database.",
            value=counts.get("requests_waiting", 0),
        )


def router(statistics: Statistics) -> APIRouter:
    """GET /metrics."""
    routes = APIRouter(tags=["health"])

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        """The API process in Prometheus' text format; not the telemetry that it serves."""
        return Response(generate_latest(statistics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


def _method(name: str) -> str:
    """Methods are few too, but a client may invent some."""
    return name if name in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "other"
