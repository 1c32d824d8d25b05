"""Episodes and silences through the API, over real servers."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx2
import pytest
from harness.alerts import episode, now_ms, threshold
from harness.api import Source, ok, serving
from harness.postgres import Server, new_database

from cloud_ingest.alerts.silence import About, Scope
from cloud_ingest.store.database import connect
from cloud_ingest.store.locations import create_location, place_device
from cloud_ingest.store.migrate import migrate

ALERTS, HISTORY, SILENCES = "/api/v1/alerts", "/api/v1/alerts/history", "/api/v1/silences"
HOUR = 3_600_000
SEOUL = ZoneInfo("Asia/Seoul")


@pytest.fixture(scope="module")
def database(database_server: Server) -> Iterator[str]:
    """Five episodes: of `pump` one that ended and a critical one, of `fan` in the hall three of containers."""
    with new_database(database_server) as url:
        migrate(url)
        threshold(url, no_data={"after_seconds": 86_400 * 20})
        threshold(url, name="load", metric="container_*", warning=5, critical=None, no_data={"after_seconds": 60})
        with connect(url, "test") as connection, connection.transaction():
            create_location(connection, "plant", name="Plant")
            create_location(connection, "plant.hall", name="Hall")
        now, pump, fan = now_ms(), Source(url, "pump", "north"), Source(url, "fan", "south")
        episode(pump, now - 30 * HOUR, now - 29 * HOUR)
        episode(pump, now - 2 * HOUR, None, 95.0)
        episode(fan, now - 3 * HOUR, now - 3 * HOUR + 5_000, 7.0, 'container_load{container="web"}')
        episode(fan, now - 1 * HOUR, None, 8.0, 'container_load{container="db"}')
        episode(fan, now - 1_000, None, 9.0, 'container_load{container="web"}')
        with connect(url, "test") as connection, connection.transaction():
            place_device(connection, "fan", "plant.hall")
        yield url


@pytest.fixture(scope="module")
def client(database: str) -> Iterator[httpx2.Client]:
    with serving(database) as client:
        yield client


def refused(response: httpx2.Response) -> list[str]:
    assert response.status_code == 422, response.text
    return [error["field"] for error in response.json()["errors"]]


def peaks(answer: Any) -> list[float]:
    return [item["peak"] for item in answer["items"]]


def test_open_episodes_are_listed_the_last_first(client: httpx2.Client) -> None:
    items = ok(client, ALERTS)["items"]
    assert [(it["device"], it["peak"], it["state"]) for it in items] == [
        ("fan", 9.0, "firing"),
        ("fan", 8.0, "unknown"),  # silent for an hour, where a minute is allowed
        ("pump", 95.0, "firing"),
    ]
    hot = items[2]
    assert (hot["threshold"], hot["severity"], hot["level"], hot["end"], hot["late"]) == (
        "hot",
        "critical",
        90,
        None,
        False,
    )
    assert (hot["site"], hot["metric"], hot["unit"], hot["location"]) == (
        "north",
        "temperature_celsius",
        "celsius",
        None,
    )
    assert hot["duration_seconds"] >= 2 * 3600
    assert ok(client, f"{ALERTS}/{hot['id']}")["start"] == hot["start"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=firing", [9.0, 95.0]),
        ("state=unknown", [8.0]),
        ("device=pump", [95.0]),
        ("device=pump&device=fan", [9.0, 8.0, 95.0]),
        ("site=south", [9.0, 8.0]),
        ("severity=critical", [95.0]),
        ("threshold=load", [9.0, 8.0]),
        ("metric=temperature_celsius", [95.0]),
        ("label.container=db", [8.0]),
        ("location=plant", [9.0, 8.0]),
        ("location=plant.hall&label.container=web", [9.0]),
        ("location=elsewhere", []),
    ],
)
def test_open_episodes_are_filtered(client: httpx2.Client, query: str, expected: list[float]) -> None:
    assert peaks(ok(client, f"{ALERTS}?{query}")) == expected


def test_an_alert_of_a_device_that_is_away_is_unknown(client: httpx2.Client, database: str) -> None:
    with connect(database, "test") as connection:
        connection.execute("update telemetry.alert set unknown_since = now() where ended_at is null")
        try:
            assert peaks(ok(client, f"{ALERTS}?state=unknown")) == [9.0, 8.0, 95.0]
        finally:
            connection.execute("update telemetry.alert set unknown_since = null")
    assert peaks(ok(client, f"{ALERTS}?state=unknown")) == [8.0]


def test_pages_hold_each_episode_once(client: httpx2.Client) -> None:
    for address in (f"{ALERTS}?limit=1", f"{HISTORY}?start=-7d&limit=2"):
        seen, cursor = [], ""
        while cursor is not None:
            page = ok(client, f"{address}&cursor={cursor}" if cursor else address)
            seen += [item["id"] for item in page["items"]]
            cursor = page["next"]
        assert len(seen) == len(set(seen)) == (3 if address.startswith(f"{ALERTS}?") else 5)


def test_history_is_by_time_and_by_the_day_of_a_zone(client: httpx2.Client) -> None:
    assert peaks(ok(client, HISTORY)) == [9.0, 8.0, 95.0, 7.0]
    assert peaks(ok(client, f"{HISTORY}?start=-31h&end=-5h")) == [85.0]
    began = datetime.fromisoformat(ok(client, f"{HISTORY}?start=-31h&end=-5h")["items"][0]["start"])
    for zone in ("Asia/Seoul", "America/New_York", "UTC"):
        day = began.astimezone(ZoneInfo(zone)).date()
        assert 85.0 in peaks(ok(client, f"{HISTORY}?date={day}&tz={zone}"))
        assert 85.0 not in peaks(ok(client, f"{HISTORY}?date={day - timedelta(days=1)}&tz={zone}"))
        assert 85.0 not in peaks(ok(client, f"{HISTORY}?date={day + timedelta(days=1)}&tz={zone}"))
    ended = ok(client, f"{HISTORY}?label.container=web&end=-1h")["items"][0]
    assert (ended["state"], ended["end_reason"], ended["duration_seconds"], ended["last"]) == (
        "ended",
        "cleared",
        5,
        7.0,
    )


def test_the_day_of_a_zone_is_from_its_midnight_to_the_next(client: httpx2.Client) -> None:
    # With the zone's day as start and end in UTC the same is found
    began = datetime.fromisoformat(ok(client, f"{HISTORY}?device=pump&end=-1h&limit=1")["items"][0]["start"])
    day = began.astimezone(SEOUL).replace(hour=0, minute=0, second=0, microsecond=0)
    start, end = (it.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for it in (day, day + timedelta(days=1)))
    by_day = ok(client, f"{HISTORY}?date={day.date()}&tz=Asia/Seoul")
    assert peaks(by_day) == peaks(ok(client, f"{HISTORY}?start={start}&end={end}"))
    assert len(by_day["items"]) > 0


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("date=2026-11-20&start=-1d", "start"),
        ("date=2026-11-20&end=now", "end"),
        ("tz=Asia/Seoul", "tz"),
        ("date=yesterday", "date"),
        ("date=2026-11-20&tz=Mars", "tz"),
        ("severity=bad", "severity"),
        ("start=now&end=-1d", "end"),
        ("cursor=x", "cursor"),
        ("container=web", "container"),
    ],
)
def test_a_parameter_that_can_not_be_used_is_named(client: httpx2.Client, query: str, field: str) -> None:
    assert refused(client.get(f"{HISTORY}?{query}")) == [field]


def test_history_as_csv_holds_what_the_answer_holds(client: httpx2.Client) -> None:
    response = client.get(f"{HISTORY}?start=-7d&limit=3", headers={"Accept": "text/csv"})
    assert response.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(response.text)))
    items = ok(client, f"{HISTORY}?start=-7d&limit=3")["items"]
    assert [(int(row["id"]), row["start"], float(row["peak"])) for row in rows] == [
        (it["id"], it["start"], it["peak"]) for it in items
    ]
    assert json.loads(rows[0]["labels"]) == {"container": "web"}
    following = response.headers["link"].removeprefix("<").partition(">")[0]
    rest = client.get(following, headers={"Accept": "text/csv"})
    assert len(list(csv.DictReader(io.StringIO(rest.text)))) == 2
    assert "link" not in rest.headers


def test_the_first_acknowledgement_stays(client: httpx2.Client) -> None:
    number = ok(client, f"{ALERTS}?device=pump")["items"][0]["id"]
    address = f"{ALERTS}/{number}/acknowledge"
    first = client.post(address, json={"by": "kim", "note": "on my way"}).json()
    assert (first["acknowledged"]["by"], first["acknowledged"]["note"]) == ("kim", "on my way")
    for body in ({"by": "kim", "note": "on my way"}, {"by": "lee"}):
        again = client.post(address, json=body)
        assert (again.status_code, again.json()["acknowledged"]) == (200, first["acknowledged"])
    assert ok(client, f"{ALERTS}?device=pump")["items"][0]["acknowledged"] == first["acknowledged"]
    assert client.post(f"{ALERTS}/999999/acknowledge", json={"by": "kim"}).status_code == 404
    assert client.get(f"{ALERTS}/999999").status_code == 404
    assert refused(client.post(address, json={})) == ["by"]


def in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


def test_a_silence_shows_on_what_it_covers_until_it_ends(client: httpx2.Client) -> None:
    body = {"scope": {"location": "plant", "labels": {"container": "w*"}}, "ends_at": in_an_hour(), "by": "kim"}
    response = client.post(SILENCES, json=body)
    assert response.status_code == 201, response.text
    made = response.json()
    assert response.headers["location"] == f"{SILENCES}/{made['id']}"
    assert ok(client, response.headers["location"]) == made
    assert [(it["peak"], it["silenced_until"]) for it in ok(client, ALERTS)["items"]] == [
        (9.0, made["ends_at"]),
        (8.0, None),
        (95.0, None),
    ]
    assert client.delete(f"{SILENCES}/{made['id']}").status_code == 204
    assert client.delete(f"{SILENCES}/{made['id']}").status_code == 204
    assert [it["silenced_until"] for it in ok(client, ALERTS)["items"]] == [None] * 3
    assert ok(client, SILENCES)["items"] == []
    assert [(it["id"], it["over"]) for it in ok(client, f"{SILENCES}?state=all")["items"]] == [(made["id"], True)]
    assert client.delete(f"{SILENCES}/999999").status_code == 404


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scope": {}}, "scope"),
        ({"scope": {"planet": "mars"}}, "scope.planet"),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "ends_at"),
        ({"ends_at": "2999-01-01T00:00:00Z"}, "ends_at"),
        ({"ends_at": "2026-11-20T00:00:00"}, "ends_at"),
        ({"starts_at": "2999-01-01T00:00:00Z"}, "starts_at"),
        ({"by": ""}, "by"),
    ],
)
def test_a_silence_that_can_not_be_is_refused(client: httpx2.Client, changes: dict[str, Any], field: str) -> None:
    body = {"scope": {"device": "pump"}, "ends_at": in_an_hour(), "by": "kim"} | changes
    assert refused(client.post(SILENCES, json=body)) == [field]


ABOUT = About("hot", "pump", "north", "plant.hall", "temperature_celsius", {"sensor": "oil"})


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        ({"threshold": "h*"}, True),
        ({"threshold": "cold"}, False),
        ({"device": "pump", "site": "north"}, True),
        ({"device": "pump", "site": "south"}, False),
        ({"location": "plant"}, True),
        ({"location": "plant.ha"}, False),
        ({"metric": "temperature_*"}, True),
        ({"metric": "humidity_*"}, False),
        ({"labels": {"sensor": "o?l"}}, True),
        ({"labels": {"mount": "*"}}, False),
    ],
)
def test_a_silence_covers_what_all_of_its_scope_holds_for(scope: dict[str, Any], *, covered: bool) -> None:
    assert Scope.model_validate(scope).covers(ABOUT) is covered


def test_what_has_no_place_or_threshold_is_covered_by_no_silence_of_one() -> None:
    nowhere = ABOUT._replace(location=None, threshold=None)
    assert not Scope(location="plant").covers(nowhere)
    assert not Scope(threshold="*").covers(nowhere)
    assert Scope(device="pump").covers(nowhere)
