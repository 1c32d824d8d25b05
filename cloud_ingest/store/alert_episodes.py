"""Episodes, and the notifications of what happens to them, written in the transaction in which it happens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from psycopg import sql
from psycopg.types.json import Jsonb

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.alerts.judging import Judged, Watched
from cloud_ingest.alerts.machine import Ended, Opened, Transition
from cloud_ingest.alerts.message import render
from cloud_ingest.alerts.plan import Device
from cloud_ingest.alerts.rule import Severity
from cloud_ingest.store.database import Connection
from cloud_ingest.store.rollup.state import from_ms
from telemetry_contract.metrics import unit_of
from telemetry_contract.series import SeriesKey

# A change of an episode, and what is to be told of it
_TOLD: Final = (
    "with changed as ({} returning alert_id) insert into telemetry.notification (alert_id, kind, content)"
    " select alert_id, %(kind)s, %(content)s from changed"
)
_OPEN: Final = sql.SQL(_TOLD).format(
    sql.SQL(
        "insert into telemetry.alert (threshold_id, version, device_id, key_id, severity, start_at, fired_at)"
        " values (%(threshold)s, %(version)s, %(device)s, %(key)s, %(severity)s, %(start)s, %(fired)s)"
    )
)
# Of the episode of a series that is open; there is at most one
_CHANGE: Final = (
    "update telemetry.alert set {} where device_id = %(device)s and threshold_id = %(threshold)s and key_id = %(key)s"
    " and ended_at is null and not no_data"
)
_ESCALATE: Final = sql.SQL(_TOLD).format(sql.SQL(_CHANGE).format(sql.SQL("severity = %(severity)s")))
_END: Final = sql.SQL(_TOLD).format(
    sql.SQL(_CHANGE).format(
        sql.SQL(
            "ended_at = %(end)s, end_reason = 'cleared', peak = %(peak)s, peak_at = %(peak_at)s, last_value = %(last)s"
        )
    )
)
_WITHDRAW: Final = sql.SQL(_TOLD).format(
    sql.SQL(_CHANGE).format(sql.SQL("ended_at = greatest(now(), fired_at), end_reason = 'withdrawn'"))
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What an alert is about; `definition` is None where the threshold is gone."""

    device: Device
    definition: Definition | None
    key: SeriesKey
    key_id: int

    @property
    def location(self) -> str | None:
        """Where the series is: its own place, or that of its device."""
        placed = self.device.sensors.get(self.key_id)
        return self.device.location if placed is None else placed.location or self.device.location


def write(connection: Connection, judged: Judged, subject: Callable[[int, int, int], Subject]) -> None:
    """Records what happened, and that it is to be told. In the order in which it happened to each series."""
    if not judged.transitions and not judged.withdrawn:
        return
    with connection.pipeline():
        for watched, transition in judged.transitions:
            _write_one(connection, watched, transition, subject(*watched))
        for watched in judged.withdrawn:
            _withdraw(connection, watched, subject(*watched))


def _write_one(connection: Connection, watched: Watched, transition: Transition, subject: Subject) -> None:
    episode = transition.episode
    named = {
        **_named(watched),
        "kind": _kind(transition),
        "content": Jsonb(content(subject, transition)),
        "version": episode.version,
        "severity": episode.severity.name.lower(),
        "start": from_ms(episode.start_ms),
        "fired": from_ms(episode.fired_ms),
    }
    if isinstance(transition, Opened):
        connection.execute(_OPEN, named)
    elif isinstance(transition, Ended):
        peak = transition.peak
        named |= {"end": from_ms(transition.time_ms), "peak": peak.value, "peak_at": from_ms(peak.time_ms)}
        connection.execute(_END, named | {"last": peak.last})
    else:
        connection.execute(_ESCALATE, named)


def _withdraw(connection: Connection, watched: Watched, subject: Subject) -> None:
    """Ends the episode of a series that no threshold watches any more, if there is one."""
    told = {**about(subject), "kind": "ended", "reason": "withdrawn"}
    connection.execute(_WITHDRAW, {**_named(watched), "kind": "ended", "content": Jsonb(told)})


def _named(watched: Watched) -> dict[str, Any]:
    return {"device": watched.device_id, "threshold": watched.threshold_id, "key": watched.key_id}


def about(subject: Subject) -> dict[str, Any]:
    """Whom and what an alert is about."""
    return {
        "threshold": None if subject.definition is None else subject.definition.name,
        "device": subject.device.name,
        "site": subject.device.site,
        "location": subject.location,
        "metric": subject.key.metric,
        "labels": dict(subject.key.labels),
        "unit": unit_of(subject.key.metric),
    }


def content(subject: Subject, transition: Transition) -> dict[str, Any]:
    """What is told of a transition."""
    definition, severity = subject.definition, transition.episode.severity
    known = about(subject)
    level = None
    if definition is not None:
        level = definition.warning if severity is Severity.WARNING else definition.critical
    told = {
        **known,
        "kind": _kind(transition),
        "severity": severity.name.lower(),
        "value": transition.value,
        "level": level,
        "time_ms": transition.time_ms,
        "start_ms": transition.episode.start_ms,
    }
    if isinstance(transition, Ended):
        told |= {"reason": "cleared", "peak": transition.peak.value}
    if definition is not None:
        fields: dict[str, str | float] = {
            "threshold": definition.name,
            "severity": severity.name.lower(),
            "device": subject.device.name,
            "site": subject.device.site,
            "location": subject.location or "",
            "metric": subject.key.metric,
            "labels": str(subject.key).removeprefix(subject.key.metric),
            "value": transition.value,
            "level": "" if level is None else level,
            "unit": known["unit"],
        }
        told["message"] = render(definition.message, fields)
    return told


def _kind(transition: Transition) -> str:
    return type(transition).__name__.lower()
