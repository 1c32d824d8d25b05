"""/api/v1/alerts: what is wrong now, what was, and who knows of it."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud_ingest.alerts.definition import LocationPath, Text
from cloud_ingest.api.alert_items import Alert, alert_item, alerts_csv
from cloud_ingest.api.answers import answer, json_answer
from cloud_ingest.api.changes import NOT_FOUND
from cloud_ingest.api.formats import CSV_MEDIA_TYPE, Format, accepted
from cloud_ingest.api.paging import Cursor, decode_cursor, encode_cursor
from cloud_ingest.api.parameters import Metric, Time, once_each
from cloud_ingest.api.problems import InvalidParameter, problem
from cloud_ingest.api.selection import LABEL_PARAMETER, Selection, Zone, window_between
from cloud_ingest.store.alerts import (
    AlertFilter,
    AlertPosition,
    AlertRow,
    AlertState,
    acknowledge,
    get_alert,
    open_alerts,
    past_alerts,
)
from cloud_ingest.store.database import Connection
from cloud_ingest.store.history import Window
from cloud_ingest.store.pool import ReadPool
from cloud_ingest.store.silences import active_silences

_MAX_ID: Final = 2**63 - 1
_FIRST_DAY: Final = date(1970, 1, 2)
_LAST_DAY: Final = date(2999, 12, 31)


class AlertPage(BaseModel):
    """Episodes, those that began last first."""

    items: list[Alert]
    next: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class OpenState(StrEnum):
    """Which of the open episodes."""

    OPEN = "open"
    FIRING = "firing"
    UNKNOWN = "unknown"


class SeverityName(StrEnum):
    """How bad."""

    WARNING = "warning"
    CRITICAL = "critical"


_STATES: Final = {
    OpenState.OPEN: (AlertState.FIRING, AlertState.UNKNOWN),
    OpenState.FIRING: (AlertState.FIRING,),
    OpenState.UNKNOWN: (AlertState.UNKNOWN,),
}


class _AlertSelection(Selection):
    """Which episodes; what is not a parameter of the address must be a `label.NAME`."""

    location: Annotated[LocationPath | None, Field(description="This one and all below it, as things are now.")] = None
    severity: SeverityName | None = None
    threshold: Annotated[Text | None, Field(max_length=128, description="The name of a threshold.")] = None
    metric: Metric | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    cursor: Cursor = None

    @property
    def filter(self) -> AlertFilter:
        """As the store takes it."""
        return AlertFilter(
            devices=self.device,
            site=self.site,
            location=self.location,
            severity=self.severity,
            threshold=self.threshold,
            metric=self.metric,
            labels=self.labels,
        )

    @property
    def after(self) -> AlertPosition | None:
        """Behind what the page begins. Raises InvalidParameter."""
        if self.cursor is None:
            return None
        start_at, number = decode_cursor(self.cursor, 2)
        try:
            return AlertPosition(datetime.fromisoformat(start_at).astimezone(UTC), min(int(number), _MAX_ID))
        except (ValueError, OverflowError) as exc:
            raise InvalidParameter("cursor", "must be the `next` of an earlier answer") from exc


class AlertQuery(_AlertSelection):
    """The parameters of /api/v1/alerts."""

    state: Annotated[OpenState, Field(description="open: firing or unknown.")] = OpenState.OPEN


class AlertHistoryQuery(_AlertSelection):
    """The parameters of /api/v1/alerts/history."""

    date_: Annotated[
        date | None,
        Field(
            alias="date", ge=_FIRST_DAY, le=_LAST_DAY, description="What began on this day. Instead of start and end."
        ),
    ] = None
    tz: Annotated[Zone | None, Field(description="In which zone `date` is a day; default: UTC.")] = None
    start: Annotated[Time | None, Field(description="What began from then on, inclusive; default: a day ago.")] = None
    end: Annotated[Time | None, Field(description="To then, exclusive; default: now.")] = None
    format: Annotated[Format | None, Field(description="Default: what the Accept header prefers, else json.")] = None


class Acknowledgement(BaseModel):
    """Who knows of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Annotated[Text, Field(min_length=1, max_length=200, examples=["kim"])]
    note: Annotated[Text, Field(max_length=1_000)] | None = None


