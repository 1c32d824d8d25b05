"""Event streams from a running API: in order, each event once, whatever is killed, restarted or slow."""

import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from harness.alerts import episode, now_ms, threshold
from harness.api import Source, ok, serving
from harness.plans import Plans
from harness.ports import free_port
from harness.postgres import Server, new_database
from harness.processes import NewProcess, Process
from harness.sse import EventReader
from harness.wait import until
from prometheus_client.parser import text_string_to_metric_families

from cloud_ingest.api.streams import event_stream
from cloud_ingest.store.alerts import AlertFilter, past_alerts
from cloud_ingest.store.database import connect
from cloud_ingest.store.feed import Position, alert_events, present
from cloud_ingest.store.history import Window
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.rollup.state import from_ms

Db = psycopg.Connection[tuple[Any, ...]]
ALERTS, LIVE = "/api/v1/alerts/stream", "/api/v1/live/stream"
FIRST = "0-0"


@pytest.fixture
def url(database_url: str) -> str:
    """A database with one alert, which was told of."""
    migrate(database_url)
    threshold(database_url)
    episode(Source(database_url, "pump", "north"), now_ms() - 60_000, None)
    return database_url


@pytest.fixture
def client(url: str) -> Iterator[httpx2.Client]:
    with serving(url) as client:
        yield client


def port_of(client: httpx2.Client) -> int:
    assert client.base_url.port is not None
    return client.base_url.port


def tell(connection: Db, text: str, kind: str = "escalated") -> None:
    """Something happens to the alert."""
    connection.execute(
        "insert into telemetry.notification (alert_id, kind, content)"
        " select alert_id, %s, jsonb_build_object('device', 'pump', 'text', %s::text) from telemetry.alert limit 1",
        [kind, text],
    )


def texts(reader: EventReader) -> list[str]:
    return [event.data["text"] for event in reader.events if "text" in event.data]


def wait_for_events(reader: EventReader, count: int) -> None:
    until(lambda: len(reader.events) >= count, 60, f"{count} events")


def wait_for_text(reader: EventReader, text: str) -> None:
    until(lambda: texts(reader)[-1:] == [text], 20, text)


def wait_for_end(reader: EventReader) -> None:
    until(lambda: reader.ended, 20, "the end of the stream")


def wait_for_answer(port: int, process: Process) -> None:
    until(lambda: answers(port), 30, f"the API to answer: {process.tail()}")


def open_streams(client: httpx2.Client) -> float:
    return next(
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "api_streams"
    )


# Alerts


def test_what_happens_to_an_alert_arrives_as_it_happens(client: httpx2.Client, url: str) -> None:
    now, pump = now_ms(), Source(url, "pump2", "south")
    with EventReader(port_of(client), ALERTS) as reader:
        episode(pump, now - 30_000, None)
        until(lambda: len(reader.events) == 1, 20, "the beginning")
        pump.write({now - 20_000: {"temperature_celsius": 95.0}, now - 10_000: {"temperature_celsius": 10.0}})
        until(lambda: len(reader.events) == 3, 20, "all that happened")
        assert [event.kind for event in reader.events] == ["opened", "escalated", "ended"]
        opened = reader.events[0].data
        assert (opened["device"], opened["site"], opened["value"]) == ("pump2", "south", 85)
        assert ok(client, f"/api/v1/alerts/{opened['alert']}")["start"] == opened["start"]
        assert reader.content_type.startswith("text/event-stream")
        ids = [Position.parse(event.id) for event in reader.events]
        assert ids == sorted(set(ids))


def test_who_comes_back_gets_what_it_missed_and_nothing_again(client: httpx2.Client, url: str) -> None:
    with connect(url, "test") as connection:
        for number in range(5):
            tell(connection, str(number))
        with EventReader(port_of(client), ALERTS, FIRST) as reader:
            until(lambda: len(reader.events) == 6, 20, "all that ever happened")
        for index, event in enumerate(reader.events):
            address = f"{ALERTS}?last_event_id={event.id}"  # as a browser's first connection has to say it
            with EventReader(port_of(client), address) as again:
                wait_for_events(again, 5 - index)
                tell(connection, "last")
                wait_for_text(again, "last")
            assert [it.id for it in again.events][: 5 - index] == [it.id for it in reader.events[index + 1 :]]


