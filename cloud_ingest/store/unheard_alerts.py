"""Firing alerts of which nothing comes: unknown, and told so, until a sample comes of a device that is there."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg.types.json import Jsonb

from cloud_ingest.alerts.liveness import Ears, Hearing, LastSample, is_unknown
from cloud_ingest.alerts.rule import NoData
from cloud_ingest.store import alert_states
from cloud_ingest.store.database import Connection, translated
from cloud_ingest.store.hearing import READINGS
from cloud_ingest.store.rollup.state import to_ms

_LOCK: Final = 0x7465_6C65_0006

# Open episodes with what came of them last, by the thresholds of now, and what the cloud hears of their devices
_OPEN: Final = (
    "select alert.device_id, alert.alert_id, alert.unknown_seen_ms, alert_state.seen_ms,"
    " coalesce(device_liveness.online, true),"
    " threshold.definition #>> '{no_data,then}', (threshold.definition #>> '{no_data,after_seconds}')::float8,"
    " coalesce(own.since, readings.since), coalesce(own.until, readings.until), clock_timestamp()"
    " from telemetry.alert"
    " join telemetry.alert_state using (device_id, threshold_id, key_id)"
    " join telemetry.threshold using (threshold_id)"
    " left join telemetry.device_liveness using (device_id)"
    " left join telemetry.publisher using (device_id)"
    " left join telemetry.hearing as own on own.part = 'source ' || publisher.name"
    " left join telemetry.hearing as readings on readings.part = %(readings)s"
    " where alert.ended_at is null and not alert.no_data and alert_state.start_ms is not null"
)
# Where the alert is still open and as it was: what changes, and what is told of it
_CHANGE: Final = (
    "with wanted as (select * from unnest(%(alerts)s::bigint[], %(contents)s::jsonb[], %(seen)s::bigint[])"
    "  as wanted (alert_id, content, seen_ms)),"
    " changed as (update telemetry.alert set unknown_seen_ms = wanted.seen_ms,"
    "   unknown_since = case when wanted.seen_ms is not null then now() end"
    "  from wanted where alert.alert_id = wanted.alert_id and alert.ended_at is null"
    "   and (alert.unknown_seen_ms is null) = (wanted.seen_ms is not null)"
    "  returning alert.*, wanted.content)"
    " insert into telemetry.notification (alert_id, kind, content)"
    " select changed.alert_id, content ->> 'kind', content || jsonb_build_object("
    "  'threshold', threshold.definition -> 'name', 'severity', changed.severity, 'device', device.name,"
    "  'site', device.site, 'location', location.path::text, 'metric', series_key.metric, 'labels', series_key.labels,"
    "  'unit', series_key.unit, 'value', alert_state.last_value, 'start_ms', alert_state.start_ms,"
    "  'level', threshold.definition -> changed.severity)"
    " from changed join telemetry.device using (device_id) join telemetry.series_key using (key_id)"
    " join telemetry.alert_state using (device_id, threshold_id, key_id)"
    " left join telemetry.threshold using (threshold_id)"
    " left join telemetry.sensor using (device_id, key_id)"
    " left join telemetry.location on location.location_id = coalesce(sensor.location_id, device.location_id)"
    " order by changed.alert_id"
)


class _Change(NamedTuple):
    """What is told of an alert of a device, and its newest sample where it becomes unknown."""

    device_id: int
    alert_id: int
    content: Jsonb
    unknown_seen_ms: int | None


def look_at_alerts(connection: Connection, grace_ms: int) -> int:
    """Finds out of which firing alerts nothing is known, and which are known again; how many changed.

    Does nothing where another does the same just now. Raises StoreUnavailable.
    """
    with translated(), connection.transaction():
        ((mine,),) = connection.execute("select pg_try_advisory_xact_lock(%s)", [_LOCK]).fetchall()
        if not mine:
            return 0
        device_ids = sorted({it.device_id for it in _changes(connection, grace_ms)})
        if not device_ids:
            return 0
        alert_states.lock(connection, device_ids)
        # Again, now that no ingester judges them: a sample may have come meanwhile
        changes = [it for it in _changes(connection, grace_ms) if it.device_id in device_ids]
        if changes:
            _, alerts, contents, seen = (list(column) for column in zip(*changes, strict=True))
            connection.execute(_CHANGE, {"alerts": alerts, "contents": contents, "seen": seen})
        return len(changes)


def _changes(connection: Connection, grace_ms: int) -> list[_Change]:
    rows = connection.execute(_OPEN, {"readings": READINGS}).fetchall()
    return [change for row in rows if (change := _change(row, grace_ms)) is not None]


def _change(row: Sequence[Any], grace_ms: int) -> _Change | None:
    """What becomes of an open alert; None where it stays as it is."""
    device_id, alert_id, unknown_seen_ms, seen_ms, online, then, after_seconds, since, until, now = row
    silence_ms = round(after_seconds * 1000) if then == NoData.UNKNOWN else None
    ears = Ears(None, None if since is None else Hearing(to_ms(since), to_ms(until)))
    why = is_unknown(LastSample(online, seen_ms, silence_ms), ears, grace_ms, to_ms(now))
    if unknown_seen_ms is None and why is not None:
        return _Change(device_id, alert_id, Jsonb({"kind": "unknown", "reason": why}), seen_ms)
    if unknown_seen_ms is not None and why is None and seen_ms > unknown_seen_ms:
        return _Change(device_id, alert_id, Jsonb({"kind": "firing"}), None)
    return None
