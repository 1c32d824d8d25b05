"""One row of the table `notification`, as it is told: a change of an episode, or something else that was written there.

What is told is made of the row alone, so that it is the same each time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from cloud_ingest.alerts.notify.notification import Alert, Kind, Notification

_KINDS: Final = {"opened": Kind.FIRING, "escalated": Kind.ESCALATED, "ended": Kind.RESOLVED}
_HEADS: Final = {
    Kind.RESOLVED: "resolved",
    Kind.UNKNOWN: "unknown",
    Kind.OFFLINE: "offline",
    Kind.ONLINE: "online",
    Kind.DIGEST: "digest",
}


@dataclass(frozen=True, slots=True)
class Change:
    """What happened. `content` is what was written with it; `start_at` and `ended_at` are those of the episode."""

    number: int
    written_kind: str
    content: Mapping[str, Any]
    created_at: datetime
    alert_id: int | None
    alert_severity: str | None
    start_at: datetime | None
    ended_at: datetime | None

    @property
    def kind(self) -> Kind:
        """Why somebody is told. A kind that this version does not know is told as a digest."""
        known = _KINDS.get(self.written_kind)
        if known is not None:
            return known
        return Kind(self.written_kind) if self.written_kind in list(Kind) else Kind.DIGEST

    @property
    def severity(self) -> str | None:
        """As it was then; of an episode that was withdrawn the last one."""
        return self._text("severity") or self.alert_severity

    @property
    def threshold(self) -> str | None:
        """Its name; None where it is gone, or the change is about none."""
        return self._text("threshold")

    @property
    def device(self) -> str | None:
        """Whose series, or which one, it is about."""
        return self._text("device")

    @property
    def site(self) -> str | None:
        """Where the device is, or what it is about as a whole."""
        return self._text("site")

    @property
    def location(self) -> str | None:
        """The path where the series is."""
        return self._text("location")

    @property
    def metric(self) -> str | None:
        """Of the series that it is about."""
        return self._text("metric")

    @property
    def at(self) -> datetime:
        """When it happened, by the time of the samples where these tell it."""
        time_ms = self.content.get("time_ms")
        return self.created_at if time_ms is None else _from_ms(time_ms)

    @property
    def title(self) -> str:
        """One line: how bad, which rule, where."""
        head = _HEADS.get(self.kind) or self.severity or self.kind.value
        subject = " ".join(it for it in (self.device, self._series()) if it)
        about = ": ".join(it for it in (self.threshold, subject or self.site) if it)
        return f"[{head}] {about or self.written_kind}"

    @property
    def text(self) -> str:
        """What a person reads: the message of the threshold, and what stands behind it."""
        message = self._text("message") or self.title
        if self.kind is Kind.RESOLVED:
            message = (
                self.title if self.content.get("reason") != "withdrawn" else f"{self.title}: no threshold any more"
            )
        facts = [
            ("value", _number(self.content.get("value"))),
            ("level", _number(self.content.get("level"))),
            ("peak", _number(self.content.get("peak"))),
            ("site", self.site),
            ("location", self.location),
            ("since", None if self._start is None else f"{self._start:%Y-%m-%d %H:%M:%S} UTC"),
            ("at", f"{self.at:%Y-%m-%d %H:%M:%S} UTC"),
        ]
        return "\n".join([message, *(f"{name}: {value}" for name, value in facts if value)])

    def notification(self, id_: UUID) -> Notification:
        """As a message of its own. What is about no episode has all that was written as its details."""
        alert = self.alert()
        return Notification(
            id=id_,
            kind=self.kind,
            at=self.at,
            title=self.title,
            text=self.text,
            alert=alert,
            details=dict(self.content) if alert is None else {},
        )

    def alert(self) -> Alert | None:
        """The episode that it is about; None where it is about none."""
        if self.alert_id is None:
            return None
        return Alert(
            id=self.alert_id,
            threshold=self.threshold or "",
            severity=self.severity or "",
            device=self.device or "",
            site=self.site or "",
            location=self.location,
            metric=self.metric or "",
            labels=dict(self.content.get("labels") or {}),
            unit=self._text("unit") or "",
            value=self.content.get("value"),
            level=self.content.get("level"),
            starts_at=self._start or self.created_at,
            ends_at=self._end,
        )

    @property
    def _start(self) -> datetime | None:
        start_ms = self.content.get("start_ms")
        return self.start_at if start_ms is None else _from_ms(start_ms)

    @property
    def _end(self) -> datetime | None:
        if self.kind is not Kind.RESOLVED:
            return None
        return self.at if "time_ms" in self.content else self.ended_at or self.created_at

    def _series(self) -> str:
        labels = ",".join(f'{name}="{value}"' for name, value in sorted((self.content.get("labels") or {}).items()))
        return (self.metric or "") + (f"{{{labels}}}" if labels else "")

    def _text(self, name: str) -> str | None:
        value = self.content.get(name)
        return value if isinstance(value, str) and value else None


def _from_ms(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _number(value: object) -> str | None:
    return f"{value:g}" if isinstance(value, int | float) else None