def test_who_asks_for_nothing_old_gets_what_is_new(client: httpx2.Client, url: str) -> None:
    with connect(url, "test") as connection, EventReader(port_of(client), ALERTS) as reader:
        until(lambda: reader.last_id, 20, "the present")
        tell(connection, "new")
        until(lambda: reader.events, 20, "the event")
        assert texts(reader) == ["new"]


def test_what_commits_later_is_never_skipped(url: str) -> None:
    with connect(url, "early") as early, connect(url, "late") as late, connect(url, "reader") as reader:
        start = present(reader)
        early.execute("begin")
        tell(early, "began first")
        tell(late, "committed first")
        assert alert_events(reader, start, 10) == []  # or the smaller number would be skipped for ever
        early.execute("commit")
        assert [it.content["text"] for it in alert_events(reader, start, 10)] == ["began first", "committed first"]


@pytest.mark.parametrize("count", [1, 7, 100])
def test_pages_of_any_size_hold_everything_once(url: str, count: int) -> None:
    with connect(url, "test") as connection:
        for number in range(20):
            tell(connection, str(number))
        everything = alert_events(connection, Position(0, 0), 100)
        seen, position = [], Position(0, 0)
        while page := alert_events(connection, position, count):
            seen += page
            position = page[-1].position
    assert seen == everything
    assert len(seen) == 21


@pytest.mark.parametrize(
    ("query", "count"),
    [("device=pump", 1), ("device=fan", 0), ("site=north", 1), ("site=south", 0), ("location=plant", 0)],
)
def test_a_stream_holds_what_is_asked_for(client: httpx2.Client, url: str, query: str, count: int) -> None:
    """What concerns all is seen by all: after it nothing else can come."""
    with (
        EventReader(port_of(client), f"{ALERTS}?{query}", FIRST) as reader,
        EventReader(port_of(client), ALERTS) as all_,
    ):
        with connect(url, "test") as connection:
            until(lambda: all_.last_id, 20, "the present")
            tell(connection, "sent")
            connection.execute(
                "insert into telemetry.notification (alert_id, kind, content) select alert_id, 'end', %s::jsonb"
                " from telemetry.alert limit 1",
                ['{"device": "' + query.removeprefix("device=") + '", "site": "' + query.removeprefix("site=")
                 + '", "location": "' + query.removeprefix("location=") + '"}'],
            )  # fmt: skip
        until(lambda: [it for it in reader.events if it.kind == "end"], 20, "the last")
        assert len([it for it in reader.events if it.kind == "opened"]) == count


# Trouble


@pytest.fixture
def replicas(database_server: Server, new_process: NewProcess) -> Iterator[tuple[str, list[tuple[int, Process]]]]:
    """Two APIs of one database, as processes."""
    with new_database(database_server) as url, ExitStack() as stack:
        migrate(url)
        threshold(url)
        episode(Source(url, "pump", "north"), now_ms() - 60_000, None)
        found = []
        for _ in range(2):
            port = free_port()
            environ = {"CLOUD_INGEST_DATABASE_URL": url, "CLOUD_INGEST_API__LISTEN": f"127.0.0.1:{port}"}
            process = new_process([Path(sys.executable).with_name("cloud-ingest"), "api"], environ)
            stack.callback(process.close)
            process.start()
            found.append((port, process))
        for port, process in found:
            wait_for_answer(port, process)
        yield url, found


def answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/liveness").status_code == 200
    except httpx2.TransportError:
        return False


def write_until(stop: threading.Event, url: str, writer: int) -> None:
    """Transactions of random length, which so commit in another order than they began."""
    chance = random.Random(writer)  # noqa: S311 - nobody must not guess it
    with connect(url, "writer") as connection:
        number = 0
        while not stop.is_set():
            with connection.transaction():
                tell(connection, f"{writer}-{number}-a")
                connection.execute("select pg_sleep(%s)", [chance.random() / 20])
                tell(connection, f"{writer}-{number}-b")
            number += 1


