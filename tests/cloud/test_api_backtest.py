"""What a threshold would have done, over real servers: the same as what it does."""

import random
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from harness.alerts import now_ms
from harness.api import Source, ok, serving
from harness.postgres import Server, new_database

from cloud_ingest.api import backtest
from cloud_ingest.api.times import format_time
from cloud_ingest.config import Retention
from cloud_ingest.store.database import connect
from cloud_ingest.store.locations import create_location, place_device, place_sensor
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.rollup.state import from_ms
from cloud_ingest.worker.upkeep import Upkeep
from telemetry_contract.series import SeriesKey

BACKTEST = "/api/v1/thresholds/backtest"
OIL, AIR = 'temperature_celsius{sensor="oil"}', 'temperature_celsius{sensor="air"}'
NOW = now_ms() // 60_000 * 60_000
HOUR = 3_600_000


@pytest.fixture(scope="module")
def database(database_server: Server) -> Iterator[str]:
    """Two devices with an hour each of readings every 5 s, and one whose readings of two days ago are rollups now."""
    with new_database(database_server) as url:
        migrate(url)
        chance = random.Random(7)  # noqa: S311 - nobody must not guess it
        for name in ("pump", "fan"):
            value = 60.0
            readings: dict[int, dict[str, float | None]] = {}
            for time_ms in range(NOW - HOUR, NOW, 5_000):
                value = min(max(value + chance.uniform(-6, 6), 20.0), 100.0)
                readings[time_ms] = {OIL: None if chance.random() < 0.05 else value, AIR: 20.0}
            Source(url, name, "plant").write(readings)
        old = (NOW - 50 * HOUR) // 300_000 * 300_000
        Source(url, "old", "plant").write(
            {old + at * 60_000: {"level_meters": 9.0 if 20 <= at < 41 else 1.0} for at in range(60)}
        )
        with connect(url, "worker") as connection:
            for _ in Upkeep(connection, Retention()).round(NOW):
                pass
        with connect(url, "test") as connection, connection.transaction():
            create_location(connection, "hall", name="Hall")
            place_device(connection, "pump", "hall")
            place_sensor(connection, "fan", SeriesKey.parse(OIL), None, "pt100")
        yield url


@pytest.fixture(scope="module")
def client(database: str) -> Iterator[httpx2.Client]:
    with serving(database) as client:
        yield client


def definition(**changes: Any) -> dict[str, Any]:
    return {
        "name": "hot", "metric": "temperature_celsius", "operator": ">", "warning": 70, "critical": 85,
        "clear_level": 65, "for_seconds": 10, "no_data": {"after_seconds": 30},
    } | changes  # fmt: skip


def tried(client: httpx2.Client, **body: Any) -> Any:
    response = client.post(BACKTEST, json={"threshold": definition(), "start": "-2h"} | body)
    assert response.status_code == 200, response.text
    return response.json()


def test_it_finds_what_the_threshold_then_does(database_url: str) -> None:
    """The same readings, tried first and then judged as they are stored."""
    migrate(database_url)
    chance = random.Random(3)  # noqa: S311 - nobody must not guess it
    ahead = now_ms() + 60_000  # a threshold judges from when it is made
    readings: dict[int, dict[str, float | None]] = {
        ahead + at * 5_000: {OIL: chance.uniform(50, 95)} for at in range(300)
    }
    with serving(database_url) as client:
        assert client.post("/api/v1/thresholds", json=definition()).status_code == 201
        Source(database_url, "pump").write(readings)
        soon = {"start": "now", "end": format_time(from_ms(ahead + HOUR))}
        trial = tried(client, threshold=definition(name="other"), **soon)
        history = ok(client, "/api/v1/alerts/history", **soon)["items"]
    fields = ("device", "labels", "severity", "start", "fired", "end", "peak", "peak_time", "last")
    assert trial["count"] == len(history) > 3
    assert [[it[name] for name in fields] for it in trial["episodes"]] == [
        [it[name] for name in fields] for it in reversed(history)
    ]


def test_it_judges_what_the_selector_selects(client: httpx2.Client) -> None:
    everything = tried(client)
    assert (everything["tier"], everything["series"], everything["samples"]) == ("raw", 4, 4 * 720)
    assert {it["device"] for it in everything["episodes"]} == {"pump", "fan"}
    for selector, devices in (
        ({"device": "fan"}, {"fan"}),
        ({"location": "hall"}, {"pump"}),
        ({"sensor_type": "pt100"}, {"fan"}),
        ({"labels": {"sensor": "o?l"}}, {"pump", "fan"}),
        ({"labels": {"sensor": "air"}}, set()),
        ({"site": "elsewhere"}, set()),
    ):
        found = tried(client, threshold=definition(selector=selector, enabled=False))
        assert {it["device"] for it in found["episodes"]} == devices
    assert tried(client, threshold=definition(metric="temp?rature_*"))["count"] == everything["count"]
    assert tried(client, threshold=definition(metric="tem?_*"))["series"] == 0


def test_a_stricter_threshold_finds_less(client: httpx2.Client) -> None:
    counts = [tried(client, threshold=definition(for_seconds=seconds))["count"] for seconds in (0, 20, 600)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2]


def test_of_rollups_the_worst_of_each_is_judged(client: httpx2.Client) -> None:
    body = {"start": "-3d", "threshold": definition(metric="level_meters", warning=5, critical=None, clear_level=None)}
    found = tried(client, **body)
    assert (found["tier"], found["series"], found["samples"], found["count"]) == ("5m", 1, 12, 1)
    episode = found["episodes"][0]
    assert (episode["peak"], episode["location"]) == (9, None)
    equal = definition(metric="level_meters", operator="==", warning=9, critical=None, clear_level=None)
    response = client.post(BACKTEST, json={"start": "-3d", "threshold": equal})
    assert response.status_code == 422
    assert "rollups don't tell" in response.json()["detail"]


def test_too_much_is_refused(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"start": "-32d"}, "start"),
        ({"start": "now", "end": "-1h"}, "end"),
        ({"start": "yesterday"}, "start"),
        ({"threshold": {}}, "threshold.name"),
        ({"planet": "mars"}, "planet"),
    ]
    for body, field in cases:
        response = client.post(BACKTEST, json={"threshold": definition()} | body)
        assert response.status_code == 422
        assert field in [error["field"] for error in response.json()["errors"]]
    monkeypatch.setattr(backtest, "MAX_POINTS", 100)
    response = client.post(BACKTEST, json={"threshold": definition(), "start": "-2h"})
    assert "more than 100 readings" in response.json()["detail"]
    monkeypatch.setattr(backtest, "MAX_SERIES", 1)
    response = client.post(BACKTEST, json={"threshold": definition(), "start": "-2h"})
    assert "more than 1 series" in response.json()["detail"]
