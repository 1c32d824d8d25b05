"""The ways of telling, each against a real server of its kind."""

import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from harness.ports import free_port
from harness.web import Web, web
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.alerts.notify.alertmanager import Alertmanager
from cloud_ingest.alerts.notify.apprise import Apprise
from cloud_ingest.alerts.notify.email import Email, Server
from cloud_ingest.alerts.notify.http_post import Target, is_public, post, problem_of
from cloud_ingest.alerts.notify.notification import Alert, Kind, Notification
from cloud_ingest.alerts.notify.notifier import DeliveryFailed, DeliveryRefused
from cloud_ingest.alerts.notify.webhook import Webhook, signature
from cloud_ingest.errors import ConfigError

AT = datetime(2026, 11, 20, 23, 39, 0, 123_000, tzinfo=UTC)
ALERT = Alert(
    id=41,
    threshold="boiler-hot",
    severity="critical",
    device="pump-house-1",
    site="plant-a",
    location="factory.hall",
    metric="boiler_temperature_celsius",
    labels={"sensor": "top"},
    unit="celsius",
    value=93.5,
    level=90.0,
    starts_at=AT,
)
NOTIFICATION = Notification(
    id=UUID(int=5), kind=Kind.FIRING, at=AT, title="boiler-hot: 93.5", text="It is hot.\nVery.", alert=ALERT
)


@pytest.fixture
def site() -> Iterator[Web]:
    with web() as state:
        yield state


def target(site: Web, path: str = "/hook?token=secret") -> Target:
    return Target(site.url + path, allow_private=True)


# Webhook


def test_a_webhook_gets_the_notification_and_can_check_who_wrote_it(site: Web) -> None:
    Webhook(target(site), b"shared", clock=lambda: 1_795_000_000.9).send(NOTIFICATION)
    [(path, headers, body)] = site.seen
    assert path == "/hook?token=secret"
    assert headers["Telemetry-Notification-Id"] == str(UUID(int=5))
    stamp, _, code = headers["Telemetry-Signature"].partition(",v1=")
    assert stamp == "t=1795000000"
    assert code == hmac.digest(b"shared", b"1795000000." + body, hashlib.sha256).hex()
    document = json.loads(body)
    assert (document["kind"], document["at"]) == ("firing", "2026-11-20T23:39:00.123Z")
    assert document["alert"]["labels"] == {"sensor": "top"}
    assert document["alert"]["ends_at"] is None


def test_a_second_delivery_has_the_same_id_and_body(site: Web) -> None:
    hook = Webhook(target(site), b"shared")
    hook.send(NOTIFICATION)
    hook.send(NOTIFICATION)
    first, second = site.seen
    assert first[2] == second[2]
    assert first[1]["Telemetry-Notification-Id"] == second[1]["Telemetry-Notification-Id"]


def test_the_documented_check_takes_what_is_genuine_and_nothing_else(site: Web) -> None:
    document = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
    [example] = [it for it in re.findall(r"```python\n(.*?)```", document, re.DOTALL) if "is_genuine" in it]
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - our own documentation
    is_genuine = names["is_genuine"]
    Webhook(target(site), b"shared").send(NOTIFICATION)
    Webhook(target(site), b"shared", clock=lambda: time.time() - 3_600).send(NOTIFICATION)
    [(_, headers, body), (_, old_headers, old_body)] = site.seen
    header = headers["Telemetry-Signature"]
    assert is_genuine(b"shared", header, body)
    assert not is_genuine(b"other", header, body)
    assert not is_genuine(b"shared", header, body + b" ")
    assert not is_genuine(b"shared", header.replace("t=1", "t=2"), body)
    assert not is_genuine(b"shared", old_headers["Telemetry-Signature"], old_body)
    for broken in ("", "t=", "v1=x", "t=x,v1=x", f"t={int(time.time())}", f"t={int(time.time())},v1=é"):
        assert not is_genuine(b"shared", broken, body)


def test_without_a_secret_nothing_is_signed(site: Web) -> None:
    Webhook(target(site), None).send(NOTIFICATION)
    assert "Telemetry-Signature" not in site.seen[0][1]


@given(st.binary(), st.integers(0, 2**40), st.binary())
def test_the_signature_depends_on_the_time(secret: bytes, at: int, body: bytes) -> None:
    assert signature(secret, at, body) != signature(secret, at + 1, body)


