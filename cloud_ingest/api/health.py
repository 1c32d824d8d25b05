"""GET /health, /readiness and /liveness, for people and for what starts and stops processes."""

import time
from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.times import format_time
from cloud_ingest.store.devices import totals
from cloud_ingest.store.migrate import require_current
from cloud_ingest.store.pool import ReadPool
from telemetry_contract.version import __version__


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Ready(BaseModel):
    """The process can serve requests."""

    status: Literal["ready"]


class Health(BaseModel):
    """The system at a glance."""

    status: Literal["ok"]
    version: str
    uptime_seconds: float = Field(description="Of this API process.")
    devices: int
    readings: int = Field(description="Readings stored by the system so far.")
    newest_reading: datetime | None = Field(description="The time of the newest stored reading.")


def router(pool: ReadPool) -> APIRouter:
    """The addresses, looking at the database through `pool`."""
    routes = APIRouter(tags=["health"])
    started = time.monotonic()

    @routes.get("/liveness", response_model=Alive)
    async def liveness(request: Request) -> Response:
        """Whether this process answers; nothing else is asked, and no thread is needed."""
        return json_answer(request, {"status": "ok"})

    @routes.get("/readiness", response_model=Ready)
    def readiness(request: Request) -> Response:
        """Whether the database can be reached and has the schema of this version; 503 otherwise."""
        with pool.connection() as connection:
            require_current(connection)
        return json_answer(request, {"status": "ready"})

    @routes.get("/health", response_model=Health)
    def health(request: Request) -> Response:
        """What the system holds; 503 under the same conditions as /readiness."""
        with pool.connection() as connection:
            require_current(connection)
            sums = totals(connection)
        newest = None if sums.newest_reading is None else format_time(sums.newest_reading)
        content = {
            "status": "ok",
            "version": __version__,
            "uptime_seconds": round(time.monotonic() - started, 3),
            "devices": sums.devices,
            "readings": sums.readings,
            "newest_reading": newest,
        }
        return json_answer(request, content)

    return routes