Number = Annotated[int, Path(ge=1, le=_MAX_ID)]

_CSV: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.OK.value: {
        "content": {CSV_MEDIA_TYPE: {"schema": {"type": "string"}}},
        "description": "As CSV, a `Link` header with `rel=next` leads to the next page.",
    }
}


def router(pool: ReadPool) -> APIRouter:
    """The addresses, reading and writing through `pool`."""
    routes = APIRouter(prefix="/api/v1/alerts", tags=["alerts"], dependencies=[Depends(once_each)])

    @routes.get("", response_model=AlertPage, openapi_extra=LABEL_PARAMETER)
    def alerts(request: Request, query: Annotated[AlertQuery, Query()]) -> Response:
        """The episodes that are open, those that began last first."""
        after = query.after
        with pool.connection() as connection:
            rows = open_alerts(
                connection, query.filter, states=_STATES[query.state], after=after, limit=query.limit + 1
            )
            page = _page(connection, rows, query.limit)
        return json_answer(request, page)

    @routes.get("/history", response_model=AlertPage, responses=_CSV, openapi_extra=LABEL_PARAMETER)
    def history(request: Request, query: Annotated[AlertHistoryQuery, Query()]) -> Response:
        """The episodes that began on a day or in a time, open or not, the last first."""
        window = _window(query, datetime.now(UTC))
        after = query.after
        with pool.connection() as connection:
            rows = past_alerts(connection, query.filter, window, after=after, limit=query.limit + 1)
            page = _page(connection, rows, query.limit)
        if (query.format or accepted(request.headers.get("accept", ""))) is not Format.CSV:
            return json_answer(request, page)
        response = answer(request, alerts_csv(page["items"]), CSV_MEDIA_TYPE)
        if page["next"] is not None:
            response.headers["Link"] = f'<{request.url.include_query_params(cursor=page["next"])}>; rel="next"'
        return response

    @routes.get("/{id}", response_model=Alert, responses=NOT_FOUND)
    def alert(request: Request, number: Annotated[Number, Path(alias="id")]) -> Response:
        """One episode."""
        with pool.connection() as connection:
            return _answer(request, connection, get_alert(connection, number), number)

    @routes.post("/{id}/acknowledge", response_model=Alert, responses=NOT_FOUND)
    def acknowledged(request: Request, number: Annotated[Number, Path(alias="id")], said: Acknowledgement) -> Response:
        """Say that somebody knows of an episode. The first one stays: again changes nothing, and shows who it was."""
        with pool.writing() as connection:
            return _answer(request, connection, acknowledge(connection, number, said.by, said.note), number)

    return routes


def _window(query: AlertHistoryQuery, now: datetime) -> Window:
    if query.date_ is None:
        if query.tz is not None:
            raise InvalidParameter("tz", "needs a date")
        start = timedelta(days=-1) if query.start is None else query.start
        return window_between(start, timedelta(0) if query.end is None else query.end, now)
    for name in ("start", "end"):
        if getattr(query, name) is not None:
            raise InvalidParameter(name, "can't be given with a date")
    return day_of(query.date_, query.tz or ZoneInfo("UTC"))


def day_of(day: date, zone: ZoneInfo) -> Window:
    """From midnight to midnight there; of a midnight that the clock skips, the moment at which it does."""
    # PEP 495: with fold=0 a time that is skipped is read by the offset from before
    start, end = (datetime.combine(it, time(), zone).astimezone(UTC) for it in (day, day + timedelta(days=1)))
    return Window(start, end)


def _page(connection: Connection, rows: Sequence[AlertRow], limit: int) -> dict[str, Any]:
    silences = active_silences(connection)
    now = datetime.now(UTC)
    more, rows = len(rows) > limit, rows[:limit]
    return {
        "items": [alert_item(row, silences, now) for row in rows],
        "next": encode_cursor(rows[-1].start_at.isoformat(), str(rows[-1].alert_id)) if more else None,
    }


def _answer(request: Request, connection: Connection, row: AlertRow | None, number: int) -> Response:
    if row is None:
        return problem(HTTPStatus.NOT_FOUND, f"there is no alert {number}")
    return json_answer(request, alert_item(row, active_silences(connection), datetime.now(UTC)))
