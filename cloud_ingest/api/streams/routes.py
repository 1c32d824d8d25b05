"""GET /api/v1/alerts/stream and GET /api/v1/live/stream."""

from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Response
from pydantic import Field

from cloud_ingest.alerts.definition import LocationPath
from cloud_ingest.alerts.precedence import glob, is_below
from cloud_ingest.api.parameters import Devices, MetricGlob, Parameters, Site, once_each
from cloud_ingest.api.problems import RETRY_AFTER_SECONDS, InvalidParameter
from cloud_ingest.api.streams.event import Event
from cloud_ingest.api.streams.event_stream import MEDIA_TYPE, EventStream
from cloud_ingest.api.streams.follower import Follower
from cloud_ingest.api.streams.streams import Streams
from cloud_ingest.store.feed import Position

_RESET: Final = b"event: reset\ndata: {}\n\n"
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.OK.value: {
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
        "description": "Events with an id each, until the client leaves.",
    }
}


class _StreamQuery(Parameters):
    device: Devices = Field(default=[])
    site: Site | None = None
    last_event_id: Annotated[
        str | None,
        Field(max_length=64, description="As the header `Last-Event-ID`, for the first connection of a browser."),
    ] = None


class AlertStreamQuery(_StreamQuery):
    """The parameters of /api/v1/alerts/stream."""

    location: Annotated[LocationPath | None, Field(description="This one and all below it.")] = None

    def chosen(self, event: Event) -> Event | None:
        """The event, where the client wants it."""
        about = event.content
        wanted = (
            (not self.device or about.get("device") in self.device)
            and self.site in {None, about.get("site")}
            and (self.location is None or is_below(about.get("location"), self.location))
        )
        return event if wanted else None


class LiveStreamQuery(_StreamQuery):
    """The parameters of /api/v1/live/stream."""

    metric: MetricGlob | None = None

    def chosen(self, event: Event) -> Event | None:
        """What of the event the client wants."""
        about = event.content
        if (self.device and about["device"] not in self.device) or self.site not in {None, about["site"]}:
            return None
        if self.metric is None:
            return event
        wanted = glob(self.metric)
        items = [item for item in about["items"] if wanted.fullmatch(item["metric"])]
        return Event(event.position, event.kind, {**about, "items": items}) if items else None


LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", max_length=64, description="The id of the last event seen: goes on behind it."),
]


def router(streams: Streams) -> APIRouter:
    """The addresses."""
    routes = APIRouter(prefix="/api/v1", dependencies=[Depends(once_each)])

    @routes.get("/alerts/stream", response_class=Response, responses=_RESPONSES, tags=["alerts"])
    async def alerts(query: Annotated[AlertStreamQuery, Query()], last_event_id: LastEventId = None) -> Response:
        """Changes of alerts as they happen, in order, each once: none is missed by who comes back with the last id."""
        return await _stream(streams, streams.alerts, query, last_event_id)

    @routes.get("/live/stream", response_class=Response, responses=_RESPONSES, tags=["metrics"])
    async def live(query: Annotated[LiveStreamQuery, Query()], last_event_id: LastEventId = None) -> Response:
        """Devices that have sent something new, about once a second, each with the newest values of all its series."""
        return await _stream(streams, streams.live, query, last_event_id)

    return routes


async def _stream(
    streams: Streams, follower: Follower, query: AlertStreamQuery | LiveStreamQuery, header: str | None
) -> Response:
    after = _position("Last-Event-ID", header) or _position("last_event_id", query.last_event_id)
    start, was_reset = await follower.start(after)
    if streams.closed or streams.is_full:
        why = "this process is about to stop" if streams.closed else f"all {streams.limit} streams are taken"
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, why, {"Retry-After": str(RETRY_AFTER_SECONDS)})
    return EventStream(follower, start, query.chosen, streams.opened(), greeting=_RESET if was_reset else b"")


def _position(field: str, text: str | None) -> Position | None:
    """Where a client has come to. Raises InvalidParameter."""
    if not text:
        return None
    try:
        return Position.parse(text)
    except ValueError as exc:
        raise InvalidParameter(field, str(exc)) from exc
