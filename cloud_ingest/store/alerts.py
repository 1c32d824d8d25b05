"""Episodes as people look them up, and what people say of them. `alert_episodes` writes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from cloud_ingest.alerts.silence import About
from cloud_ingest.store.database import Connection
from cloud_ingest.store.history import Window


class AlertState(StrEnum):
    """How an episode stands: `unknown` is one that is open, and whose series has been silent for too long."""

    FIRING = "firing"
    UNKNOWN = "unknown"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An episode. Of an open one `peak` and `last` are as of now; `state` is an AlertState.

    `threshold` is the name that it had in the version that opened it, `location` where the series is now.
    """

    alert_id: int
    threshold_id: int
    version: int
    threshold: str | None
    severity: str
    state: str
    device: str
    site: str
    location: str | None
    metric: str
    labels: dict[str, str]
    unit: str
    level: float | None
    start_at: datetime
    fired_at: datetime
    ended_at: datetime | None
    end_reason: str | None
    peak: float | None
    peak_at: datetime | None
    last: float | None
    no_data: bool
    late: bool
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    note: str | None

    @property
    def about(self) -> About:
        """As a silence sees it."""
        return About(self.threshold, self.device, self.site, self.location, self.metric, self.labels)


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which episodes: all that is given must hold. `location` is a subtree, `threshold` a name."""

    devices: Sequence[str] = ()
    site: str | None = None
    location: str | None = None
    severity: str | None = None
    threshold: str | None = None
    metric: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AlertPosition:
    """Where a page ended."""

    start_at: datetime
    alert_id: int


# An open episode is unknown where its device is away, and by the rule that `alerts.machine.phase_at` has for all states
_EPISODES: Final = (
    "select alert_id, threshold_id, version, threshold, severity, state, device, site, location, metric, labels, unit,"
    " level, start_at, fired_at, ended_at, end_reason, peak, peak_at, last, no_data, late,"
    " acknowledged_at, acknowledged_by, note"
    " from (select alert.alert_id, alert.threshold_id, alert.version, judged.definition ->> 'name' as threshold,"
    "  alert.severity, case when alert.ended_at is not null then 'ended'"
    "   when alert.unknown_since is not null then 'unknown'"
    "   when judged.definition #>> '{no_data,then}' = 'unknown' and extract(epoch from now()) * 1000 -"
    "    alert_state.seen_ms > (judged.definition #>> '{no_data,after_seconds}')::float8 * 1000 then 'unknown'"
    "   else 'firing' end as state,"
    "  device.name as device, device.site, location.path::text as location, location.path as location_path,"
    "  series_key.metric, series_key.labels, series_key.unit,"
    "  case when not alert.no_data then (judged.definition ->> alert.severity)::float8 end as level,"
    "  alert.start_at, alert.fired_at, alert.ended_at,"
    "  alert.end_reason, coalesce(alert.peak, alert_state.peak) as peak,"
    "  coalesce(alert.peak_at, to_timestamp(alert_state.peak_ms / 1000.0)) as peak_at,"
    "  coalesce(alert.last_value, alert_state.last_value) as last, alert.no_data, alert.late,"
    "  alert.acknowledged_at, alert.acknowledged_by, alert.note"
    " from telemetry.alert"
    " join telemetry.device using (device_id) join telemetry.series_key using (key_id)"
    " left join telemetry.threshold_version as judged using (threshold_id, version)"
    " left join telemetry.alert_state on alert_state.device_id = alert.device_id and alert.ended_at is null"
    "  and alert_state.threshold_id = alert.threshold_id and alert_state.key_id = alert.key_id and not alert.no_data"
    " left join telemetry.sensor on sensor.device_id = alert.device_id and sensor.key_id = alert.key_id"
    " left join telemetry.location on location.location_id = coalesce(sensor.location_id, device.location_id)"
    ") as episode"
)
_SELECTED: Final = (
    " (%(devices)s::text[] is null or device = any (%(devices)s::text[]))"
    " and (%(site)s::text is null or site = %(site)s)"
    " and (%(location)s::text is null or location_path <@ %(location)s::text::ltree)"
    " and (%(severity)s::text is null or severity = %(severity)s)"
    " and (%(threshold)s::text is null or threshold = %(threshold)s)"
    " and (%(metric)s::text is null or metric = %(metric)s) and labels @> %(labels)s"
    " and (%(after_start)s::timestamptz is null or (start_at, alert_id) < (%(after_start)s, %(after_id)s))"
    " order by start_at desc, alert_id desc limit %(limit)s"
)


def open_alerts(
    connection: Connection,
    wanted: AlertFilter,
    *,
    states: Sequence[AlertState],
    after: AlertPosition | None = None,
    limit: int,
) -> list[AlertRow]:
    """The open episodes in one of these states, those that began last first, from behind `after`."""
    return _select(
        connection,
        " where ended_at is null and state = any (%(states)s::text[]) and" + _SELECTED,
        {**_named(wanted, after, limit), "states": list(states)},
    )


def past_alerts(
    connection: Connection, wanted: AlertFilter, window: Window, *, after: AlertPosition | None = None, limit: int
) -> list[AlertRow]:
    """The episodes that began in the window, open or not, the last first, from behind `after`."""
    return _select(
        connection,
        " where start_at >= %(start)s and start_at < %(end)s and" + _SELECTED,
        {**_named(wanted, after, limit), "start": window.start, "end": window.end},
    )


def current_alerts(connection: Connection, *, ended_within_seconds: float) -> list[AlertRow]:
    """All that is open, unknown ones too, and what ended by its own time not longer ago than that. Nothing late."""
    return _select(
        connection,
        " where (ended_at is null or ended_at > now() - make_interval(secs => %(seconds)s)) and not late"
        " order by alert_id",
        {"seconds": ended_within_seconds},
    )


def get_alert(connection: Connection, alert_id: int) -> AlertRow | None:
    """One episode; None where there is none of this number."""
    rows = _select(connection, " where alert_id = %(id)s", {"id": alert_id})
    return rows[0] if rows else None


def acknowledge(connection: Connection, alert_id: int, by: str, note: str | None) -> AlertRow | None:
    """Notes that somebody knows of an episode, in a transaction of the caller's; the first one stays.

    None where there is none of this number.
    """
    connection.execute(
        "update telemetry.alert set acknowledged_at = now(), acknowledged_by = %(by)s, note = %(note)s"
        " where alert_id = %(id)s and acknowledged_at is null",
        {"id": alert_id, "by": by, "note": note},
    )
    return get_alert(connection, alert_id)


def _select(connection: Connection, conditions: LiteralString, named: Mapping[str, Any]) -> list[AlertRow]:
    with connection.cursor(row_factory=class_row(AlertRow)) as cursor:
        return cursor.execute(_EPISODES + conditions, named).fetchall()


def _named(wanted: AlertFilter, after: AlertPosition | None, limit: int) -> dict[str, Any]:
    return {
        "devices": list(wanted.devices) or None,
        "site": wanted.site,
        "location": wanted.location,
        "severity": wanted.severity,
        "threshold": wanted.threshold,
        "metric": wanted.metric,
        "labels": Jsonb(dict(wanted.labels)),
        "after_start": None if after is None else after.start_at,
        "after_id": None if after is None else after.alert_id,
        "limit": limit,
    }
