"""The two feeds that can be followed: changes of alerts, and devices with new values."""

from datetime import UTC, datetime, timedelta
from itertools import starmap
from typing import Any, Final, Protocol

import msgspec

from cloud_ingest.api.streams.event import Event
from cloud_ingest.api.times import format_time
from cloud_ingest.store.database import Connection
from cloud_ingest.store.feed import AlertEvent, LiveEvent, Position, alert_events, live_events
from cloud_ingest.store.rollup.state import from_ms

_MS: Final = "_ms"


class Feed(Protocol):
    """Something that can be read from any position on. `read` is called from any thread, one call at a time or more."""

    interval_seconds: float  # between two looks at the database while nothing happens
    page: int  # how much is read at once
    kept: int  # how much of the newest stays in memory

    def read(self, connection: Connection, after: Position) -> list[Event]:
        """At most a page of what is behind the position, in order. Raises StoreError."""


class AlertFeed:
    """Each change of each alert."""

    interval_seconds = 0.25
    page = 500
    kept = 2_000

    def read(self, connection: Connection, after: Position) -> list[Event]:
        """See Feed."""
        return [_alert(event) for event in alert_events(connection, after, self.page)]


class LiveFeed:
    """Each device with something new, as it is then: who is slow sees fewer steps, and always the last."""

    interval_seconds = 1.0
    page = 200
    kept = 500

    def __init__(self, raw_kept: timedelta) -> None:
        self._raw_kept = raw_kept

    def read(self, connection: Connection, after: Position) -> list[Event]:
        """See Feed."""
        since = datetime.now(UTC) - self._raw_kept
        return [_live(event) for event in live_events(connection, after, self.page, since)]


def _alert(event: AlertEvent) -> Event:
    content = {"alert": event.alert_id, "kind": event.kind, "at": format_time(event.created_at)}
    return Event(event.position, event.kind, content | _with_times(event.content))


def _with_times(content: Any) -> Any:
    """What was written for programs of ours, with each `x_ms` as a time `x`."""
    if isinstance(content, list):
        return [_with_times(it) for it in content]
    if not isinstance(content, dict):
        return content
    return dict(starmap(_field, content.items()))


def _field(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith(_MS) and isinstance(value, int):
        return name.removesuffix(_MS), format_time(from_ms(value))
    return name, _with_times(value)


def _live(event: LiveEvent) -> Event:
    items = [
        {
            "metric": it.metric,
            "labels": msgspec.Raw(it.labels.encode()),
            "unit": it.unit,
            "time": format_time(it.time),
            "value": it.value,
        }
        for it in event.values
    ]
    return Event(event.position, "device", {"device": event.device, "site": event.site, "items": items})
