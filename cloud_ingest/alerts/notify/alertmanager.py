"""Prometheus' Alertmanager, API v2, which groups, silences and routes by itself.

https://prometheus.io/docs/alerting/latest/alerts_api/: an alert is identified by its labels; one that is not repeated
is taken for resolved after `resolve_timeout` unless it says when it ends, so a firing alert is sent again and again.
"""

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from cloud_ingest.alerts.notify.http_post import Target, post
from cloud_ingest.alerts.notify.notification import Kind, Notification, rfc3339

# Until when an alert counts as firing if nobody repeats it: several times the interval of the repetition.
_VALID_FACTOR: Final = 4
_TOLD: Final = frozenset({Kind.FIRING, Kind.ESCALATED, Kind.RESOLVED, Kind.UNKNOWN})


class Alertmanager:
    """Posts alerts to `URL/api/v2/alerts`; only of episodes, as it knows nothing else."""

    def __init__(self, target: Target, *, resend_seconds: float) -> None:
        self._target = Target(target.url.rstrip("/") + "/api/v2/alerts", target.allow_private)
        self._valid = timedelta(seconds=_VALID_FACTOR * resend_seconds)

    def send(self, notification: Notification) -> None:
        """See Notifier."""
        self.send_all([notification])

    def send_all(self, notifications: list[Notification]) -> None:
        """Many in one request: what it is told again and again. Raises DeliveryError."""
        alerts = [entry for each in notifications if (entry := self._entry(each)) is not None]
        if alerts:
            post(self._target, msgspec.json.encode(alerts), {"Content-Type": "application/json"})

    def _entry(self, notification: Notification) -> dict[str, Any] | None:
        alert = notification.alert
        if alert is None or notification.kind not in _TOLD:
            return None
        labels = {
            **alert.labels,
            "alertname": alert.threshold,
            "device": alert.device,
            "site": alert.site,
            "metric": alert.metric,
            "location": alert.location or "",
        }
        return {
            # Without the severity: an alert that escalates stays the same one
            "labels": {name: value for name, value in labels.items() if value},
            "annotations": {
                "summary": notification.title,
                "description": notification.text,
                "severity": alert.severity,
                "state": notification.kind.value,
            },
            "startsAt": rfc3339(alert.starts_at),
            "endsAt": rfc3339(self._end(notification.at, alert.ends_at)),
        }

    def _end(self, at: datetime, ends_at: datetime | None) -> datetime:
        return at + self._valid if ends_at is None else ends_at