# What an answer means


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 410, 413])
def test_an_answer_that_will_not_change_is_final(site: Web, status: int) -> None:
    site.status = status
    site.headers = {"Location": f"{site.url}/elsewhere"}
    with pytest.raises(DeliveryRefused, match=f"{status}.*because"):
        post(target(site), b"{}", {})
    assert len(site.seen) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_answer_that_may_change_is_tried_again(site: Web, status: int) -> None:
    site.status = status
    with pytest.raises(DeliveryFailed):
        post(target(site), b"{}", {})


@pytest.mark.parametrize(
    ("header", "expected"),
    [("7", 7.0), ("999999", 3600.0), ("soon", None), ("-3", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_the_receiver_may_say_when_to_come_back(site: Web, header: str, expected: float | None) -> None:
    site.status, site.headers = 503, {"Retry-After": header}
    with pytest.raises(DeliveryFailed) as told:
        post(target(site), b"{}", {})
    assert told.value.retry_after_seconds == expected


def test_no_message_tells_the_token_of_the_url(site: Web) -> None:
    site.status = 500
    with pytest.raises(DeliveryFailed) as told:
        post(target(site), b"{}", {})
    assert "secret" not in str(told.value)


def test_a_receiver_that_is_not_there_is_tried_again() -> None:
    with pytest.raises(DeliveryFailed, match="refused"):
        post(Target(f"http://127.0.0.1:{free_port()}/", allow_private=True), b"{}", {})


def test_what_does_not_speak_tls_is_tried_again(site: Web) -> None:
    with pytest.raises(DeliveryFailed):
        post(Target(site.url.replace("http:", "https:"), allow_private=True), b"{}", {})


# Where it may go


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),  # noqa: S104
        *("100.64.0.1", "192.0.2.7", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    ],
)
def test_no_address_of_a_private_or_special_network_is_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


def test_a_private_address_is_refused_before_anything_is_sent(site: Web) -> None:
    with pytest.raises(DeliveryRefused, match="allow_private"):
        post(replace(target(site), allow_private=False), b"{}", {})
    assert site.seen == []


def test_a_name_with_one_private_address_among_others_is_refused(site: Web) -> None:
    hidden = Target(site.url.replace("127.0.0.1", "hooks.example"))
    with pytest.raises(DeliveryRefused, match=r"hooks\.example is 10\.0\.0\.1"):
        post(hidden, b"{}", {}, resolve=lambda *_: ["8.8.8.8", "10.0.0.1"])


def test_the_connection_goes_to_the_address_that_was_judged_with_the_name_as_host(site: Web) -> None:
    named = Target(site.url.replace("127.0.0.1", "hooks.example"), allow_private=True)
    post(named, b"{}", {}, resolve=lambda *_: ["127.0.0.1"])
    assert site.seen[0][1]["Host"].startswith("hooks.example:")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a/b",
        "https://",
        "https:///x",
        "https://user:pw@host/",
        "http://h/ x",
        "http://h:99999/",
        "http://[::1",
    ],
)
def test_a_url_that_is_none_is_found_early(url: str) -> None:
    assert problem_of(url)


def test_a_usual_url_has_no_problem() -> None:
    assert problem_of("https://hooks.example:8443/a/b?c=d") is None


# Alertmanager


def test_alertmanager_gets_one_alert_whatever_becomes_of_it(site: Web) -> None:
    manager = Alertmanager(Target(site.url + "/", allow_private=True), resend_seconds=60)
    manager.send(NOTIFICATION)
    worse = replace(NOTIFICATION, kind=Kind.ESCALATED, alert=replace(ALERT, severity="warning"))
    over = replace(NOTIFICATION, kind=Kind.RESOLVED, alert=replace(ALERT, ends_at=AT))
    manager.send_all([worse, over])
    assert [path for path, _, _ in site.seen] == ["/api/v2/alerts"] * 2
    [first], [second, third] = (json.loads(body) for _, _, body in site.seen)
    assert first["labels"] == second["labels"] == third["labels"]
    assert first["labels"]["alertname"] == "boiler-hot"
    assert first["startsAt"] == "2026-11-20T23:39:00.123Z"
    assert first["endsAt"] == "2026-11-20T23:43:00.123Z"
    assert third["endsAt"] == "2026-11-20T23:39:00.123Z"


def test_alertmanager_is_not_told_what_it_does_not_know(site: Web) -> None:
    manager = Alertmanager(Target(site.url, allow_private=True), resend_seconds=60)
    manager.send(replace(NOTIFICATION, kind=Kind.DIGEST))
    manager.send(replace(NOTIFICATION, alert=None))
    assert site.seen == []


# E-mail


