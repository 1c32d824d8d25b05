"""The promise itself: real processes, killed at random moments, and afterwards every tick is there, once."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from harness.broker import Mosquitto
from harness.cloud import role
from harness.edge import Agent
from harness.postgres import Server
from harness.wait import until

from cloud_ingest.store.migrate import migrate

KILLS_EACH = 10
SEED = 20_261_121


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_committed_tick_is_stored_exactly_once_through_ten_kills_of_each_part(
    own_database_server: Server, broker: Mosquitto, tmp_path: Path
) -> None:
    chance = random.Random(SEED)  # noqa: S311 - chooses moments, guards nothing
    database = own_database_server
    url = database.url()
    migrate(url)
    agent = Agent(tmp_path / "edge", broker, interval=0.1, delivery={"confirm_timeout_seconds": 1})
    ingest = role("ingest", tmp_path / "cloud", broker, url)
    worker = role("worker", tmp_path / "cloud", broker, url)
    victims: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "agent": (agent.process.kill, agent.process.start),
        "ingest": (ingest.kill, ingest.start),
        "broker": (broker.kill, broker.start),
        "database": (database.kill, database.start),
    }
    order = [name for name in victims for _ in range(KILLS_EACH)]
    chance.shuffle(order)
    with ingest, worker, agent.process:
        until(lambda: stored_ticks(url) > 0, 30, "the first tick in the database")
        for name in order:
            time.sleep(chance.uniform(0.05, 0.8))  # the random moment
            kill, start = victims[name]
            kill()
            time.sleep(chance.uniform(0.0, 0.5))  # and the time that it stays away
            start()
        # No more ticks but the first one of this start; what waits must now arrive.
        agent.stop()
        agent.drain(60)

    last = agent.last_seq()
    assert last > 2 * KILLS_EACH, "the agent hardly ran: this proves nothing"
    with psycopg.connect(url) as connection:
        ledger = connection.execute("select received::text, ticks from telemetry.stream").fetchall()
        values = [row[0] for row in connection.execute("select value from telemetry.sample order by time")]
        rejected = connection.execute("select reason, detail from telemetry.rejected").fetchall()
    assert rejected == []
    assert ledger == [(f"{{[1,{last + 1})}}", last)]
    # The count goes up by one a tick and by more where a kill hit between the count and the commit; never down or
    # twice, so that each row is another tick.
    assert len(values) == last
    assert values == sorted(set(values))


def stored_ticks(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("select coalesce(sum(ticks), 0)::bigint from telemetry.stream").fetchone()
    return int(row[0]) if row else 0
