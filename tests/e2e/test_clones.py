"""A machine that was copied whole, name and outbox and all."""

import shutil
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from harness.broker import Mosquitto
from harness.cloud import role
from harness.edge import Agent
from harness.wait import until

from cloud_ingest.store.migrate import migrate


@pytest.mark.slow
def test_two_agents_with_one_outbox_are_noticed_and_each_number_is_stored_once(
    tmp_path: Path, broker: Mosquitto, database_url: str
) -> None:
    migrate(database_url)
    original = Agent(tmp_path / "original", broker, interval=0.2)
    copy = Agent(tmp_path / "copy", broker, interval=0.2)
    with (
        closing(role("ingest", tmp_path / "ingest", broker, database_url)) as ingest,
        closing(original.process),
        closing(copy.process),
        psycopg.connect(database_url, autocommit=True) as connection,
    ):
        ingest.start()
        original.process.start()
        until(
            lambda: connection.execute("select sum(ticks) > 3 from telemetry.stream").fetchone() == (True,),
            30,
            "some ticks",
        )
        original.stop()
        for file in original.outbox.parent.glob("outbox.db*"):
            shutil.copy(file, copy.outbox.parent)
        original.process.start()
        copy.process.start()
        until(
            lambda: connection.execute("select count(*) from telemetry.stream_conflict").fetchone() == (1,),
            60,
            "the copy to be noticed",
        )
        original.process.kill()
        copy.process.kill()
        ingest.terminate()
        assert ingest.wait(30) == 0, ingest.tail()
        rows = connection.execute(
            "select (select name from telemetry.device), (select count(*) from telemetry.reading),"
            " ticks, (select sum(upper(it) - lower(it)) from unnest(received) as it) from telemetry.stream"
        ).fetchall()
        ((name, readings, ticks, settled),) = rows
        assert name == "pump"
        assert readings == ticks == settled
