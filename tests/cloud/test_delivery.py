"""What is told of alerts: made of the rows of the transaction that stored the samples, and taken to real receivers."""

import hashlib
import hmac
import json
import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import psycopg.sql
import pytest
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from harness import alerts
from harness.api import Source
from harness.broker import Mosquitto
from harness.cloud import PROGRAM, cloud_ingest, environment
from harness.ports import free_port
from harness.processes import NewProcess, Process
from harness.wait import until
from harness.web import Web, web
from pydantic import TypeAdapter

from cloud_ingest import config
from cloud_ingest.alerts.notify.change import Change
from cloud_ingest.alerts.notify.routing import Route, routes
from cloud_ingest.alerts.notify.settings import Notifications, Receiver
from cloud_ingest.alerts.silence import Scope
from cloud_ingest.store import deliveries
from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.silences import create_silence
from cloud_ingest.worker.dispatcher import Dispatcher
from cloud_ingest.worker.metrics import WorkerMetrics
from cloud_ingest.worker.telling import Telling

Db = psycopg.Connection[tuple[Any, ...]]
ALONE = {"group_by": None}


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    alerts.threshold(database_url)
    return database_url


@pytest.fixture
def connection(url: str) -> Iterator[Db]:
    with connect(url, "test") as connection:
        yield connection


@pytest.fixture
def site() -> Iterator[Web]:
    with web() as state:
        yield state


def hook(site: Web, **settings: Any) -> dict[str, Any]:
    return {"type": "webhook", "url": f"{site.url}/hook", "allow_private": True, **settings}


@contextmanager
def telling(url: str, receivers: dict[str, Any], **settings: Any) -> Iterator[WorkerMetrics]:
    """What the worker runs, in a thread until the block ends."""
    metrics = WorkerMetrics()
    notifications = Notifications.model_validate({"receivers": receivers, **settings})
    loaded = config.load(None, {"CLOUD_INGEST_DATABASE_URL": url}).model_copy(update={"notifications": notifications})
    stop = threading.Event()
    thread = threading.Thread(target=Telling(loaded, Dispatcher(notifications, metrics)).run, args=[stop])
    thread.start()
    try:
        yield metrics
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def fire(url: str, device: str = "pump", *, at: int | None = None, end: int | None = None, peak: float = 85.0) -> None:
    start = alerts.now_ms() if at is None else at
    alerts.episode(Source(url, device), start, end, peak)


def bodies(site: Web) -> list[dict[str, Any]]:
    return [json.loads(body) for _, _, body in site.seen]


def states(connection: Db) -> Counter[str]:
    return Counter(state for (state,) in connection.execute("select state from telemetry.delivery"))


def settled(connection: Db, count: int) -> Callable[[], bool]:
    """Whether so many messages were sent, and none waits."""
    return lambda: states(connection) == Counter(sent=count)


def test_an_episode_is_told_from_beginning_to_end_in_order(url: str, site: Web, connection: Db) -> None:
    now = alerts.now_ms()
    with telling(url, {"ops": hook(site, **ALONE)}) as metrics:
        fire(url, at=now, end=now + 5_000)
        until(settled(connection, 2), 30, "both messages")
    opened, ended = bodies(site)
    assert (opened["kind"], ended["kind"]) == ("firing", "resolved")
    assert opened["title"] == "[warning] hot: pump temperature_celsius"
    assert ended["title"] == "[resolved] hot: pump temperature_celsius"
    assert opened["alert"]["id"] == ended["alert"]["id"]
    assert opened["alert"]["ends_at"] is None
    assert ended["alert"]["ends_at"] == _time(now + 5_000)
    assert ended["alert"]["starts_at"] == opened["alert"]["starts_at"] == _time(now)
    assert "value: 85" in opened["text"]
    assert metrics.registry.get_sample_value("worker_notifications_sent_total", {"receiver": "ops"}) == 2


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_what_was_there_before_any_receiver_is_not_told_later(url: str, site: Web, connection: Db) -> None:
    fire(url)
    with telling(url, {}):
        until(lambda: _unrouted(connection) == 0, 30, "the change to be passed over")
    with telling(url, {"ops": hook(site, **ALONE)}):
        fire(url, "valve")
        until(settled(connection, 1), 30, "the new one")
    assert [body["alert"]["device"] for body in bodies(site)] == ["valve"]


def _unrouted(connection: Db) -> int:
    ((count,),) = connection.execute("select count(*) from telemetry.notification where fanned_out_at is null")
    return int(count)


