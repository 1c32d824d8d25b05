"""E-mail by SMTP: one message a notification, to everybody at once."""

import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final, Literal

from cloud_ingest.alerts.notify.notification import Notification
from cloud_ingest.alerts.notify.notifier import DeliveryFailed, DeliveryRefused

_TIMEOUT_SECONDS: Final = 15.0
_FIRST_PERMANENT: Final = 500  # RFC 5321, section 4.2.1: the same again would fail again

Security = Literal["starttls", "tls", "none"]


@dataclass(frozen=True)
class Server:
    """An SMTP server. `password` goes over the wire, so it needs encryption."""

    host: str
    port: int
    security: Security = "starttls"
    username: str | None = None
    password: str | None = None


class Email:
    """Mails from one address to some others."""

    def __init__(self, server: Server, sender: str, receivers: Sequence[str]) -> None:
        self._server = server
        self._sender = sender
        self._receivers = list(receivers)

    def send(self, notification: Notification) -> None:
        """See Notifier. Where the server takes it for some receivers only, that is enough: none is mailed twice."""
        try:
            with self._connected() as connection:
                connection.send_message(self._message(notification), self._sender, self._receivers)
        except smtplib.SMTPRecipientsRefused as exc:
            codes = [code for code, _ in exc.recipients.values()]
            kind = DeliveryRefused if all(code >= _FIRST_PERMANENT for code in codes) else DeliveryFailed
            raise kind(f"{self._server.host} refused every receiver: {codes}") from exc
        except smtplib.SMTPAuthenticationError as exc:
            raise DeliveryFailed(f"{self._server.host} refused user name and password") from exc
        except smtplib.SMTPResponseException as exc:
            kind = DeliveryRefused if exc.smtp_code >= _FIRST_PERMANENT else DeliveryFailed
            error = exc.smtp_error.decode(errors="replace") if isinstance(exc.smtp_error, bytes) else exc.smtp_error
            raise kind(f"{self._server.host} answered {exc.smtp_code} {error}") from exc
        except (OSError, smtplib.SMTPException) as exc:
            raise DeliveryFailed(f"{self._server.host}:{self._server.port}: {str(exc) or type(exc).__name__}") from exc

    def _connected(self) -> smtplib.SMTP:
        server = self._server
        if server.security == "tls":
            connection: smtplib.SMTP = smtplib.SMTP_SSL(
                server.host, server.port, timeout=_TIMEOUT_SECONDS, context=ssl.create_default_context()
            )
        else:
            connection = smtplib.SMTP(server.host, server.port, timeout=_TIMEOUT_SECONDS)
        try:
            if server.security == "starttls":
                connection.starttls(context=ssl.create_default_context())
            if server.username is not None:
                connection.login(server.username, server.password or "")
        except BaseException:
            connection.close()
            raise
        return connection

    def _message(self, notification: Notification) -> EmailMessage:
        message = EmailMessage(policy=SMTP)
        message["Subject"] = " ".join(notification.title.split())
        message["From"] = self._sender
        message["To"] = ", ".join(self._receivers)
        message["Date"] = format_datetime(notification.at)
        # The same each time it is tried, so that a mail program shows it once
        message["Message-ID"] = f"<{notification.id}@telemetry-bridge>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday answers it
        if notification.alert is not None:
            first = f"<alert-{notification.alert.id}@telemetry-bridge>"
            message["References"] = first  # one thread an episode
        message.set_content(notification.text + "\n")
        return message
