"""Summaries, groups, days of a zone and CSV over HTTP, against the readings that were written, of every tier."""

import csv
import io
import json
import math
import random
import statistics
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4
from zoneinfo import ZoneInfo

import httpx2
import numpy as np
import pytest
from harness.api import Source, ok, serving
from harness.postgres import Server, new_database

from cloud_ingest.config import Retention
from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.worker.upkeep import Upkeep

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOW = time.time_ns() // 1_000_000
SITES = {"pump-1": "north", "pump-2": "south", "pump-3": "south"}
KEYS = ["level_meters", 'level_meters{tank="b"}', "flow_total"]

Values = dict[int, dict[str, float | None]]


def rfc(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def measured(seed: str) -> Values:
    """Every ten minutes of 40 days, until now, some without a value; oldest first."""
    chance = random.Random(seed)  # noqa: S311 - nothing secret
    return {
        NOW - 30_000 - index * 10 * MINUTE - chance.randrange(MINUTE): {
            key: chance.choice([None, *range(100)]) for key in KEYS
        }
        for index in reversed(range(40 * 24 * 6))
    }


@pytest.fixture(scope="module")
def values() -> Mapping[str, Values]:
    return {device: measured(device) for device in SITES}


@pytest.fixture(scope="module")
def database(database_server: Server, values: Mapping[str, Values]) -> Iterator[str]:
    with new_database(database_server) as url:
        migrate(url)
        for device, ticks in values.items():
            Source(url, device, SITES[device]).write(ticks)
        with connect(url, "worker") as connection:
            for _ in Upkeep(connection, Retention()).round(NOW):
                pass
        yield url


@pytest.fixture(scope="module")
def client(database: str) -> Iterator[httpx2.Client]:
    with serving(database) as client:
        yield client


def held(values: Values, key: str, start: int, end: int) -> list[float]:
    """The values of a series between the times, oldest first."""
    times = list(values)
    found = (values[at][key] for at in times[bisect_left(times, start) : bisect_left(times, end)])
    return [value for value in found if value is not None]


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000)


def problem(response: httpx2.Response) -> Any:
    assert response.status_code == 422, response.text[:300]
    return response.json()["errors"][0]


# Summary


@pytest.mark.parametrize(
    ("period", "tier"), [("-3h", "raw"), ("-20h", "raw"), ("-5d", "5m"), ("-20d", "1h"), ("-39d", "1d")]
)
def test_a_summary_equals_a_recomputation_from_all_readings(
    client: httpx2.Client, values: Mapping[str, Values], period: str, tier: str
) -> None:
    answer = ok(client, "/api/v1/metrics/summary", metric="level_*", site="north", period=period, end=rfc(NOW))
    assert (answer["tier"], answer["next"]) == (tier, None)
    start, end = ms(answer["start"]), ms(answer["end"])
    assert end >= NOW
    assert [one["labels"] for one in answer["series"]] == [{}, {"tank": "b"}]
    for key, one in zip(KEYS, answer["series"], strict=False):
        expected = held(values["pump-1"], key, start, end)
        assert (one["count"], one["min"], one["max"], one["last"]) == (
            len(expected), min(expected), max(expected), expected[-1],
        )  # fmt: skip
        assert one["mean"] == pytest.approx(statistics.fmean(expected), rel=1e-12)
        if tier == "raw":
            assert [one["p50"], one["p95"]] == pytest.approx(np.quantile(expected, [0.5, 0.95]).tolist())
        else:
            assert (one["p50"], one["p95"]) == (None, None)


def test_a_summary_shows_what_part_of_the_time_was_observed(client: httpx2.Client, database: str) -> None:
    source = Source(database, f"device-{uuid4().hex[:8]}")
    base = NOW - 3 * HOUR
    source.write({base + at * 1_000: {"a": 1.0} for at in range(0, 3_600, 5) if not 900 <= at < 1_800})
    (series,) = ok(client, "/api/v1/metrics/summary", device=source.device, end=rfc(base + HOUR))["series"]
    assert (series["count"], series["coverage"]) == (540, 0.75)


