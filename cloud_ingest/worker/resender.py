"""Repeats to an Alertmanager what fires, or it would take it for resolved, and what ended not long ago.

The repetition also heals what was given up, and what crossed the end of its alert on the way. One worker at a time, by
a lease, for each receiver.
"""

import logging
import threading
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from cloud_ingest.alerts.notify.change import Change
from cloud_ingest.alerts.notify.notifier import DeliveryError
from cloud_ingest.alerts.notify.routing import matches
from cloud_ingest.alerts.notify.sender import alertmanager_of
from cloud_ingest.alerts.notify.settings import AlertmanagerReceiver, Match
from cloud_ingest.config import Config
from cloud_ingest.errors import StoreUnavailable
from cloud_ingest.store.alerts import AlertRow, current_alerts
from cloud_ingest.store.database import Connection, connect, translated
from cloud_ingest.store.lease import Lease
from cloud_ingest.store.silences import active_silences, silenced_until

_RETRY_SECONDS: Final = 2.0
# Prometheus repeats an end for as long.
_ENDED_SECONDS: Final = 900
_AT_ONCE: Final = 500

log = logging.getLogger(__name__)


class Resender:
    """Works until it is stopped; waits for a database that is away."""

    def __init__(self, url: str, name: str, receiver: AlertmanagerReceiver) -> None:
        """Raises ConfigError where a file can't be read."""
        self._url = url
        self._name = name
        self._receiver = receiver
        self._alertmanager = alertmanager_of(receiver, f"notifications.receivers.{name}")

    def run(self, stop: threading.Event) -> None:
        """Returns once `stop` is set."""
        lease = Lease(self._url, f"alertmanager {self._name}")
        while not stop.is_set():
            try:
                if lease.take():
                    with connect(self._url, "cloud-ingest-resender") as connection:
                        while not stop.is_set() and lease.is_held():
                            self._send(connection)
                            stop.wait(self._receiver.resend_seconds)
            except StoreUnavailable as exc:
                log.debug("no database to repeat alerts from: %s", exc)  # the worker's main thread says it
            finally:
                lease.release()
            stop.wait(_RETRY_SECONDS)

    def _send(self, connection: Connection) -> None:
        with translated():
            rows = current_alerts(connection, ended_within_seconds=_ENDED_SECONDS)
            silences = active_silences(connection)
        told = [it for it in rows if it.ended_at is not None or silenced_until(silences, it.about) is None]
        changes = repeated(told, self._receiver.match, datetime.now(UTC))
        try:
            for first in range(0, len(changes), _AT_ONCE):
                part = changes[first : first + _AT_ONCE]
                self._alertmanager.send_all([it.notification(uuid4()) for it in part])
        except DeliveryError as exc:
            log.debug("%s does not take repetitions: %s", self._name, exc)  # the dispatcher's messages tell it


def resenders_of(config: Config) -> list[Resender]:
    """One of each Alertmanager. Raises ConfigError where a file can't be read."""
    url = config.database_url.get_secret_value()
    return [
        Resender(url, name, receiver)
        for name, receiver in config.notifications.receivers.items()
        if isinstance(receiver, AlertmanagerReceiver)
    ]


def repeated(rows: list[AlertRow], match: Match, now: datetime) -> list[Change]:
    """What a receiver is told of these: as of `now`, and what is open last, since a series may have both.

    What is open of a series goes by the same labels as what ended of it, so that only one of them is told.
    """
    newest: dict[tuple[object, ...], AlertRow] = {}
    for row in sorted(rows, key=lambda it: (it.ended_at is None, it.ended_at or it.start_at, it.alert_id)):
        newest[row.threshold, row.device, row.site, row.location, row.metric, *sorted(row.labels.items())] = row
    return [change for row in newest.values() if matches(match, change := _change(row, now))]


def _change(row: AlertRow, now: datetime) -> Change:
    content = {
        "threshold": row.threshold,
        "device": row.device,
        "site": row.site,
        "location": row.location,
        "metric": row.metric,
        "labels": row.labels,
        "unit": row.unit,
        "severity": row.severity,
        "value": row.last,
        "level": row.level,
        "time_ms": _ms(row.ended_at or now),
        "start_ms": _ms(row.start_at),
    }
    kind = "opened" if row.ended_at is None else "ended"
    return Change(row.alert_id, kind, content, now, row.alert_id, row.severity, row.start_at, row.ended_at)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
