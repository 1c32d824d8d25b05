"""What takes messages to a receiver, as it is configured."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from cloud_ingest.alerts.notify.alertmanager import Alertmanager
from cloud_ingest.alerts.notify.apprise import Apprise
from cloud_ingest.alerts.notify.change import Change
from cloud_ingest.alerts.notify.email import Email, Server
from cloud_ingest.alerts.notify.http_post import Target
from cloud_ingest.alerts.notify.message import message_of
from cloud_ingest.alerts.notify.notifier import Notifier
from cloud_ingest.alerts.notify.settings import (
    AlertmanagerReceiver,
    AppriseReceiver,
    EmailReceiver,
    Receiver,
    WebhookReceiver,
    read_secret,
)
from cloud_ingest.alerts.notify.webhook import Webhook


class Sender(Protocol):
    """Called by one thread at a time; blocks for as long as the receiver takes, with a timeout of each step."""

    def send(self, id_: UUID, changes: Sequence[Change], *, digest: bool) -> None:
        """Returns once the receiver has confirmed the message. Raises DeliveryError."""


class _Gathered:
    """One message of all the changes."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    def send(self, id_: UUID, changes: Sequence[Change], *, digest: bool) -> None:
        self._notifier.send(message_of(id_, changes, digest=digest))


class _OneByOne:
    """All the changes in one request, each an alert of its own: Alertmanager groups by itself."""

    def __init__(self, alertmanager: Alertmanager) -> None:
        self._alertmanager = alertmanager

    def send(self, id_: UUID, changes: Sequence[Change], *, digest: bool) -> None:
        del digest
        # What it knows an alert by has no time: of several changes the last one stands
        newest = {it.alert_id: it for it in changes}
        self._alertmanager.send_all([it.notification(id_) for it in newest.values()])


def senders_of(receivers: Mapping[str, Receiver]) -> dict[str, Sender]:
    """One of each receiver. Raises ConfigError where a file can't be read, or a package is missing."""
    return {name: _sender_of(receiver, f"notifications.receivers.{name}") for name, receiver in receivers.items()}


def alertmanager_of(receiver: AlertmanagerReceiver, key: str) -> Alertmanager:
    """Raises ConfigError, which names the file below `key`."""
    return Alertmanager(Target(receiver.address(key), receiver.allow_private), resend_seconds=receiver.resend_seconds)


def _sender_of(receiver: Receiver, key: str) -> Sender:
    match receiver:
        case WebhookReceiver():
            secret = read_secret(receiver.secret_file, f"{key}.secret_file")
            target = Target(receiver.address(key), receiver.allow_private)
            return _Gathered(Webhook(target, None if secret is None else secret.encode()))
        case EmailReceiver():
            password = read_secret(receiver.password_file, f"{key}.password_file")
            server = Server(receiver.host, receiver.port, receiver.security, receiver.username, password)
            return _Gathered(Email(server, receiver.sender, receiver.to))
        case AlertmanagerReceiver():
            return _OneByOne(alertmanager_of(receiver, key))
        case AppriseReceiver():
            return _Gathered(Apprise(read_secret(receiver.url_file, f"{key}.url_file") or ""))
