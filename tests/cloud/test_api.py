"""The REST API over HTTP, on real servers, with readings that were stored the way the ingester stores them."""

import math
import random
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
from harness.api import Source, ok, serving
from harness.postgres import Server, new_database

from cloud_ingest.api.selection import MAX_POINTS
from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.status import record_status
from telemetry_contract.payload import Status

HOUR = 3_600_000
MINUTE = 60_000
# Recent enough to be kept, on a whole hour, so that tests can say where buckets begin.
BASE = time.time_ns() // 1_000_000 // HOUR * HOUR - 20 * HOUR


def rfc(time_ms: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds")[
        :-6
    ] + "Z"


@pytest.fixture(scope="module")
def database(database_server: Server) -> Iterator[str]:
    """A migrated database that the tests of this module fill; each with devices of its own."""
    with new_database(database_server) as url:
        migrate(url)
        yield url


@pytest.fixture(scope="module")
def client(database: str) -> Iterator[httpx2.Client]:
    with serving(database) as client:
        yield client


@pytest.fixture
def source(database: str) -> Source:
    """A device that no other test knows, on a site of its own."""
    name = f"device-{uuid4().hex[:8]}"
    return Source(database, name, f"site-of-{name}")


def problem(response: httpx2.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert content["status"] == status
    return content


def pages(client: httpx2.Client, address: str, **parameters: Any) -> Iterator[list[Any]]:
    """The items of each page; there must be fewer than 20."""
    for _ in range(20):
        page = ok(client, address, **parameters)
        yield page["items"]
        if page["next"] is None:
            return
        parameters["cursor"] = page["next"]
    raise AssertionError("the pages do not end")


# Devices


def test_a_device_shows_what_is_known_of_it(client: httpx2.Client, source: Source, database: str) -> None:
    source.write({BASE: {"a": 1.0}, BASE + 1_234: {"a": 2.0}})
    (item,) = ok(client, "/api/v1/devices", site=source.site)["items"]
    assert (item["device"], item["site"]) == (source.device, source.site)
    assert (item["online"], item["agent_version"]) == (None, None)
    assert (item["readings"], item["newest_reading"]) == (2, rfc(BASE + 1_234))

    heard = datetime.now(UTC) + timedelta(seconds=30)
    status = Status(v=1, online=False, stream=source.stream, boot_id="b", agent_version="1.2.3")
    with connect(database, "test") as connection:
        record_status(connection, source.site, source.device, status, heard)
    (item,) = ok(client, "/api/v1/devices", site=source.site)["items"]
    assert (item["online"], item["agent_version"]) == (False, "1.2.3")
    assert item["last_seen"] == rfc(int(heard.timestamp() * 1000))


def test_pages_of_devices_hold_each_once_also_when_others_appear(client: httpx2.Client, database: str) -> None:
    site = f"site-{uuid4().hex[:8]}"
    names = [f"{site}-{letter}" for letter in "bdfh"]
    for name in names:
        Source(database, name, site).write({BASE: {"a": 1.0}})
    seen = []
    for number, page in enumerate(pages(client, "/api/v1/devices", site=site, limit=1)):
        seen += [item["device"] for item in page]
        if number == 1:
            Source(database, f"{site}-a", site).write({BASE: {"a": 1.0}})
    assert seen == names


# Current values


def current(client: httpx2.Client, source: Source, **parameters: Any) -> dict[str, tuple[str, float | None]]:
    answer = ok(client, "/api/v1/metrics/current", device=source.device, **parameters)
    assert answer["next"] is None
    return {item["metric"]: (item["time"], item["value"]) for item in answer["items"]}


def test_the_newest_value_of_each_series_is_current(client: httpx2.Client, source: Source) -> None:
    source.write(
        {
            BASE: {"cpu_usage_percent": 1.0, 'disk_used_bytes{mount="/"}': 10.0},
            BASE + 5_000: {"cpu_usage_percent": 2.5, 'disk_used_bytes{mount="/"}': 20.0},
            BASE + 1_000: {"uptime_seconds": 7.0},
        }
    )
    answer = ok(client, "/api/v1/metrics/current", device=source.device)
    assert answer["items"] == [
        {"device": source.device, "metric": metric, "labels": labels, "unit": unit, "time": rfc(BASE + at), "value": it}
        for metric, labels, unit, at, it in [
            ("cpu_usage_percent", {}, "percent", 5_000, 2.5),
            ("disk_used_bytes", {"mount": "/"}, "bytes", 5_000, 20.0),
            ("uptime_seconds", {}, "seconds", 1_000, 7.0),
        ]
    ]


def test_of_a_series_in_two_layouts_the_newest_that_has_a_value_is_current(
    client: httpx2.Client, source: Source
) -> None:
    source.write({BASE: {"a": 1.0, "b": 1.0, "c": 1.0}, BASE + 1_000: {"a": 2.0, "b": None}})
    assert current(client, source) == {
        "a": (rfc(BASE + 1_000), 2.0),
        "b": (rfc(BASE), 1.0),
        "c": (rfc(BASE), 1.0),
    }


def test_a_series_whose_newest_reading_holds_no_value_has_none(client: httpx2.Client, source: Source) -> None:
    source.write({BASE: {"a": 1.0}, BASE + 1_000: {"a": None}})
    assert current(client, source) == {"a": (rfc(BASE + 1_000), None)}


def test_current_values_are_filtered_by_metric_site_and_age(client: httpx2.Client, source: Source) -> None:
    source.write({BASE: {"a": 1.0, 'a{x="1"}': 2.0, "b": 3.0}, BASE + HOUR: {"c": 4.0}})
    assert set(current(client, source, metric="a")) == {"a"}
    assert len(ok(client, "/api/v1/metrics/current", site=source.site, metric="a")["items"]) == 2
    assert ok(client, "/api/v1/metrics/current", site="elsewhere", device=source.device)["items"] == []
    assert set(current(client, source, since=rfc(BASE + 1))) == {"c"}
    assert set(current(client, source, since=rfc(BASE))) == {"a", "b", "c"}


def test_pages_of_current_values_hold_each_series_once(client: httpx2.Client, database: str) -> None:
    site = f"site-{uuid4().hex[:8]}"
    keys = ["a", 'a{x="1"}', 'a{x="2"}', "b"]
    for letter in "qr":
        Source(database, f"{site}-{letter}", site).write({BASE: {key: float(i) for i, key in enumerate(keys)}})
    everything = ok(client, "/api/v1/metrics/current", site=site)["items"]
    assert len(everything) == 8
    for limit in (1, 3, 4, 8):
        found = list(pages(client, "/api/v1/metrics/current", site=site, limit=limit))
        assert max(map(len, found)) <= limit
        assert [item for page in found for item in page] == everything


# History


def history(client: httpx2.Client, source: Source, **parameters: Any) -> Any:
    return ok(client, "/api/v1/metrics/history", device=source.device, **parameters)


def only_series(answer: Any) -> Any:
    (series,) = answer["series"]
    assert len(series["time"]) == len(series["value"])
    return series


def test_raw_history_is_what_was_measured_across_a_change_of_the_layout(client: httpx2.Client, source: Source) -> None:
    source.write(
        {
            BASE - 1: {"a_bytes": -1.0},
            BASE + 2_000: {"a_bytes": None},
            BASE: {"a_bytes": 0.1},
            BASE + 1_001: {"b": 5.0, "a_bytes": 1e300},
            BASE + 3_000: {"a_bytes": 9.0},
        }
    )
    answer = history(client, source, metric="a_bytes", start=rfc(BASE), end=rfc(BASE + 3_000))
    assert (answer["tier"], answer["step_seconds"]) == ("raw", None)
    assert only_series(answer) == {
        "device": source.device,
        "metric": "a_bytes",
        "labels": {},
        "unit": "bytes",
        "time": [rfc(BASE), rfc(BASE + 1_001), rfc(BASE + 2_000)],
        "value": [0.1, 1e300, None],
        "coverage": None,
    }


def test_history_is_selected_by_device_site_and_labels(client: httpx2.Client, source: Source, database: str) -> None:
    keys = ['m{disk="a",mode="r"}', 'm{disk="a",mode="w"}', 'm{disk="b\\"\\\\",mode="r"}']
    source.write({BASE: {key: float(index) for index, key in enumerate(keys)}})
    other = Source(database, f"{source.device}-other", source.site)
    other.write({BASE: {'m{disk="a",mode="r"}': 9.0}})
    window = {"metric": "m", "start": rfc(BASE), "end": rfc(BASE + 1)}

    def values(**parameters: Any) -> list[float]:
        answer = ok(client, "/api/v1/metrics/history", **window, **parameters)
        return [series["value"][0] for series in answer["series"]]

    assert values(site=source.site) == [0.0, 1.0, 2.0, 9.0]
    assert values(device=source.device) == [0.0, 1.0, 2.0]
    assert values(device=[source.device, other.device], label_disk="a", label_mode="r") == [0.0, 9.0]
    assert values(device=source.device, label_disk='b"\\') == [2.0]
    assert values(device=source.device, label_disk="c") == []
    assert values(device="nobody") == []


def test_history_defaults_to_the_last_hour(client: httpx2.Client, source: Source) -> None:
    now = time.time_ns() // 1_000_000
    source.write({now - 2 * HOUR: {"a": 1.0}, now - HOUR // 2: {"a": 2.0}})
    assert only_series(history(client, source, metric="a"))["value"] == [2.0]
    assert only_series(history(client, source, metric="a", start="-3h", end="-1h"))["value"] == [1.0]


REFERENCE: dict[str, Callable[[list[float]], float]] = {
    "mean": fmean,
    "min": min,
    "max": max,
    "sum": math.fsum,
    "count": len,
    "last": lambda values: values[-1],
}


@pytest.mark.parametrize("aggregate", [None, *REFERENCE])
def test_buckets_equal_a_recomputation_from_all_readings(
    client: httpx2.Client, source: Source, aggregate: str | None
) -> None:
    chance = random.Random(aggregate)  # noqa: S311 - nothing secret
    measured: dict[int, float | None] = {}
    for index in range(-40, 400):
        if not 100 <= index < 160:  # a gap of more than a bucket
            measured[BASE + index * 5_000 + chance.randrange(1_000)] = chance.choice([None, chance.gauss(50, 20)])
    source.write({at: {"a": value} if at % 2 else {"b": 0.0, "a": value} for at, value in measured.items()})

    start, end = BASE + 30_000, BASE + 30 * MINUTE
    chosen = {} if aggregate is None else {"aggregate": aggregate}
    answer = history(client, source, metric="a", start=rfc(start), end=rfc(end), step="2m", **chosen)
    series = only_series(answer)
    assert answer["step_seconds"] == 120
    assert series["time"] == [rfc(BASE + index * 2 * MINUTE) for index in range(15)]
    for index, value in enumerate(series["value"]):
        at = BASE + index * 2 * MINUTE
        held = [it for when, it in sorted(measured.items()) if at <= when < at + 2 * MINUTE and it is not None]
        if held:
            assert value == pytest.approx(REFERENCE[aggregate or "mean"](held), rel=1e-12)
        else:
            assert value == (0.0 if aggregate == "count" else None)
    assert series["coverage"][5] == 0.0  # within the gap


def test_coverage_tells_a_gap_and_claims_nothing_about_single_readings(client: httpx2.Client, source: Source) -> None:
    times = [BASE + offset for offset in range(0, 10 * MINUTE, 5_000) if not 3 * MINUTE <= offset < 4 * MINUTE + 30_000]
    source.write({at: {"a": 1.0} for at in times})
    window = {"metric": "a", "start": rfc(BASE), "end": rfc(BASE + 6 * MINUTE)}
    assert only_series(history(client, source, **window, step="1m"))["coverage"] == [1.0, 1.0, 1.0, 0.0, 0.5, 1.0]
    assert only_series(history(client, source, **window, step="2s"))["coverage"] is None


def test_readings_without_a_value_cover_nothing(client: httpx2.Client, source: Source) -> None:
    source.write({BASE + at: {"a": None if at % 10_000 else 1.0} for at in range(0, 2 * MINUTE, 5_000)})
    window = {"metric": "a", "start": rfc(BASE), "end": rfc(BASE + 2 * MINUTE)}
    assert only_series(history(client, source, **window, step="1m"))["coverage"] == [0.5, 0.5]


def test_a_rate_is_the_increase_of_a_counter_across_a_reset(client: httpx2.Client, source: Source) -> None:
    counted = {-5: 90.0, 5: 100.0, 25: 140.0, 45: 160.0, 65: 30.0, 85: 50.0, 205: 290.0}
    source.write({BASE + at * 1_000: {"sent_bytes_total": value} for at, value in counted.items()})
    window = {"metric": "sent_bytes_total", "start": rfc(BASE), "end": rfc(BASE + 4 * MINUTE)}
    series = only_series(history(client, source, **window, step="1m", aggregate="rate"))
    # The first bucket starts from the reading before it, the second holds the reset, the third nothing, and the
    # fourth the increase of two minutes over two minutes.
    assert series["value"] == [(160 - 90) / 50, (30 + 20) / 40, None, (290 - 50) / 120]


def test_a_rate_skips_readings_without_a_value_and_needs_two(client: httpx2.Client, source: Source) -> None:
    counted: dict[int, float | None] = {5: 100.0, 15: None, 25: 140.0}
    source.write({BASE + at * 1_000: {"sent_total": value} for at, value in counted.items()})
    window = {"metric": "sent_total", "step": "20s", "aggregate": "rate"}
    answer = history(client, source, **window, start=rfc(BASE), end=rfc(BASE + 40_000))
    assert only_series(answer)["value"] == [None, 2.0]


def test_a_rate_of_a_gauge_is_refused(client: httpx2.Client) -> None:
    response = client.get("/api/v1/metrics/history?metric=cpu_usage_percent&step=60&aggregate=rate")
    assert problem(response, 422)["errors"][0]["field"] == "aggregate"


def test_a_sum_that_no_number_can_hold_is_refused(client: httpx2.Client, source: Source) -> None:
    source.write({BASE: {"a": 1.7e308}, BASE + 1_000: {"a": 1.7e308}})
    parameters = {"device": source.device, "metric": "a", "start": rfc(BASE), "step": "1m", "aggregate": "sum"}
    assert problem(client.get("/api/v1/metrics/history", params=parameters), 422)["errors"][0]["field"] == "aggregate"


def test_too_many_points_are_refused_with_a_step_that_works(
    client: httpx2.Client, source: Source, database: str
) -> None:
    source.write({BASE: {"a": 0.0}})
    with psycopg.connect(database) as connection:
        connection.execute(
            "insert into telemetry.reading select time + n * interval '10 ms', device_id, layout_id, samples"
            " from telemetry.reading join telemetry.device using (device_id), generate_series(1, %s) as n"
            " where device.name = %s",
            [MAX_POINTS, source.device],
        )
    window = {"device": source.device, "metric": "a", "start": rfc(BASE), "end": rfc(BASE + 2 * HOUR)}
    for step in ({}, {"step": "1s", "end": "now"}):
        parameters = {**window, **step, "start": rfc(BASE - 80 * HOUR)} if step else window
        (error,) = problem(client.get("/api/v1/metrics/history", params=parameters), 422)["errors"]
        assert error["field"] == "step"
        advised = re.search(r"use step=(\w+)", error["message"])
        assert advised is not None, error
        series = only_series(ok(client, "/api/v1/metrics/history", **{**parameters, "step": advised[1]}))
        assert 0 < len(series["time"]) <= MAX_POINTS


def test_reads_of_a_short_time_do_not_touch_older_chunks(client: httpx2.Client, source: Source, database: str) -> None:
    source.write({BASE: {"a_total": 1.0}, BASE + 12 * HOUR: {"a_total": 2.0}})
    recent = {"metric": "a_total", "start": rfc(BASE + 12 * HOUR), "end": rfc(BASE + 13 * HOUR)}
    with psycopg.connect(database) as connection:
        (chunk,) = connection.execute(
            "select distinct tableoid::regclass from telemetry.reading where time between %s and %s",
            [rfc(BASE), rfc(BASE + 1)],
        ).fetchone() or ("",)
        connection.execute(f"lock table {chunk} in access exclusive mode")  # who touches it now waits for ever
        assert only_series(history(client, source, **recent))["value"] == [2.0]
        assert only_series(history(client, source, **recent, step="1h"))["value"] == [2.0]
        assert only_series(history(client, source, **recent, step="1h", aggregate="rate"))["value"] == [None]
        assert current(client, source, since=recent["start"])["a_total"][1] == 2.0


# What is refused


@pytest.mark.parametrize(
    ("address", "field"),
    [
        ("/api/v1/devices?limit=0", "limit"),
        ("/api/v1/devices?limit=many", "limit"),
        ("/api/v1/devices?limit=1&limit=2", "limit"),
        ("/api/v1/devices?site=a/b", "site"),
        ("/api/v1/devices?site=%00", "site"),
        ("/api/v1/devices?site=", "site"),
        ("/api/v1/devices?colour=red", "colour"),
        ("/api/v1/devices?cursor=!", "cursor"),
        ("/api/v1/devices?cursor=WzFd", "cursor"),
        ("/api/v1/devices?cursor=WyJcdTAwMDAiXQ", "cursor"),
        ("/api/v1/devices?cursor=WyJhIiwiYiJd", "cursor"),
        ("/api/v1/metrics/current?device=%ff", "device"),
        ("/api/v1/metrics/current?device=a%0a", "device"),
        ("/api/v1/metrics/current?metric=1a", "metric"),
        ("/api/v1/metrics/current?since=yesterday", "since"),
        ("/api/v1/metrics/current?since=2026-11-20T00:00:00", "since"),
        ("/api/v1/metrics/current?label.x=1", "label.x"),
        ("/api/v1/metrics/history", "metric"),
        ("/api/v1/metrics/history?metric=a&metric=b", "metric"),
        ("/api/v1/metrics/history?metric=a&start=2026-11-20T00:00:00", "start"),
        ("/api/v1/metrics/history?metric=a&start=0001-01-01T00:00:00Z", "start"),
        ("/api/v1/metrics/history?metric=a&start=-101y", "start"),
        ("/api/v1/metrics/history?metric=a&start=-36000w", "start"),
        ("/api/v1/metrics/history?metric=a&end=9999-12-31T23:59:59Z", "end"),
        ("/api/v1/metrics/history?metric=a&start=now&end=now", "end"),
        ("/api/v1/metrics/history?metric=a&start=now&end=-1h", "end"),
        ("/api/v1/metrics/history?metric=a&step=0", "step"),
        ("/api/v1/metrics/history?metric=a&step=-5", "step"),
        ("/api/v1/metrics/history?metric=a&step=", "step"),
        ("/api/v1/metrics/history?metric=a&step=1s&start=-7d", "step"),
        ("/api/v1/metrics/history?metric=a&aggregate=mean", "aggregate"),
        ("/api/v1/metrics/history?metric=a&step=60&aggregate=median", "aggregate"),
        ("/api/v1/metrics/history?metric=a&label.1x=1", "label.1x"),
        ("/api/v1/metrics/history?metric=a&label.=1", "label."),
        ("/api/v1/metrics/history?metric=a&label.x=%00", "label.x"),
        ("/api/v1/metrics/history?metric=a&label.x=1&label.x=2", "label.x"),
        ("/api/v1/metrics/history?metric=a&labels.x=1", "labels.x"),
        ("/api/v1/metrics/history?metric=a&colour=red", "colour"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(client: httpx2.Client, address: str, field: str) -> None:
    content = problem(client.get(address), 422)
    assert field in [error["field"] for error in content["errors"]]
    assert all(error["message"] in content["detail"] for error in content["errors"])


def test_other_addresses_and_methods_are_problems_too(client: httpx2.Client) -> None:
    problem(client.get("/api/v1/nothing"), 404)
    response = client.post("/api/v1/devices")
    problem(response, 405)
    assert response.headers["allow"] == "GET"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000"])
def test_names_of_this_machine_are_served(client: httpx2.Client, host: str) -> None:
    assert client.get("/liveness", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.example", "192.0.2.1", ""])
def test_a_foreign_name_is_refused_on_loopback(client: httpx2.Client, host: str) -> None:
    problem(client.get("/api/v1/devices", headers={"Host": host}), 403)


def test_others_are_served_where_someone_said_so(database: str) -> None:
    with serving(database, host="0.0.0.0", insecure=True) as client:  # noqa: S104 - for this test alone
        assert client.get("/api/v1/devices", headers={"Host": "telemetry.example"}).status_code == 200
