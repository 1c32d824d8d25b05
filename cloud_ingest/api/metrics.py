"""GET /api/v1/metrics."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from cloud_ingest.api.answers import json_answer
from cloud_ingest.api.paging import Cursor, decode_cursor, encode_cursor
from cloud_ingest.api.parameters import Devices, MetricGlob, Parameters, Site, once_each
from cloud_ingest.store.metrics import MetricRow, list_metrics
from cloud_ingest.store.pool import ReadPool
from telemetry_contract.metrics import CATALOGUE, kind_of


class StoredMetric(BaseModel):
    """A metric that some device has sent."""

    metric: str
    kind: Literal["gauge", "counter"] = Field(description="A counter only grows but for resets: ask for its rate.")
    unit: str = Field(description="The base unit; empty where the metric counts things.")
    help: str | None = Field(description="What it measures; null where it is none of our own collectors'.")
    labels: dict[str, list[str]] = Field(
        description="By which labels its series differ: the first 100 values of each, ordered."
    )
    series: int = Field(description="How many series there are, of all devices asked for.")
    devices: int = Field(description="How many of them have sent it.")


class MetricPage(BaseModel):
    """Metrics by name."""

    items: list[StoredMetric]
    next: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class MetricQuery(Parameters):
    """The parameters of /api/v1/metrics."""

    device: Devices = Field(default=[])
    metric: MetricGlob | None = None
    site: Site | None = None
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    cursor: Cursor = None


def router(pool: ReadPool) -> APIRouter:
    """The address, reading through `pool`."""
    routes = APIRouter(prefix="/api/v1", dependencies=[Depends(once_each)])

    @routes.get("/metrics", response_model=MetricPage, tags=["metrics"])
    def metrics(request: Request, query: Annotated[MetricQuery, Query()]) -> Response:
        """The metrics that were ever sent, by name: kind, unit, meaning, labels."""
        after = None if query.cursor is None else decode_cursor(query.cursor, 1)[0]
        with pool.connection() as connection:
            rows = list_metrics(
                connection,
                metric=query.metric,
                devices=query.device,
                site=query.site,
                after=after,
                limit=query.limit + 1,
            )
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        next_ = encode_cursor(rows[-1].metric) if more else None
        return json_answer(request, {"items": [_item(row) for row in rows], "next": next_})

    return routes


def _item(row: MetricRow) -> dict[str, object]:
    known = CATALOGUE.get(row.metric)
    return {
        "metric": row.metric,
        "kind": kind_of(row.metric).value,
        "unit": row.unit,
        "help": None if known is None else known.help,
        "labels": row.labels,
        "series": row.series,
        "devices": row.devices,
    }
