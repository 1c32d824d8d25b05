"""A webhook: the notification as JSON, signed so that the receiver knows who wrote it and when."""

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Final

import msgspec

from cloud_ingest.alerts.notify.http_post import Target, post
from cloud_ingest.alerts.notify.notification import Notification

SIGNATURE_HEADER: Final = "Telemetry-Signature"
ID_HEADER: Final = "Telemetry-Notification-Id"


def signature(secret: bytes, timestamp: int, body: bytes) -> str:
    """`t=<seconds since 1970>,v1=<hex>`: HMAC-SHA256 over the decimal timestamp, a full stop and the body.

    With the timestamp under the signature a receiver can refuse what is old, and so what somebody recorded.
    """
    digest = hmac.new(secret, b"%d." % timestamp + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


class Webhook:
    """Posts to one URL. Unsigned where there is no secret."""

    def __init__(self, target: Target, secret: bytes | None, clock: Callable[[], float] = time.time) -> None:
        self._target = target
        self._secret = secret
        self._clock = clock

    def send(self, notification: Notification) -> None:
        """See Notifier. The same notification has the same body and id however often it is sent."""
        body = msgspec.json.encode(notification.document())
        headers = {"Content-Type": "application/json", ID_HEADER: str(notification.id)}
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = signature(self._secret, int(self._clock()), body)
        post(self._target, body, headers)