def test_a_series_without_a_value_has_no_figures(client: httpx2.Client, database: str) -> None:
    source = Source(database, f"device-{uuid4().hex[:8]}")
    source.write({NOW - 60_000 - at: {"a": None, "b": 7.0} for at in range(0, 50_000, 1_000)})
    absent, present = ok(client, "/api/v1/metrics/summary", device=source.device)["series"]
    figures = ("min", "mean", "max", "p50", "p95", "last")
    assert [absent[name] for name in figures] == [None] * 6
    assert [present[name] for name in figures] == [7.0] * 6
    assert absent["count"] == 0


@pytest.mark.parametrize("width", [2, 12])  # few samples of a row are picked, of many the whole row is read
def test_a_series_that_moved_between_layouts_is_summed_up_whole(
    client: httpx2.Client, database: str, width: int
) -> None:
    chance = random.Random(width)  # noqa: S311 - nothing secret
    source = Source(database, f"device-{uuid4().hex[:8]}")
    keys = [f"m{number}" for number in range(width)]
    written: Values = {}
    for at in range(NOW - 50 * MINUTE, NOW - MINUTE, 5_000):
        # The layouts hold other keys, at other positions
        some = chance.choice([keys, keys[::-1], keys[1:]])
        written[at] = {key: chance.choice([None, chance.uniform(-1e6, 1e6)]) for key in some}
    source.write(written)
    answer = ok(client, "/api/v1/metrics/summary", device=source.device, end=rfc(NOW))["series"]
    assert [one["metric"] for one in answer] == sorted(keys)
    for one in answer:
        found = [value for tick in written.values() if (value := tick.get(one["metric"])) is not None]
        assert (one["count"], one["min"], one["max"], one["last"]) == (len(found), min(found), max(found), found[-1])
        assert one["mean"] == pytest.approx(statistics.fmean(found), abs=1e-6)
        assert [one["p50"], one["p95"]] == pytest.approx(np.quantile(found, [0.5, 0.95]).tolist())


def test_a_sum_that_no_number_holds_is_refused(client: httpx2.Client, database: str) -> None:
    source = Source(database, f"device-{uuid4().hex[:8]}")
    source.write({NOW - 5 * HOUR - at: {"a": 1e308} for at in range(5)})
    refused = problem(client.get(f"/api/v1/metrics/summary?device={source.device}&end={rfc(NOW - 5 * HOUR + 1)}"))
    assert refused["field"] == "period"
    assert "overflow" in refused["message"]


def test_a_summary_of_nothing_is_empty(client: httpx2.Client) -> None:
    assert ok(client, "/api/v1/metrics/summary", site="nowhere")["series"] == []


def test_pages_of_a_summary_hold_each_series_once(client: httpx2.Client) -> None:
    whole = ok(client, "/api/v1/metrics/summary", end=rfc(NOW))["series"]
    assert len(whole) >= 9
    seen, parameters = [], {"limit": 2, "end": rfc(NOW)}
    while True:
        page = ok(client, "/api/v1/metrics/summary", **parameters)
        seen += page["series"]
        if page["next"] is None:
            break
        parameters["cursor"] = page["next"]
    assert seen == whole


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("period=1h", "period"),
        ("period=now", "period"),
        ("period=2026-11-20T00:00:00Z", "period"),
        ("period=-100w&end=1970-01-02T00:00:00Z", "period"),
        ("end=tomorrow", "end"),
        ("cursor=WyJhIl0", "cursor"),
        ("start=-1h", "start"),
        ("label.=x", "label."),
    ],
)
def test_what_a_summary_cannot_be_made_of_is_named(client: httpx2.Client, query: str, field: str) -> None:
    assert problem(client.get(f"/api/v1/metrics/summary?{query}"))["field"] == field


# Groups


class Asked(NamedTuple):
    """A question and the shape of its answer."""

    start: int
    step: str
    tier: str
    step_ms: int