@pytest.mark.slow
def test_kills_and_changes_of_replica_lose_and_double_nothing(
    replicas: tuple[str, list[tuple[int, Process]]],
) -> None:
    url, processes = replicas
    stop = threading.Event()
    writers = [threading.Thread(target=write_until, args=(stop, url, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    seen: list[str] = []
    last_id = FIRST
    try:
        for port, process in processes * 2:
            with EventReader(port, ALERTS, last_id) as reader:
                wait_for_events(reader, 20)
                process.kill()
                wait_for_end(reader)
            seen += texts(reader)
            last_id = reader.last_id or FIRST
            process.start()
            wait_for_answer(port, process)
    finally:
        stop.set()
        for writer in writers:
            writer.join(60)
    with connect(url, "test") as connection:
        told = [it.content["text"] for it in alert_events(connection, Position(0, 0), 9_000) if "text" in it.content]
    with EventReader(processes[1][0], ALERTS, last_id) as reader:
        wait_for_text(reader, told[-1])
    assert len(seen) >= 4 * 20 - 1
    assert seen + texts(reader) == told


def test_streams_end_cleanly_when_the_api_stops(url: str) -> None:
    with serving(url) as client:
        readers = [EventReader(port_of(client), address) for address in (ALERTS, LIVE)]
        until(lambda: all(reader.last_id for reader in readers), 20, "the streams to begin")
    for reader in readers:
        wait_for_end(reader)
        assert reader.ended == "clean"
        reader.close()


def test_a_client_that_takes_nothing_is_cut_off_and_others_are_served(
    client: httpx2.Client, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_stream, "SEND_SECONDS", 1)
    port = port_of(client)
    with socket.socket() as stuck, EventReader(port, ALERTS, FIRST) as reader, connect(url, "test") as connection:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stuck.connect(("127.0.0.1", port))
        stuck.sendall(f"GET {ALERTS} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {FIRST}\r\n\r\n".encode())
        until(lambda: open_streams(client) == 2, 20, "both streams")
        for number in range(60):
            tell(connection, str(number) + "x" * 500_000)  # more than sockets hold
        until(lambda: open_streams(client) == 1, 60, "the stuck client to be cut off")
        until(lambda: len(texts(reader)) == 60, 60, "the other to have everything")
        assert "took nothing for 1 s: cut off" in caplog.text
        assert "without completing" not in caplog.text
        stuck.settimeout(20)
        assert not read_all(stuck).endswith(b"\r\n0\r\n\r\n")  # what ends a whole answer


def read_all(connection: socket.socket) -> bytes:
    """The last piece of what was on its way."""
    last = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            last = piece
    return last


def test_a_client_that_leaves_is_forgotten(client: httpx2.Client) -> None:
    with EventReader(port_of(client), ALERTS):
        until(lambda: open_streams(client) == 1, 20, "the stream")
    until(lambda: open_streams(client) == 0, 20, "it to be forgotten")


def test_a_quiet_stream_shows_that_it_lives_and_how_far_it_is(
    client: httpx2.Client, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.05)
    with EventReader(port_of(client), f"{ALERTS}?device=nobody") as reader, connect(url, "test") as connection:
        until(lambda: len(reader.comments) > 3, 20, "signs of life")
        tell(connection, "of another")
        newest = str(until(lambda: alert_events(connection, Position(0, 0), 10)[1:], 20, "the event")[-1].position)
        until(lambda: reader.last_id == newest, 20, "the id of what does not concern it")
        assert reader.events == []


def test_no_more_streams_than_allowed(url: str) -> None:
    with serving(url, API__MAX_STREAMS="1") as client, EventReader(port_of(client), LIVE):
        until(lambda: open_streams(client) == 1, 20, "the stream")
        response = client.get(ALERTS)
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")
        assert "all 1 streams are taken" in response.json()["detail"]


def test_head_does_not_wait_for_events(client: httpx2.Client) -> None:
    response = client.head(ALERTS)
    assert (response.status_code, response.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")


@pytest.mark.parametrize("text", ["x", "1", "1-x", "-1-2", "1-99999999999999999999999"])
def test_an_id_that_is_none_is_refused(client: httpx2.Client, text: str) -> None:
    for response in (client.get(ALERTS, headers={"Last-Event-ID": text}), client.get(f"{LIVE}?last_event_id={text}")):
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] in {"Last-Event-ID", "last_event_id"}


def test_the_id_of_another_database_is_told_and_begins_anew(client: httpx2.Client, url: str) -> None:
    with EventReader(port_of(client), ALERTS, str(2**62) + "-1") as reader, connect(url, "test") as connection:
        until(lambda: reader.events, 20, "to be told")
        assert reader.events[0].kind == "reset"
        tell(connection, "new")
        until(lambda: texts(reader) == ["new"], 20, "what is new")


def test_streams_outlive_the_database(own_database_server: Server) -> None:
    with new_database(own_database_server) as url:
        migrate(url)
        threshold(url)
        with serving(url) as client, EventReader(port_of(client), ALERTS) as reader:
            until(lambda: reader.last_id, 20, "the present")
            own_database_server.kill()
            assert client.get("/readiness").status_code == 503
            own_database_server.start()
            episode(Source(url, "pump"), now_ms() - 1_000, None)
            until(lambda: reader.events, 30, "what happened after")
            assert reader.ended is None


# Live


def live_values(reader: EventReader) -> list[tuple[str, dict[str, float]]]:
    return [(it.data["device"], {item["metric"]: item["value"] for item in it.data["items"]}) for it in reader.events]


def test_live_shows_devices_with_their_newest_values(client: httpx2.Client, url: str) -> None:
    pump, fan = Source(url, "pump3", "north"), Source(url, "fan", "south")
    now = now_ms()
    address = f"{LIVE}?device=pump3&device=fan"
    with EventReader(port_of(client), address) as reader:
        until(lambda: reader.last_id, 20, "the present")
        pump.write({now - 1_000: {"a": 1.0, "b": 2.0}})
        until(lambda: live_values(reader) == [("pump3", {"a": 1.0, "b": 2.0})], 20, "the first reading")
        pump.write({now: {"a": 3.0, "b": None}})
        fan.write({now: {"c": 4.0}})
        until(lambda: {"pump3", "fan"} <= {device for device, _ in live_values(reader)[1:]}, 20, "the second")
        assert dict(live_values(reader)[1:]) == {"pump3": {"a": 3.0, "b": None}, "fan": {"c": 4.0}}
        assert reader.events[1].id != reader.events[0].id


def test_live_goes_on_with_the_newest_of_what_changed_and_nothing_else(client: httpx2.Client, url: str) -> None:
    sources = {name: Source(url, name) for name in ("d1", "d2", "d3")}
    now = now_ms()
    for source in sources.values():
        source.write({now - 10_000: {"a": 1.0}})
    with EventReader(port_of(client), LIVE, FIRST) as reader:
        until(lambda: len(reader.events) == 4, 20, "all devices")
    for value in range(2, 5):
        sources["d2"].write({now - 10_000 + value: {"a": float(value)}})
    sources["d3"].write({now - 3_600_000: {"a": 9.0}})  # history, which is not live
    with EventReader(port_of(client), LIVE, reader.last_id) as again:
        until(lambda: again.events, 20, "what changed")
        sources["d1"].write({now: {"a": 5.0}})
        until(lambda: ("d1", {"a": 5.0}) in live_values(again), 20, "what is new")
        assert live_values(again) == [("d2", {"a": 4.0}), ("d1", {"a": 5.0})]


def test_live_of_some_metrics_of_a_site(client: httpx2.Client, url: str) -> None:
    with EventReader(port_of(client), f"{LIVE}?site=east&metric=temp*") as reader:
        until(lambda: reader.last_id, 20, "the present")
        Source(url, "d1", "west").write({now_ms(): {"temperature_celsius": 1.0}})
        Source(url, "d2", "east").write({now_ms(): {"temperature_celsius": 2.0, "other": 3.0}})
        until(lambda: reader.events, 20, "the event")
        assert live_values(reader) == [("d2", {"temperature_celsius": 2.0})]


# Plans


def test_following_and_looking_up_read_no_more_than_they_must(database_url: str) -> None:
    migrate(database_url)
    threshold(database_url)
    pump, now = Source(database_url, "pump"), time.time_ns() // 1_000_000
    pump.write({now - 7_000_000 + 1_000 * it: {"temperature_celsius": 85.0 * (it % 2)} for it in range(7_000)})
    plans = Plans(database_url)
    plans.connection.execute("vacuum analyze")
    near_end = alert_events(plans.connection, Position(0, 0), 100_000)[-10].position
    plans.clear()
    assert len(alert_events(plans.connection, near_end, 500)) == 9
    assert {(it.table.rpartition(".")[2], it.by) for it in plans.scans()} == {("notification", "notification_order")}
    plans.clear()
    window = Window(from_ms(now - 60_000), from_ms(now - 30_000))
    assert len(past_alerts(plans.connection, AlertFilter(), window, limit=100)) == 15
    assert [it.by for it in plans.scans() if it.table.endswith("alert")] == ["alert_start"]
    plans.close()
