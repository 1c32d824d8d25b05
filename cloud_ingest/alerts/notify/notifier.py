"""The seam to every way of telling.

DeliveryError
 +- DeliveryFailed     retry: the receiver can't be reached, is busy, or did not answer in time
 +- DeliveryRefused    give up: it will not take this one, and would not take it again
"""

from typing import Protocol

from cloud_ingest.alerts.notify.notification import Notification
from cloud_ingest.errors import CloudError


class DeliveryError(CloudError):
    """The receiver did not confirm that it has the notification. `str()` says why, without secrets."""


class DeliveryFailed(DeliveryError):
    """It may succeed later. `retry_after_seconds` is what the receiver asked for, if it did."""

    def __init__(self, why: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_seconds = retry_after_seconds


class DeliveryRefused(DeliveryError):
    """It would be refused again."""


class Notifier(Protocol):
    """One receiver. Called by one thread at a time; blocks for some seconds at most."""

    def send(self, notification: Notification) -> None:
        """Returns once the receiver has confirmed it. Raises DeliveryError."""