def test_many_alerts_of_one_site_make_one_message(url: str, site: Web, connection: Db) -> None:
    now = alerts.now_ms()
    for number in range(30):
        fire(url, f"pump-{number}", at=now, peak=95.0 if number == 7 else 85.0)
    with telling(url, {"ops": hook(site, group_wait_seconds=0.5)}):
        until(settled(connection, 1), 30, "one message")
    [body] = bodies(site)
    assert body["title"].endswith("hot at plant: 30 firing")
    assert body["title"].startswith("[critical]")
    assert body["details"]["count"] == 30
    assert {it["alert"]["device"] for it in body["details"]["changes"]} == {f"pump-{number}" for number in range(30)}
    assert len(body["text"].splitlines()) == 30


@pytest.mark.slow
def test_a_receiver_that_was_down_is_told_once_it_is_back(url: str, connection: Db, caplog: Any) -> None:
    port = free_port()
    receivers = {"ops": {"type": "webhook", "url": f"http://127.0.0.1:{port}/", "allow_private": True, **ALONE}}
    with caplog.at_level(logging.INFO, "cloud_ingest"), telling(url, receivers) as metrics:
        fire(url)
        until(lambda: _failures(connection) >= 2, 60, "two attempts")
        with web(port) as site:
            fire(url, "valve")
            until(settled(connection, 2), 60, "both messages")
            assert sorted(body["alert"]["device"] for body in bodies(site)) == ["pump", "valve"]
    failed = metrics.registry.get_sample_value("worker_notifications_failed_total", {"receiver": "ops"})
    assert failed is not None
    assert failed >= 2
    told = [record.message for record in caplog.records if "ops" in record.message]
    assert len(told) == 2  # gone, and back: not one line an attempt
    assert told[1] == "ops takes notifications again"


def _failures(connection: Db) -> int:
    ((failures,),) = connection.execute("select coalesce(max(failures), 0) from telemetry.receiver").fetchall()
    return int(failures)


def test_the_receiver_says_when_to_come_back(url: str, site: Web, connection: Db) -> None:
    site.status, site.headers = 503, {"Retry-After": "1800"}
    with telling(url, {"ops": hook(site, **ALONE)}):
        fire(url)
        until(lambda: _failures(connection) == 1, 30, "the attempt")
    [(due, paused)] = connection.execute(
        "select due_at - now() >= interval '29 minutes', paused_until - now() >= interval '29 minutes'"
        " from telemetry.delivery join telemetry.receiver on name = receiver"
    ).fetchall()
    assert due
    assert paused
    assert len(site.seen) == 1


def test_what_nobody_takes_is_kept_as_dead_and_can_be_tried_again(url: str, site: Web, connection: Db) -> None:
    site.status = 500
    with telling(url, {"ops": hook(site, **ALONE)}, give_up_after_seconds=0.001) as metrics:
        fire(url)
        until(lambda: states(connection) == Counter(dead=1), 30, "the message to be given up")
        until(
            lambda: metrics.registry.get_sample_value("worker_notifications_dead", {"receiver": "ops"}) == 1,
            30,
            "the count of dead messages",
        )
    out, _ = cloud_ingest("notifications", "list", "--state", "dead", DATABASE_URL=url)
    assert "because" in out
    assert "dead" in out
    site.status = 204
    assert "1 message" in cloud_ingest("notifications", "retry", "--all", DATABASE_URL=url)[0]
    with telling(url, {"ops": hook(site, **ALONE)}):
        until(settled(connection, 1), 30, "the message after all")
    first, second = site.seen
    assert first[2] == second[2]
    assert first[1]["Telemetry-Notification-Id"] == second[1]["Telemetry-Notification-Id"]
    assert "no messages" in cloud_ingest("notifications", "list", "--state", "dead", DATABASE_URL=url)[0]


def test_what_is_refused_is_dead_at_once_and_holds_nothing_up(url: str, site: Web, connection: Db) -> None:
    site.status = 400
    with telling(url, {"ops": hook(site, **ALONE)}):
        fire(url)
        until(lambda: states(connection) == Counter(dead=1), 30, "the refusal")
        site.status = 204
        fire(url, "valve")
        until(lambda: states(connection) == Counter(dead=1, sent=1), 30, "the next message")


