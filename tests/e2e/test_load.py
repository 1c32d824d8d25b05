"""`telemetry-bridge load` against a real broker, database and ingester, one of which is killed meanwhile."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from harness.broker import Mosquitto
from harness.cloud import role
from harness.processes import NewProcess
from harness.wait import until

from cloud_ingest.store.migrate import migrate

PROGRAM = Path(sys.executable).with_name("telemetry-bridge")


def options(broker: Mosquitto, *more: str) -> list[str]:
    return ["load", "--host", broker.host, "--port", str(broker.port), "--json", *more]


def stored(database_url: str) -> tuple[int, int, int]:
    """Devices, readings and samples."""
    with psycopg.connect(database_url) as connection:
        [row] = connection.execute(
            "select count(distinct device_id), count(*), coalesce(sum(cardinality(samples)), 0) from telemetry.reading"
        ).fetchall()
    return row


@pytest.mark.slow
def test_what_the_load_reports_is_in_the_database_though_an_ingester_was_killed(
    database_url: str, broker: Mosquitto, tmp_path: Path, new_process: NewProcess
) -> None:
    migrate(database_url)
    ingest = role("ingest", tmp_path, broker, database_url)
    ingest.start()
    try:
        load = new_process(
            [
                PROGRAM,
                *options(broker, "--devices", "10", "--rate", "2000", "--series", "5", "--seconds", "6"),
                *("--backlog-hours", "0.01", "--confirm-timeout-seconds", "2"),
            ]
        )
        load.start()
        until(lambda: stored(database_url)[1] > 100, 20, "the load to be under way")
        ingest.kill()
        ingest.start()
        assert load.wait(60) == 0, load.output()
    finally:
        ingest.close()
    report = json.loads(load.output().splitlines()[-1])
    assert report["sent_ticks"] == report["committed_ticks"] > 10 * 36
    assert stored(database_url) == (10, report["committed_ticks"], 5 * report["committed_ticks"])


def test_what_nobody_commits_is_said(broker: Mosquitto) -> None:
    done = subprocess.run(
        [
            PROGRAM,
            *options(broker, "--devices", "2", "--rate", "40", "--series", "2", "--seconds", "0.5"),
            *("--settle-seconds", "0.2"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["committed_ticks"] == 0
    assert report["unconfirmed_ticks"] == report["sent_ticks"] > 0


def test_no_broker_is_a_message_and_not_a_traceback(free_port: Callable[[], int]) -> None:
    done = subprocess.run(
        [PROGRAM, "load", "--devices", "1", "--rate", "1", "--port", str(free_port())],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "no broker at 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