class Post:
    """Keeps mails, and refuses whom it is told to."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.receivers: list[list[str]] = []
        self.answers: dict[str, str] = {}

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        self.receivers.append(envelope.rcpt_tos)
        return self.answers.get("DATA", "250 OK")


@contextmanager
def post_office(**options: Any) -> Iterator[tuple[Post, Server]]:
    post_ = Post()
    port = free_port()
    controller = Controller(post_, hostname="127.0.0.1", port=port, ready_timeout=20, **options)
    controller.start()
    try:
        yield post_, Server("127.0.0.1", port, security="none")
    finally:
        controller.stop()


def test_a_mail_is_one_thread_an_episode_and_one_message_a_notification() -> None:
    with post_office() as (office, server):
        Email(server, "bridge@example.org", ["a@example.org", "b@example.org"]).send(NOTIFICATION)
    [mail] = office.mails
    assert office.receivers == [["a@example.org", "b@example.org"]]
    assert mail["Subject"] == "boiler-hot: 93.5"
    assert mail["Message-ID"] == f"<{UUID(int=5)}@telemetry-bridge>"
    assert mail["References"] == "<alert-41@telemetry-bridge>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content().replace("\r\n", "\n") == "It is hot.\nVery.\n"


def test_a_title_can_not_add_a_header() -> None:
    with post_office() as (office, server):
        evil = replace(NOTIFICATION, title="hot\r\nBcc: all@example.org", text="온도 높음")
        Email(server, "bridge@example.org", ["a@example.org"]).send(evil)
    [mail] = office.mails
    assert mail["Bcc"] is None
    assert mail["Subject"] == "hot Bcc: all@example.org"
    assert mail.get_content().strip() == "온도 높음"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("550 no such user", DeliveryRefused), ("450 mailbox busy", DeliveryFailed)],
)
def test_a_receiver_that_is_refused(answer: str, expected: type[Exception]) -> None:
    with post_office() as (office, server):
        office.answers["a@example.org"] = answer
        with pytest.raises(expected):
            Email(server, "bridge@example.org", ["a@example.org"]).send(NOTIFICATION)


def test_one_refused_receiver_does_not_mail_the_others_twice() -> None:
    with post_office() as (office, server):
        office.answers["a@example.org"] = "550 no such user"
        Email(server, "bridge@example.org", ["a@example.org", "b@example.org"]).send(NOTIFICATION)
    assert office.receivers == [["b@example.org"]]


@pytest.mark.parametrize(
    ("answer", "expected"), [("554 no", DeliveryRefused), ("451 later", DeliveryFailed), ("421 away", DeliveryFailed)]
)
def test_a_mail_that_is_refused(answer: str, expected: type[Exception]) -> None:
    with post_office() as (office, server):
        office.answers["DATA"] = answer
        with pytest.raises(expected):
            Email(server, "bridge@example.org", ["a@example.org"]).send(NOTIFICATION)


def test_a_server_without_encryption_is_not_told_the_mail_where_encryption_was_asked_for() -> None:
    with post_office() as (office, server), pytest.raises(DeliveryFailed):
        Email(replace(server, security="starttls"), "bridge@example.org", ["a@example.org"]).send(NOTIFICATION)
    assert office.mails == []


def test_a_wrong_password_is_told_without_it() -> None:
    def never(*_: object) -> AuthResult:
        return AuthResult(success=False, handled=False)

    with post_office(authenticator=never, auth_require_tls=False) as (_, server):
        known = replace(server, username="bridge", password="secret-word")  # noqa: S106
        with pytest.raises(DeliveryFailed) as told:
            Email(known, "bridge@example.org", ["a@example.org"]).send(NOTIFICATION)
    assert "user name and password" in str(told.value)
    assert "secret-word" not in str(told.value)


def test_a_mail_server_that_is_not_there_is_tried_again() -> None:
    with pytest.raises(DeliveryFailed):
        Email(Server("127.0.0.1", free_port(), "none"), "bridge@example.org", ["a@example.org"]).send(NOTIFICATION)


# Apprise

uses_apprise = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@uses_apprise
def test_apprise_tells_by_a_url_of_its_own(site: Web) -> None:
    Apprise(site.url.replace("http:", "json:")).send(NOTIFICATION)
    [(_, _, body)] = site.seen
    assert json.loads(body)["title"] == NOTIFICATION.title


@uses_apprise
def test_what_apprise_could_not_deliver_is_tried_again(site: Web) -> None:
    site.status = 500
    with pytest.raises(DeliveryFailed):
        Apprise(site.url.replace("http:", "json:")).send(NOTIFICATION)


@uses_apprise
def test_a_url_that_apprise_does_not_know_is_a_wrong_configuration() -> None:
    with pytest.raises(ConfigError, match="begins with nosuch:"):
        Apprise("nosuch://secret-word")
