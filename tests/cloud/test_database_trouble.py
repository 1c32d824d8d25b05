"""Ingest while the database fails in the middle of a commit, is slow, full or read-only.

Nothing is acknowledged too early, nothing is lost or stored twice, and it goes on by itself.
"""

import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import psycopg
import pytest
from harness.absence import Absent, skip_or_fail
from harness.broker import Mosquitto
from harness.cloud import at_work
from harness.device import Device
from harness.link import Link
from harness.postgres import PlainServer
from harness.wait import until
from prometheus_client.parser import text_string_to_metric_families

from cloud_ingest.ingest import main
from cloud_ingest.store.migrate import migrate

ingesting = partial(at_work, main.run)
START_MS = time.time_ns() // 1_000_000 - 1_000_000


@pytest.fixture
def migrated(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def subscribed(caplog: pytest.LogCaptureFixture) -> Callable[[], None]:
    """Waits until the role is subscribed: a broker forgets at once what nobody subscribes to."""
    caplog.set_level(logging.INFO)

    def wait() -> None:
        until(lambda: "connected to the broker" in caplog.text, 15, "subscription")

    return wait


class Metrics:
    """What the role says of itself."""

    def __init__(self, port: int) -> None:
        self.listen = f"127.0.0.1:{port}"

    def value(self, name: str) -> float:
        text = httpx2.get(f"http://{self.listen}/metrics").text
        found = [
            it.value for family in text_string_to_metric_families(text) for it in family.samples if it.name == name
        ]
        assert len(found) == 1, name
        return found[0]


@pytest.fixture
def metrics(free_port: Callable[[], int]) -> Metrics:
    return Metrics(free_port())


def send(device: Device, first: int, last: int) -> None:
    for seq in range(first, last + 1):
        device.send_tick(seq, START_MS + seq, {"a": float(seq)})


def assert_stored(url: str, last: int) -> None:
    """Exactly the ticks from 1 on are stored, each once, and the ledger says the same."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select (extract(epoch from time) * 1000)::bigint, samples from telemetry.reading order by time"
        ).fetchall()
        ledger = connection.execute("select received::text, ticks from telemetry.stream").fetchall()
    assert rows == [(START_MS + seq, [float(seq)]) for seq in range(1, last + 1)]
    assert ledger == [(f"{{[1,{last + 1})}}", last)]


@contextmanager
def linked(url: str) -> Iterator[tuple[Link, str]]:
    """The way to the database, and the URL that leads over it."""
    parts = urlsplit(url)
    assert parts.port is not None
    with Link(parts.port) as link:
        yield link, parts._replace(netloc=f"{parts.username}@{link.host}:{link.port}").geturl()


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "lost"])
def test_commit_without_an_answer_is_made_once_whether_it_was_made_or_not(
    migrated: str, broker: Mosquitto, subscribed: Callable[[], None], metrics: Metrics, *, committed: bool
) -> None:
    with (
        linked(migrated) as (link, url),
        ingesting(url, broker, INGEST__METRICS_LISTEN=metrics.listen, INGEST__ACK_INTERVAL_SECONDS="0"),
        Device(broker) as device,
    ):
        subscribed()
        send(device, 1, 3)
        device.wait_committed((1, 3))
        for number in range(4, 9):
            sprung = link.cut_at(b"COMMIT", reaches_server=committed)
            send(device, number, number)
            assert sprung.wait(20)
            device.wait_committed((1, number))
        assert metrics.value("ingest_ticks_duplicate_total") == (5 if committed else 0)
        assert metrics.value("ingest_ticks_stored_total") == (3 if committed else 8)
    assert_stored(migrated, 8)


def test_while_the_database_is_read_only_nothing_is_acknowledged_and_then_all_is_stored(
    migrated: str,
    broker: Mosquitto,
    subscribed: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    metrics: Metrics,
) -> None:
    name = urlsplit(migrated).path.removeprefix("/")
    settings = {"INGEST__RECEIVE_MAXIMUM": "5", "INGEST__METRICS_LISTEN": metrics.listen}
    with ingesting(migrated, broker, **settings), Device(broker) as device:
        subscribed()
        send(device, 1, 1)
        device.wait_committed((1, 1))
        with psycopg.connect(migrated, autocommit=True) as connection:
            # As after a failover to a server that still follows another
            connection.execute(f"alter database {name} set default_transaction_read_only = on")
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'cloud-ingest'"
            )
            acks = len(device.acks)
            send(device, 2, 20)
            until(lambda: "read-only" in caplog.text, 20, "notice that the database is read-only")
            assert metrics.value("ingest_database_up") == 0
            assert len(device.acks) == acks
            connection.execute("set transaction_read_only = off")
            connection.execute(f"alter database {name} reset default_transaction_read_only")
        device.wait_committed((1, 20), timeout=30)
        assert metrics.value("ingest_database_up") == 1
    assert_stored(migrated, 20)


def test_slow_database_holds_back_the_broker_and_is_not_hurried(
    migrated: str, broker: Mosquitto, subscribed: Callable[[], None], metrics: Metrics
) -> None:
    maximum = 4
    with psycopg.connect(migrated) as connection:
        connection.execute(
            "create function wait_a_while() returns trigger language plpgsql as"
            " $$ begin perform pg_sleep(0.2); return null; end $$"
        )
        connection.execute(
            "create trigger slow after update on telemetry.stream for each statement execute function wait_a_while()"
        )
    settings = {"INGEST__RECEIVE_MAXIMUM": str(maximum), "INGEST__METRICS_LISTEN": metrics.listen}
    with ingesting(migrated, broker, **settings), Device(broker) as device:
        subscribed()
        send(device, 1, 24)  # the broker takes them as fast as ever

        def stored() -> float:
            waiting = metrics.value("ingest_messages_received_total") - metrics.value("ingest_ticks_stored_total")
            assert waiting <= maximum
            return metrics.value("ingest_ticks_stored_total")

        until(lambda: stored() == 24, 30, "all ticks")
        device.wait_committed((1, 24))
    assert_stored(migrated, 24)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 64 MB where any server may make its directory."""
    directory = Path(tempfile.mkdtemp(prefix="small-disk-"))
    directory.chmod(0o755)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=777", "tmpfs", str(directory)]
    made = subprocess.run(mount, check=False, capture_output=True, text=True)
    if made.returncode:
        directory.rmdir()
        pytest.skip(f"this user can't mount a small file system: {made.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)
        directory.rmdir()


def test_while_the_disk_is_full_nothing_is_acknowledged_and_then_all_is_stored(
    small_disk: Path,
    broker: Mosquitto,
    subscribed: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    metrics: Metrics,
) -> None:
    """The disk with the tables; where the write-ahead log has no room either, the server goes down: it is away."""
    with closing(_plain_server()) as server:
        server.start()
        place = small_disk / "tables"
        place.mkdir(mode=0o700)
        owner = psutil.Process(server.pid).uids().real
        os.chown(place, owner, -1)
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"create tablespace small location '{place}'")
            connection.execute("create database telemetry tablespace small")
        url = server.url("telemetry")
        migrate(url)
        with ingesting(url, broker, INGEST__METRICS_LISTEN=metrics.listen), Device(broker) as device:
            subscribed()
            send(device, 1, 1)
            device.wait_committed((1, 1))
            filler = small_disk / "filler"
            fill_up(filler)
            # One needs more pages than there are left in what the tables have already
            seqs = list(range(2, 3_002))
            columns: dict[str, list[float | None]] = {"a": [float(seq) for seq in seqs]}
            acks = len(device.acks)
            device.send_backlog(seqs, [START_MS + seq for seq in seqs], columns)
            until(lambda: "No space left" in caplog.text, 20, "notice that the disk is full")
            assert metrics.value("ingest_database_up") == 0
            assert len(device.acks) == acks
            filler.unlink()
            device.wait_committed((1, 3_001), timeout=30)
        assert_stored(url, 3_001)


def fill_up(file: Path) -> None:
    """Makes a file of all the room that is left."""
    with file.open("wb", buffering=0) as out, suppress(OSError):  # which ends it
        while True:
            out.write(bytes(65_536))
    left = os.statvfs(file)
    assert left.f_bavail == 0


def _plain_server() -> PlainServer:
    try:
        return PlainServer()
    except Absent as absent:
        skip_or_fail(absent)
