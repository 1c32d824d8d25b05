"""What the broker is to retain of open alerts, against what it does retain."""

from collections.abc import Iterable, Mapping
from typing import Final

from cloud_ingest.store.alerts import AlertRow
from telemetry_contract.alerts import OpenAlert, RuleAlerts, alert_topic
from telemetry_contract.codec import encode
from telemetry_contract.payload import VERSION
from telemetry_contract.series import SeriesKey

_SEVERITIES: Final = ("warning", "critical")


def payloads(rows: Iterable[AlertRow]) -> dict[str, bytes]:
    """What each topic is to hold: the same bytes for the same open alerts."""
    by_topic: dict[str, list[AlertRow]] = {}
    for row in rows:
        by_topic.setdefault(alert_topic(row.site, row.device, _rule(row)), []).append(row)
    return {topic: _payload(members) for topic, members in by_topic.items()}


def differences(wanted: Mapping[str, bytes], held: Mapping[str, bytes]) -> dict[str, bytes]:
    """What must be published so that the broker holds what is wanted; an empty payload clears a topic."""
    changed = {topic: payload for topic, payload in wanted.items() if held.get(topic) != payload}
    return changed | {topic: b"" for topic in held if topic not in wanted}


def _payload(rows: list[AlertRow]) -> bytes:
    alerts = [
        OpenAlert(
            series=str(SeriesKey.of(row.metric, row.labels)),
            severity=row.severity,
            state=row.state,
            since=int(row.start_at.timestamp() * 1000),
        )
        for row in rows
    ]
    alerts.sort(key=lambda it: (it.series, it.since))
    worst = max(alerts, key=lambda it: (_SEVERITIES.index(it.severity), -it.since))
    document = RuleAlerts(v=VERSION, rule=_rule(rows[0]), severity=worst.severity, since=worst.since, alerts=alerts)
    return encode(document, compress_above=None).payload


def _rule(row: AlertRow) -> str:
    """By its name; by its number where no version of it is there any more."""
    return row.threshold or str(row.threshold_id)
