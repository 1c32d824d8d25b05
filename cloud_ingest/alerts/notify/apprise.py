"""Everything that Apprise can tell: a hundred services, each by a URL of its own (https://appriseit.com/).

Optional: `pip install 'telemetry-bridge[apprise]'`.
"""

from typing import Any, Final

from cloud_ingest.alerts.notify.notification import Kind, Notification
from cloud_ingest.alerts.notify.notifier import DeliveryFailed
from cloud_ingest.errors import ConfigError

_TYPES: Final = {
    Kind.FIRING: "failure",
    Kind.ESCALATED: "failure",
    Kind.RESOLVED: "success",
    Kind.UNKNOWN: "warning",
    Kind.OFFLINE: "warning",
    Kind.ONLINE: "success",
    Kind.DIGEST: "info",
}


class Apprise:
    """One Apprise URL, which is a secret: it holds tokens."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError where Apprise is not installed or does not know what to do with the URL."""
        try:
            import apprise  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise ConfigError("the package apprise is missing: pip install 'telemetry-bridge[apprise]'") from exc
        self._service: Any = apprise.Apprise()
        if not self._service.add(url):
            raise ConfigError(f"apprise does not know the service of a URL that begins with {url.partition(':')[0]}:")

    def send(self, notification: Notification) -> None:
        """See Notifier. Apprise says only whether it worked, so that every failure is tried again."""
        if not self._service.notify(
            title=notification.title, body=notification.text, notify_type=_TYPES[notification.kind]
        ):
            raise DeliveryFailed("apprise could not deliver it; see its own log")