@pytest.mark.parametrize("by", ["device", "site"])
@pytest.mark.parametrize(
    "asked",
    [
        Asked(NOW - 5 * HOUR, "30m", "raw", 30 * MINUTE),
        Asked(NOW - 3 * DAY, "1h", "1h", HOUR),
        Asked(NOW - 6 * DAY, "15m", "5m", 15 * MINUTE),
        Asked(NOW - 39 * DAY, "1d", "1d", DAY),
        Asked(NOW - 39 * DAY, "1h", "1d", DAY),
    ],
)
def test_groups_equal_a_recomputation_from_all_readings(
    client: httpx2.Client, values: Mapping[str, Values], asked: Asked, by: str
) -> None:
    answer = ok(
        client, "/api/v1/aggregation/level_meters", start=rfc(asked.start), end=rfc(NOW), step=asked.step, by=by
    )
    assert (answer["tier"], answer["step_seconds"], answer["tz"]) == (asked.tier, asked.step_ms // 1_000, "UTC")
    members = {device: [device] for device in SITES} if by == "device" else {}
    for device, site in SITES.items() if by == "site" else ():
        members.setdefault(site, []).append(device)
    assert [group["key"] for group in answer["groups"]] == sorted(members)
    for group in answer["groups"]:
        starts = [ms(at) for at in group["time"]]
        assert starts == list(range(asked.start // asked.step_ms * asked.step_ms, NOW, asked.step_ms))
        for index, start in enumerate(starts):
            expected = [
                value
                for device in members[group["key"]]
                for key in KEYS[:2]
                for value in held(values[device], key, start, start + asked.step_ms)
            ]
            assert group["count"][index] == len(expected)
            assert (group["min"][index], group["max"][index]) == (
                min(expected, default=None),
                max(expected, default=None),
            )
            assert group["mean"][index] == (pytest.approx(statistics.fmean(expected)) if expected else None)


def test_groups_are_made_of_the_series_asked_for(client: httpx2.Client, values: Mapping[str, Values]) -> None:
    answer = ok(client, "/api/v1/aggregation/level_meters", start="-2h", step="1d", device="pump-2", label_tank="b")
    (group,) = answer["groups"]
    assert group["key"] == "pump-2"
    assert sum(group["count"]) == len(held(values["pump-2"], KEYS[1], ms(group["time"][0]), NOW))


def test_a_metric_that_nobody_sent_has_no_groups(client: httpx2.Client) -> None:
    assert ok(client, "/api/v1/aggregation/nothing")["groups"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("level_meters?by=planet", "by"),
        ("level_meters?step=0", "step"),
        ("level_meters?step=1s&start=-23h", "step"),
        ("level_meters?start=now&end=-1h", "end"),
        ("level_meters?metric=a", "metric"),
        ("level-meters", "metric"),
    ],
)
def test_what_groups_cannot_be_made_of_is_named(client: httpx2.Client, query: str, field: str) -> None:
    assert problem(client.get(f"/api/v1/aggregation/{query}"))["field"] == field


# Zones


@pytest.mark.parametrize("zone", ["Asia/Seoul", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize(("days", "step"), [(1, "1h"), (5, "1d"), (5, "6h"), (20, "1d")])
def test_days_of_a_zone_equal_a_recomputation_from_all_readings(
    client: httpx2.Client, values: Mapping[str, Values], zone: str, days: int, step: str
) -> None:
    parameters = {"metric": "level_meters", "label_tank": "b", "device": "pump-1", "aggregate": "sum"}
    window = {"start": rfc(NOW - days * DAY), "end": rfc(NOW), "step": step, "tz": zone}
    answer = ok(client, "/api/v1/metrics/history", **parameters, **window)
    (series,) = answer["series"]
    if zone == "Asia/Kolkata" and days == 20:  # only rollups of hours are left of that, and none begins at its midnight
        assert answer["tz"] == "UTC"
    else:
        assert answer["tz"] == zone
        for text in series["time"]:
            local = datetime.fromisoformat(text).astimezone(ZoneInfo(zone))
            assert (local.minute, local.hour % {"1h": 1, "6h": 6, "1d": 24}[step]) == (0, 0)
    starts = [ms(text) for text in series["time"]]
    assert starts[0] <= NOW - days * DAY < starts[1]
    for index, start in enumerate(starts):
        end = starts[index + 1] if index + 1 < len(starts) else NOW + 1
        expected = held(values["pump-1"], KEYS[1], start, end)
        assert series["value"][index] == (pytest.approx(math.fsum(expected)) if expected else None)


def test_a_rate_by_the_days_of_a_zone_is_that_of_the_counter(client: httpx2.Client, database: str) -> None:
    source = Source(database, f"device-{uuid4().hex[:8]}")
    seoul = ZoneInfo("Asia/Seoul")
    midnight = datetime.now(seoul).replace(hour=0, minute=0, second=0, microsecond=0)
    begin = int(midnight.timestamp() * 1_000) - DAY
    source.write({begin + at * 1_000 - 10_000: {"a_total": at * 3.0} for at in range(0, 86_400, 20)})
    window = {"start": rfc(begin), "end": rfc(begin + DAY), "step": "1d", "tz": "Asia/Seoul", "aggregate": "rate"}
    answer = ok(client, "/api/v1/metrics/history", metric="a_total", device=source.device, **window)
    (series,) = answer["series"]
    assert (series["time"], answer["tz"]) == ([rfc(begin)], "Asia/Seoul")
    assert series["value"] == [pytest.approx(3.0)]


def test_groups_are_cut_by_the_days_of_a_zone_too(client: httpx2.Client) -> None:
    answer = ok(client, "/api/v1/aggregation/level_meters", start="-3d", step="1d", tz="Asia/Seoul", by="site")
    assert {text[10:] for group in answer["groups"] for text in group["time"]} == {"T15:00:00.000Z"}


@pytest.mark.parametrize(
    "query", ["step=1d&tz=Mars/Base", "step=1d&tz=", "step=1d&tz=../../etc", "step=1d&tz=Asia", "tz=UTC"]
)
def test_a_zone_that_is_none_or_of_no_use_is_refused(client: httpx2.Client, query: str) -> None:
    assert problem(client.get(f"/api/v1/metrics/history?metric=a&{query}"))["field"] == "tz"


def test_a_step_that_no_day_of_a_zone_can_be_cut_by_is_refused(client: httpx2.Client) -> None:
    response = client.get("/api/v1/metrics/history?metric=a&step=7h&tz=Asia/Seoul")
    assert problem(response)["field"] == "step"


# CSV

ASKED = {"metric": "level_meters", "device": "pump-1", "start": "-3h", "end": rfc(NOW)}


@pytest.mark.parametrize("more", [{}, {"step": "10m"}])
def test_csv_holds_what_json_holds(client: httpx2.Client, more: dict[str, str]) -> None:
    response = client.get("/api/v1/metrics/history", params={**ASKED, **more, "format": "csv"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    expected = [
        {
            "time": at,
            "device": "pump-1",
            "metric": "level_meters",
            "labels": json.dumps(series["labels"]),
            "unit": "meters",
            "value": "" if value is None else str(value),
            "coverage": "" if series["coverage"] is None else str(series["coverage"][index]),
        }
        for series in ok(client, "/api/v1/metrics/history", **ASKED, **more)["series"]
        for index, (at, value) in enumerate(zip(series["time"], series["value"], strict=True))
    ]
    assert [{**row, "coverage": row["coverage"] or ""} for row in rows] == [
        {**row, "coverage": "" if row["coverage"] == "None" else row["coverage"]} for row in expected
    ]
    assert len({row["labels"] for row in rows}) == 2


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("text/csv", "text/csv; charset=utf-8"),
        ("application/json;q=0.5, text/csv", "text/csv; charset=utf-8"),
        ("text/csv;q=0.5, application/json", "application/json"),
        ("text/csv, */*", "application/json"),
        ("text/csv;q=high", "application/json"),
        ("*/*", "application/json"),
    ],
)
def test_the_format_is_the_one_that_the_client_prefers(client: httpx2.Client, accept: str, content_type: str) -> None:
    response = client.get("/api/v1/metrics/history", params=ASKED, headers={"Accept": accept})
    assert response.headers["content-type"] == content_type
    assert "Accept" in response.headers["vary"].split(", ")


def test_a_format_that_is_asked_for_wins(client: httpx2.Client) -> None:
    response = client.get("/api/v1/metrics/history", params={**ASKED, "format": "json"}, headers={"Accept": "text/csv"})
    assert response.headers["content-type"] == "application/json"
    assert problem(client.get("/api/v1/metrics/history", params={**ASKED, "format": "xml"}))["field"] == "format"
