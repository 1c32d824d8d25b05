"""Agents that are killed or hang, sites that go dark, workers that die, and a cloud that was away: who is told what."""

import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from harness.broker import Mosquitto
from harness.cloud import role
from harness.device import Device
from harness.edge import Agent
from harness.processes import Process
from harness.wait import until

from cloud_ingest.store.migrate import migrate

SETTINGS = {
    "WORKER__LIVENESS__INTERVAL_SECONDS": "0.2",
    "WORKER__LIVENESS__SILENCE_SECONDS": "10",
    "WORKER__LIVENESS__GRACE_SECONDS": "1",
    "WORKER__LIVENESS__SITE_OUTAGE__WINDOW_SECONDS": "2",
}


@pytest.fixture
def query(database_url: str) -> Callable[[str], list[tuple[Any, ...]]]:
    migrate(database_url)

    def ask(text: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(database_url) as connection:
            return connection.execute(text.encode()).fetchall()

    return ask


TOLD = "select kind, content ->> 'device', content ->> 'reason' from telemetry.notification order by notification_id"
AN_HOUR_AGO = {
    "hearing": "update telemetry.hearing set since = now() - interval '3 h', until = now() - interval '1 h'",
    "stream": "update telemetry.stream set last_seen = now() - interval '1 h'",
    "device_status": "update telemetry.device_status set received_at = now() - interval '1 h'",
}
FRESH = (
    "select (select count(*) from telemetry.hearing where until > now() - interval '1 min'),"
    " (select count(*) from telemetry.stream where last_seen > now() - interval '1 min')"
)
LISTENING = (
    "select from telemetry.hearing where part = 'statuses' and until - since between interval '3 s' and interval '1 h'"
)
PRESENT = "select count(*) from telemetry.device_liveness where online"


def worker(directory: Path, broker: Mosquitto, url: str, **settings: str) -> Process:
    return role("worker", directory, broker, url, **{**SETTINGS, **settings})


@pytest.mark.slow
def test_an_agent_that_is_killed_is_lost_and_one_that_hangs_is_silent(
    database_url: str, broker: Mosquitto, tmp_path: Path, query: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    agent = Agent(tmp_path / "edge", broker, interval=0.5)
    with (
        role("ingest", tmp_path, broker, database_url),
        worker(tmp_path, broker, database_url),
        agent.process,
    ):
        until(lambda: query(PRESENT) == [(1,)], 60, "the device to be there")
        agent.process.kill()
        told: list[tuple[str, str, str | None]] = [("offline", "pump", "lost")]
        until(lambda: query(TOLD) == told, 60, "the last will to be told")
        agent.process.start()
        told += [("online", "pump", None)]
        until(lambda: query(TOLD) == told, 60, "its return to be told")
        agent.process.signal(signal.SIGSTOP)
        told += [("offline", "pump", "silent")]
        until(lambda: query(TOLD) == told, 90, "its silence to be told")
        agent.process.signal(signal.SIGCONT)
        told += [("online", "pump", None)]
        until(lambda: query(TOLD) == told, 60, "its return to be told")


@pytest.mark.slow
def test_twenty_devices_of_a_site_that_go_at_once_are_told_once_by_two_workers_that_die_in_turn(
    database_url: str, broker: Mosquitto, tmp_path: Path, query: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    window = {"WORKER__LIVENESS__SITE_OUTAGE__WINDOW_SECONDS": "10"}
    first, second = (worker(tmp_path / name, broker, database_url, **window) for name in ("first", "second"))
    with role("ingest", tmp_path, broker, database_url), first, second, ExitStack() as connected:
        devices = [connected.enter_context(Device(broker, f"pump-{it:02}")) for it in range(20)]
        for device in devices:
            device.send_status()
        until(lambda: query(PRESENT) == [(20,)], 60, "the devices to be there")
        for device in devices:
            device.send_status(online=False)
        until(lambda: query(PRESENT) == [(0,)], 60, "all of them to be gone")
        first.kill()
        until(lambda: query(TOLD), 60, "the outage to be told")
        first.start()
        second.kill()
        for device in devices:
            device.send_status()
        until(
            lambda: query("select from telemetry.site_outage where ended_at is not null"), 60, "the end of the outage"
        )
        until(lambda: len(query(TOLD)) > 1, 60, "the end to be told")
        rows = query(
            "select kind, content ->> 'site', jsonb_array_length(content -> 'devices') from telemetry.notification"
            " order by notification_id"
        )
        assert rows == [("offline", "plant", 20), ("online", "plant", 0)]
        assert query("select cardinality(devices) from telemetry.site_outage") == [(20,)]


@pytest.mark.slow
def test_a_cloud_that_was_away_for_longer_than_the_timeout_takes_nobody_for_silent(
    database_url: str, broker: Mosquitto, tmp_path: Path, query: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    agents = [Agent(tmp_path / f"edge-{it}", broker, interval=0.5, device=f"pump-{it}") for it in range(2)]
    ingest, worker_ = role("ingest", tmp_path, broker, database_url), worker(tmp_path, broker, database_url)
    with ingest, worker_, agents[0].process, agents[1].process:
        until(lambda: query(PRESENT) == [(2,)], 60, "the devices to be there")
        until(lambda: query(FRESH) == [(2, 2)], 60, "both parts to listen, and readings of both devices")
        ingest.kill()
        worker_.kill()
        for table in ("hearing", "stream", "device_status"):  # as if they had been away for an hour
            with psycopg.connect(database_url) as connection:
                connection.execute(AN_HOUR_AGO[table].encode())
        assert query(FRESH) == [(0, 0)]
        worker_.start()
        until(lambda: query(LISTENING), 60, "the worker to look for a while")
        ingest.start()
        until(lambda: query(FRESH) == [(2, 2)], 60, "readings of both devices again")
        assert query(PRESENT) == [(2,)]
        assert query(TOLD) == []
