"""Each sensor as it is now, and what places have in common, over real servers."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from harness.alerts import now_ms, threshold
from harness.api import Source, ok, serving
from harness.postgres import Server, new_database

from cloud_ingest.store.database import connect
from cloud_ingest.store.locations import create_location, place_device, place_sensor
from cloud_ingest.store.migrate import migrate
from telemetry_contract.series import SeriesKey

REALTIME = "/api/v1/realtime"
OIL, AIR = 'temperature_celsius{sensor="oil"}', 'temperature_celsius{sensor="air"}'
FELT = "apparent_temperature_celsius"
HOUR = 3_600_000
# The beginning of two hours that are over
THEN = (now_ms() // HOUR - 2) * HOUR


@pytest.fixture(scope="module")
def database(database_server: Server) -> Iterator[str]:
    """A pump in the hall, whose oil is in the pit below it, a fan in the yard, and one device nowhere."""
    with new_database(database_server) as url:
        migrate(url)
        thresholds: dict[str, dict[str, Any]] = {
            "hot": {"clear_percent": 10},
            "hot-oil": {"warning": 60, "critical": None, "selector": {"labels": {"sensor": "oil"}}},
            "cold": {"operator": "<", "warning": 5, "critical": None},
            "still": {"metric": "fan_speed", "operator": "==", "warning": 0, "critical": None, "for_seconds": 60},
        }
        for name, changes in thresholds.items():
            threshold(url, name=name, **changes)
        now = now_ms()
        pump, fan, lost = Source(url, "pump", "north"), Source(url, "fan", "south"), Source(url, "lost", "north")
        pump.write({now - 1_000: {OIL: 70.0, AIR: 30.0}, THEN: {OIL: 50.0, AIR: 30.0}})
        fan.write({now - 1_000: {"fan_speed": 0.0, "humidity_percent": None}})
        lost.write({now - HOUR: {OIL: 20.0, "humidity_percent": 50.0}})
        for source, value in ((pump, 30.0), (fan, 20.0), (lost, 10.0)):
            source.write({THEN + minute * 60_000: {FELT: value + minute} for minute in range(0, 120, 30)})
        with connect(url, "test") as connection, connection.transaction():
            for path in ("plant", "plant.hall", "plant.hall.pit", "plant.yard"):
                create_location(connection, path, name=path)
            place_device(connection, "pump", "plant.hall")
            place_device(connection, "fan", "plant.yard")
            place_sensor(connection, "pump", SeriesKey.parse(OIL), "plant.hall.pit", "pt100")
        yield url


@pytest.fixture(scope="module")
def client(database: str) -> Iterator[httpx2.Client]:
    with serving(database) as client:
        yield client


def sensors(client: httpx2.Client, query: str = "") -> dict[tuple[str, str], Any]:
    """By device and what tells its series apart."""
    items = ok(client, f"{REALTIME}?{query}")["items"]
    found = {(it["device"], it["labels"].get("sensor", it["metric"])): it for it in items}
    assert len(found) == len(items)
    return found


def test_a_sensor_has_its_place_its_threshold_and_how_far_it_is_from_it(client: httpx2.Client) -> None:
    found = sensors(client)
    oil = found["pump", "oil"]
    assert (oil["value"], oil["state"], oil["location"], oil["sensor_type"]) == (
        70,
        "firing",
        "plant.hall.pit",
        "pt100",
    )
    assert (oil["threshold"]["name"], oil["threshold"]["distance"]) == ("hot-oil", -10)
    air = found["pump", "air"]
    assert (air["state"], air["location"], air["sensor_type"]) == ("ok", "plant.hall", None)
    assert (air["threshold"]["name"], air["threshold"]["distance"]) == ("cold", 25)  # nearer than hot, which is 50 away
    speed = found["fan", "fan_speed"]
    assert (speed["state"], speed["threshold"]["distance"], speed["location"]) == ("pending", 0, "plant.yard")


def test_a_silent_series_is_unknown_with_a_threshold_and_without(client: httpx2.Client) -> None:
    lost = {name: (it["state"], it["threshold"] and it["threshold"]["name"]) for (_, name), it in
            sensors(client, "device=lost").items()}  # fmt: skip
    assert (lost["oil"], lost["humidity_percent"]) == (("unknown", "cold"), ("unknown", None))


def test_what_fires_at_a_device_that_is_away_is_unknown(client: httpx2.Client, database: str) -> None:
    with connect(database, "test") as connection:
        connection.execute("update telemetry.alert set unknown_since = now() where ended_at is null")
        try:
            states = {name: it["state"] for (_, name), it in sensors(client, "device=pump").items()}
        finally:
            connection.execute("update telemetry.alert set unknown_since = null")
    assert (states["oil"], states["air"]) == ("unknown", "ok")
    assert sensors(client, "device=pump")["pump", "oil"]["state"] == "firing"


def test_a_value_that_is_missing_has_no_distance(client: httpx2.Client) -> None:
    item = sensors(client, "device=fan&metric=humidity*")["fan", "humidity_percent"]
    assert (item["value"], item["threshold"], item["state"]) == (None, None, "ok")


def test_it_says_which_rule_won_and_why(client: httpx2.Client) -> None:
    oil = sensors(client, "device=pump&explain=true")["pump", "oil"]
    reasons = {it["name"]: (it["wins"], it["reason"]) for it in oil["explain"]}
    assert reasons["hot-oil"][0]
    assert reasons["cold"][0]
    assert reasons["hot"] == (False, "hot-oil goes before it: it names more labels")
    assert sensors(client, "device=pump")["pump", "oil"]["explain"] is None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("location=plant.hall", {("pump", "oil"), ("pump", "air")}),
        ("location=plant.hall.pit", {("pump", "oil")}),
        ("location=plant.yard", {("fan", "fan_speed"), ("fan", "humidity_percent")}),
        ("location=plan", set()),
        ("site=south", {("fan", "fan_speed"), ("fan", "humidity_percent")}),
        ("metric=fan*", {("fan", "fan_speed")}),
    ],
)
def test_sensors_are_those_of_a_place(client: httpx2.Client, query: str, expected: set[tuple[str, str]]) -> None:
    assert {name for name in sensors(client, query) if name[1] != FELT} == expected


def test_pages_hold_each_sensor_once(client: httpx2.Client) -> None:
    seen: list[tuple[str, str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = ok(client, f"{REALTIME}?limit=2" + (f"&cursor={cursor}" if cursor else ""))
        seen += [(it["device"], it["metric"] + str(it["labels"])) for it in page["items"]]
        cursor = page["next"]
    assert seen == sorted(set(seen))
    assert len(seen) == len(sensors(client))


def aggregated(client: httpx2.Client, query: str) -> dict[str, tuple[list[float], list[float]]]:
    """Hourly means and maxima by key."""
    start, end = (
        datetime.fromtimestamp(it / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for it in (THEN, THEN + 2 * HOUR)
    )
    answer = ok(client, f"/api/v1/aggregation/{FELT}?start={start}&end={end}&step=1h&{query}")
    return {group["key"]: (group["mean"], group["max"]) for group in answer["groups"]}


def test_the_hourly_mean_and_maximum_of_the_felt_temperature_by_zone(client: httpx2.Client) -> None:
    assert aggregated(client, "by=location") == {
        "plant.hall": ([45, 105], [60, 120]),
        "plant.yard": ([35, 95], [50, 110]),
    }
    assert aggregated(client, "by=location&depth=1") == {"plant": ([40, 100], [60, 120])}
    assert aggregated(client, "by=location&depth=2&location=plant.hall") == {"plant.hall": ([45, 105], [60, 120])}
    assert aggregated(client, "by=location&depth=3") == {}
    assert set(aggregated(client, "location=plant&by=device")) == {"pump", "fan"}
    assert set(aggregated(client, "by=device")) == {"pump", "fan", "lost"}


def test_a_depth_needs_locations(client: httpx2.Client) -> None:
    response = client.get(f"/api/v1/aggregation/{FELT}?by=site&depth=1")
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "depth")
