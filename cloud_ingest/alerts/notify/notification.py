"""What is told: one change of one alert, or a digest of many, as it was when it happened."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID


class Kind(StrEnum):
    """Why somebody is told."""

    FIRING = "firing"  # an episode began
    ESCALATED = "escalated"  # it became worse
    RESOLVED = "resolved"  # it ended
    UNKNOWN = "unknown"  # its device or series has fallen silent: nobody knows
    OFFLINE = "offline"  # a device, or many of one site, can't be heard
    ONLINE = "online"
    DIGEST = "digest"  # what is only history by now: episodes judged late, or held back by a limit


@dataclass(frozen=True)
class Alert:
    """The episode that it is about; times in UTC."""

    id: int
    threshold: str
    severity: str
    device: str
    site: str
    location: str | None
    metric: str
    labels: dict[str, str]
    unit: str
    value: float | None
    level: float | None
    starts_at: datetime
    ends_at: datetime | None = None


@dataclass(frozen=True)
class Notification:
    """`id` stays the same however often it is sent: whoever receives it twice can tell.

    `title` is one line, `text` may have several. `alert` is None for what is about no single episode.
    """

    id: UUID
    kind: Kind
    at: datetime
    title: str
    text: str
    alert: Alert | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As JSON: the body of a webhook, and what the other ways are filled from."""
        document: dict[str, Any] = {
            "id": str(self.id),
            "kind": self.kind.value,
            "at": rfc3339(self.at),
            "title": self.title,
            "text": self.text,
        }
        if self.alert is not None:
            alert = self.alert
            document["alert"] = {
                "id": alert.id,
                "threshold": alert.threshold,
                "severity": alert.severity,
                "device": alert.device,
                "site": alert.site,
                "location": alert.location,
                "metric": alert.metric,
                "labels": alert.labels,
                "unit": alert.unit,
                "value": alert.value,
                "level": alert.level,
                "starts_at": rfc3339(alert.starts_at),
                "ends_at": None if alert.ends_at is None else rfc3339(alert.ends_at),
            }
        if self.details:
            document["details"] = self.details
        return document


def rfc3339(time: datetime) -> str:
    """With milliseconds, in UTC."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