@pytest.mark.parametrize("status", [400, 500])
def test_an_answer_that_no_database_takes_harms_nothing(url: str, site: Web, connection: Db, status: int) -> None:
    site.status, site.answer = status, b"no\0\xff\ntext"
    with telling(url, {"ops": hook(site, **ALONE)}, give_up_after_seconds=0.001):
        fire(url)
        until(lambda: states(connection) == Counter(dead=1), 30, "the message to be given up")
        site.status = 204
        fire(url, "valve")
        until(lambda: states(connection) == Counter(dead=1, sent=1), 30, "the next message")


class Mailbox:
    """Keeps the mails that a server was given."""

    def __init__(self) -> None:
        self.mails: list[bytes] = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - the library's name
        assert isinstance(envelope.content, bytes)
        self.mails.append(envelope.content)
        return "250 OK"


def test_a_group_is_one_mail(url: str, connection: Db) -> None:
    mailbox, port = Mailbox(), free_port()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port, ready_timeout=20)
    controller.start()
    try:
        fire(url, "pump")
        fire(url, "valve")
        mail = {"type": "email", "host": "127.0.0.1", "port": port, "security": "none", "group_wait_seconds": 0.5}
        with telling(url, {"people": {**mail, "sender": "bridge@example.org", "to": ["ann@example.org"]}}):
            until(settled(connection, 1), 30, "the mail")
    finally:
        controller.stop()
    [mail_text] = mailbox.mails
    assert b"Subject: [warning] hot at plant: 2 firing" in mail_text
    assert b"pump: temperature_celsius" in mail_text
    assert b"valve: temperature_celsius" in mail_text


@pytest.mark.slow
def test_more_than_the_limit_becomes_one_digest(url: str, site: Web, connection: Db) -> None:
    limit = {"messages": 2, "seconds": 4}
    for number in range(12):
        fire(url, f"pump-{number}")
    with telling(url, {"ops": hook(site, **ALONE, rate_limit=limit)}):
        until(settled(connection, 3), 60, "two messages and a digest")
    first, second, digest = bodies(site)
    assert (first["kind"], second["kind"], digest["kind"]) == ("firing", "firing", "digest")
    assert digest["details"]["count"] == 10
    assert digest["title"] == "[digest] hot at plant: 10 firing"
    rows = connection.execute("select done_at from telemetry.delivery order by done_at").fetchall()
    assert rows[2][0] - rows[0][0] >= timedelta(seconds=4)


def test_who_was_not_told_of_an_episode_is_not_told_of_its_end(url: str, site: Web, connection: Db) -> None:
    now = alerts.now_ms()
    receivers = {
        "worst": hook(site, **ALONE, match={"min_severity": "critical"}),
        "others": hook(site, **ALONE, match={"site": "el*where"}),
    }
    with telling(url, receivers):
        fire(url, "mild", at=now, end=now + 1_000)
        fire(url, "hard", at=now, end=now + 1_000, peak=95.0)
        until(settled(connection, 2), 30, "the messages about one device")
    assert [(body["kind"], body["alert"]["device"]) for body in bodies(site)] == [
        ("firing", "hard"),
        ("resolved", "hard"),
    ]


def test_what_is_silenced_is_told_when_the_silence_is_over_if_it_still_holds(
    url: str, site: Web, connection: Db
) -> None:
    with connection.transaction():
        ends = datetime.now(UTC) + timedelta(hours=1)
        create_silence(connection, Scope(site="plant"), starts_at=None, ends_at=ends, by="ann", note=None)
    now = alerts.now_ms()
    with telling(url, {"ops": hook(site, **ALONE)}):
        fire(url, "over", at=now, end=now + 1_000)
        fire(url, "lasting", at=now)
        until(lambda: _held(connection) == 3, 30, "both to be held back")
        connection.execute("update telemetry.silence set ends_at = now()")
        connection.execute("update telemetry.notification set fan_out_at = created_at + interval '1 microsecond'")
        until(settled(connection, 1), 30, "what still holds")
    assert [body["alert"]["device"] for body in bodies(site)] == ["lasting"]


def _held(connection: Db) -> int:
    ((count,),) = connection.execute("select count(*) from telemetry.notification where fan_out_at > now()").fetchall()
    return int(count)


