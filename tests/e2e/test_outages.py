"""What happens around an outage: the present comes first, the past follows, and nothing is acknowledged too early."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import psycopg
import pytest
from harness.broker import Mosquitto
from harness.cloud import role
from harness.edge import Agent
from harness.postgres import Server
from harness.wait import until
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from cloud_ingest.store.migrate import migrate
from edge_agent.outbox import Outbox
from edge_agent.reading import Reading
from telemetry_contract.codec import decode_samples, decode_status
from telemetry_contract.payload import Tick
from telemetry_contract.topics import Kind, Topic

BACKLOG_TICKS = 50_000


class Seen(NamedTuple):
    """A message as an outsider saw it, at `at` (monotonic seconds)."""

    kind: Kind
    payload: bytes
    at: float


@contextmanager
def observing(broker: Mosquitto) -> Iterator[list[Seen]]:
    """All messages of devices, as anyone who subscribes sees them."""
    seen: list[Seen] = []
    subscribed = threading.Event()

    def on_message(_client: Client, _userdata: Any, message: MQTTMessage) -> None:
        seen.append(Seen(Topic.parse(message.topic).kind, bytes(message.payload), time.monotonic()))

    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = on_message
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect(broker.host, broker.port)
    client.loop_start()
    client.subscribe("telemetry/v1/#", qos=1)
    assert subscribed.wait(10)
    try:
        yield seen
    finally:
        client.disconnect()
        client.loop_stop()


def fill_outbox(path: Path, ticks: int) -> None:
    """What an agent would have kept in an outage of that many seconds."""
    start = time.time_ns() // 1_000_000 - ticks * 1_000
    with closing(Outbox.open(path, max_bytes=10**9)) as outbox:
        for first in range(0, ticks, 10_000):
            outbox.append_many(
                [Reading(start + 1_000 * i, 0, {"count_up_total": -1.0 - i}) for i in range(first, first + 10_000)]
            )


@pytest.mark.slow
def test_after_an_outage_the_newest_value_is_queryable_while_the_backlog_still_drains(
    database_url: str, broker: Mosquitto, tmp_path: Path, free_port: Any
) -> None:
    migrate(database_url)
    port = free_port()
    agent = Agent(tmp_path / "edge", broker, interval=0.2)
    fill_outbox(agent.outbox, BACKLOG_TICKS)
    ingest = role("ingest", tmp_path, broker, database_url)
    api = role("api", tmp_path, broker, database_url, API__LISTEN=f"127.0.0.1:{port}")
    broker.kill()
    with agent.process, ingest, api, httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        until(lambda: agent.last_seq() > BACKLOG_TICKS + 3, 30, "ticks measured while the broker is away")
        until(lambda: is_ready(client), 30, "the API")
        broker.start()
        with observing(broker) as seen:

            def current() -> float | None:
                items = client.get("/api/v1/metrics/current", params={"metric": "count_up_total"}).json()["items"]
                return items[0]["value"] if items and items[0]["value"] > 0 else None

            until(current, 60, "a value measured after the outage began")
            queryable = time.monotonic()
            drained = missing_ticks(database_url) == 0
            births = [each.at for each in seen if each.kind is Kind.STATUS and decode_status(each.payload).online]
            assert not drained, "the backlog was through first: this proves nothing"
            assert queryable - births[0] < 2
            until(lambda: missing_ticks(database_url) == 0, 120, "the whole backlog")
    with psycopg.connect(database_url) as connection:
        row = connection.execute("select count(*), count(distinct samples) from telemetry.reading").fetchone()
    assert row is not None
    assert row[0] == row[1] > BACKLOG_TICKS


@pytest.mark.slow
def test_while_the_database_is_away_the_window_closes_nothing_is_acknowledged_and_nothing_is_lost(
    own_database_server: Server, broker: Mosquitto, tmp_path: Path
) -> None:
    window = 6
    url = own_database_server.url()
    migrate(url)
    agent = Agent(
        tmp_path / "edge",
        broker,
        interval=0.3,  # well below what a window of six can confirm, as commit acks come once a second
        delivery={"window_messages": window, "confirm_timeout_seconds": 600, "backlog_ticks_per_message": 1},
    )
    ingest = role("ingest", tmp_path, broker, url)
    with ExitStack() as processes:
        seen = processes.enter_context(observing(broker))
        processes.enter_context(ingest)
        # A broker forgets at once what nobody subscribes to, and with this timeout nothing would be sent again.
        until(lambda: "connected to the broker" in ingest.output(), 30, "the ingester's subscription")
        processes.enter_context(agent.process)
        until(lambda: missing_ticks(url) == 0, 30, "the first ticks")
        own_database_server.kill()
        until(lambda: "database is away" in ingest.output(), 30, "the ingester to notice")
        acks = sum(each.kind is Kind.ACK for each in seen)
        held_back = agent.last_seq() + 4 * window
        until(lambda: agent.last_seq() > held_back, 60, "many more ticks than the window holds")
        assert sum(each.kind is Kind.ACK for each in seen) == acks
        sent = {seq for each in seen if each.kind in (Kind.SAMPLES, Kind.BACKLOG) for seq in sequences(each.payload)}
        assert agent.last_seq() - len(sent) >= 2 * window, "the window did not close"
        assert agent.depth() >= 4 * window
        own_database_server.start()
        until(lambda: "database is back" in ingest.output(), 60, "the ingester to go on")
        agent.stop()
        agent.drain(60)
    last = agent.last_seq()
    with psycopg.connect(url) as connection:
        assert connection.execute("select received::text, ticks from telemetry.stream").fetchall() == [
            (f"{{[1,{last + 1})}}", last)
        ]
        assert connection.execute("select count(distinct samples) from telemetry.reading").fetchone() == (last,)


def is_ready(client: httpx2.Client) -> bool:
    try:
        return client.get("/readiness").status_code == 200
    except httpx2.TransportError:
        return False


def sequences(payload: bytes) -> list[int]:
    samples = decode_samples(payload)
    return [samples.seq] if isinstance(samples, Tick) else samples.seq


def missing_ticks(url: str) -> int | None:
    """How many numbers up to the highest one received are missing in the ledger; None before the first."""
    with psycopg.connect(url) as connection:
        row = connection.execute("select upper(received) - 1 - ticks from telemetry.stream").fetchone()
    return None if row is None or row[0] is None else int(row[0])