@pytest.mark.slow
def test_two_workers_tell_everything_once(url: str, site: Web, connection: Db) -> None:
    receivers = {name: hook(site, **ALONE) for name in ("one", "two")}
    now = alerts.now_ms()
    with telling(url, receivers), telling(url, receivers):
        for number in range(40):
            fire(url, f"pump-{number}", at=now, end=now + 1_000)
        until(settled(connection, 160), 60, "all messages")
    ids = [headers["Telemetry-Notification-Id"] for _, headers, _ in site.seen]
    assert len(ids) == len(set(ids)) == 160
    per_device: dict[str, list[str]] = {}
    for body in bodies(site):
        per_device.setdefault(body["alert"]["device"], []).append(body["kind"])
    assert all(sorted(kinds) == ["firing", "firing", "resolved", "resolved"] for kinds in per_device.values())
    assert all(kinds[0] == "firing" and kinds[-1] == "resolved" for kinds in per_device.values())


class Worker:
    """The real worker as a process, with receivers in its file."""

    def __init__(self, new_process: NewProcess, tmp_path: Path, broker: Mosquitto, url: str) -> None:
        self._new_process, self._tmp_path, self._broker, self._url = new_process, tmp_path, broker, url

    def __call__(self, name: str, receivers: dict[str, Any], **settings: Any) -> Process:
        file = self._tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"notifications": {"receivers": receivers, **settings}}))
        process = self._new_process(
            [PROGRAM, "worker", "--config", file],
            environment(self._broker, self._url, {}),
            log=self._tmp_path / f"{name}.log",
        )
        process.start()
        return process


@pytest.fixture
def worker(new_process: NewProcess, tmp_path: Path, broker: Mosquitto, url: str) -> Worker:
    return Worker(new_process, tmp_path, broker, url)


@pytest.mark.slow
def test_of_a_killed_worker_only_the_message_on_its_way_is_sent_again_with_its_id(
    worker: Worker, url: str, site: Web, connection: Db, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret-word\n")
    receivers = {"ops": hook(site, **ALONE, secret_file=str(secret), url=f"{site.url}/hook?token=other-word")}
    first = worker("first", receivers, claim_seconds=2)
    fire(url, "before")
    until(settled(connection, 1), 30, "a message of the first worker")
    site.go_on.clear()
    fire(url, "pump")
    until(lambda: len(site.seen) == 2, 30, "the message to be on its way")
    first.kill()
    site.go_on.set()
    second = worker("second", receivers, claim_seconds=2)
    fire(url, "after")
    until(settled(connection, 3), 60, "all messages")
    second.terminate()
    assert second.wait(30) == 0
    counts = Counter(headers["Telemetry-Notification-Id"] for _, headers, _ in site.seen)
    assert sorted(counts.values()) == [1, 1, 2]
    again = [body for _, headers, body in site.seen if counts[headers["Telemetry-Notification-Id"]] == 2]
    assert again[0] == again[1]
    assert json.loads(again[0])["alert"]["device"] == "pump"
    for _, headers, body in site.seen:
        stamp, _, code = headers["Telemetry-Signature"].partition(",v1=")
        assert code == hmac.digest(b"secret-word", f"{stamp[2:]}.".encode() + body, hashlib.sha256).hex()
    for log in (first.output(), second.output()):
        assert "secret-word" not in log
        assert "other-word" not in log


def test_a_worker_that_is_told_to_stop_finishes_what_is_on_its_way(
    worker: Worker, url: str, site: Web, connection: Db
) -> None:
    process = worker("only", {"ops": hook(site, **ALONE)})
    site.go_on.clear()
    fire(url)
    until(lambda: len(site.seen) == 1, 30, "the message to be on its way")
    process.signal(signal.SIGTERM)
    site.go_on.set()
    assert process.wait(30) == 0
    assert settled(connection, 1)()


def test_a_database_that_goes_away_meanwhile_makes_nothing_be_told_twice(url: str, site: Web, connection: Db) -> None:
    site.go_on.clear()
    with telling(url, {"ops": hook(site, **ALONE)}):
        fire(url)
        until(lambda: len(site.seen) == 1, 30, "the message to be on its way")
        ((ended,),) = connection.execute(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where application_name = 'cloud-ingest-notifications'"
        ).fetchall()
        assert ended == 1
        site.go_on.set()
        until(settled(connection, 1), 30, "the message to be recorded")
    assert len(site.seen) == 1


def test_check_config_reads_the_files_of_receivers_and_prints_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "cloud.yaml"
    receivers: dict[str, Any] = {
        "ops": {"type": "webhook", "url": "https://h.example/secret-word", "secret_file": str(tmp_path / "none")}
    }
    file.write_text(yaml.safe_dump({"notifications": {"receivers": receivers}}))
    _, err = cloud_ingest("check-config", "--config", str(file), code=2, DATABASE_URL="postgresql://u@h/d")
    assert f"notifications.receivers.ops.secret_file {tmp_path / 'none'}: No such file" in err
    (tmp_path / "none").write_text("secret-word\n")
    out, _ = cloud_ingest("check-config", "--config", str(file), DATABASE_URL="postgresql://u@h/d")
    assert yaml.safe_load(out)["notifications"]["receivers"]["ops"]["url"] == "**********"


@pytest.mark.slow
def test_an_alertmanager_is_told_again_of_what_fires_and_of_what_ended(
    worker: Worker, url: str, site: Web, connection: Db
) -> None:
    now = alerts.now_ms()
    receiver = {"type": "alertmanager", "url": site.url, "allow_private": True, "resend_seconds": 1}
    process = worker("only", {"prometheus": receiver})
    fire(url, "pump", at=now)
    fire(url, "mild", at=now)
    with connection.transaction():
        ends = datetime.now(UTC) + timedelta(hours=1)
        create_silence(connection, Scope(device="mild"), starts_at=None, ends_at=ends, by="ann", note=None)
    start = len(site.seen)
    until(lambda: [it for it in told(site, start) if it == ("pump", False)][2:], 30, "repetitions of what fires")
    # What is repeated ends in the future, or it would count as resolved
    entry = json.loads(site.seen[-1][2])[-1]
    assert entry["labels"]["alertname"] == "hot"
    assert entry["endsAt"] > _time(alerts.now_ms())
    site.status = 503  # an end that is not taken
    pump = Source(url, "pump")
    pump.write({now + 2_000: {"temperature_celsius": 0.0}})
    until(lambda: _failures(connection) > 0, 30, "the end to fail")
    refused = len(site.seen)
    site.status = 200
    until(lambda: ("pump", True) in told(site, refused), 30, "the end by repetition")
    process.terminate()
    assert process.wait(30) == 0
    after = [it for it in told(site, refused) if it[0] == "pump"]
    assert after[after.index(("pump", True)) :] == [("pump", True)] * after.count(("pump", True))


def told(site: Web, start: int) -> list[tuple[str, bool]]:
    """Of each alert in the requests from `start` on: its device, and whether it has ended."""
    entries = [entry for _, _, body in site.seen[start:] for entry in json.loads(body)]
    return [(it["labels"]["device"], it["annotations"]["state"] == "resolved") for it in entries]


@pytest.mark.parametrize("about", ["alert_id", "device_id"])
def test_a_message_waits_for_an_earlier_one_about_the_same_and_for_no_other(
    url: str, connection: Db, about: str
) -> None:
    fire(url, "pump")
    fire(url, "valve")
    connection.execute("update telemetry.notification set fanned_out_at = now()")
    column = psycopg.sql.Identifier(about)
    named = psycopg.sql.SQL("insert into telemetry.notification ({}, kind, content) values (%s, 'online', %s)")
    for number in (1, 1, 2):
        connection.execute(named.format(column), [number, "{}"])
    receivers = {"ops": TypeAdapter(Receiver).validate_python({"type": "webhook", "url": "https://h", **ALONE})}
    deliveries.register(connection, receivers)

    def router(changes: Sequence[Change], told: Collection[tuple[str, int]]) -> Sequence[Route]:
        return routes(receivers, changes, told)

    def claim() -> int | None:
        claimed = deliveries.claim(connection, "ops", None, timedelta(hours=1))
        return None if claimed is None else claimed.number

    assert deliveries.fan_out(connection, router, {"ops": timedelta()}) == 3
    first = deliveries.claim(connection, "ops", None, timedelta(hours=1))
    assert first is not None
    assert claim() == first.number + 2  # the second is about the same as the first
    assert claim() is None
    hour = timedelta(hours=1)
    deliveries.failed(connection, first, "busy", delay=hour, pause=timedelta(), give_up=hour)
    assert claim() is None
    connection.execute("update telemetry.delivery set due_at = now()")
    again = deliveries.claim(connection, "ops", None, timedelta(hours=1))
    assert again is not None
    assert (again.delivery_id, again.attempts) == (first.delivery_id, 2)
    deliveries.sent(connection, first)  # whose claim is over: it changes nothing
    assert claim() is None
    deliveries.sent(connection, again)
    assert claim() == first.number + 1
