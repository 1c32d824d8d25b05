"""History over HTTP from the tiers that a worker has made, against the readings that were written."""

import math
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any, NamedTuple
from uuid import uuid4

import httpx2
import psycopg
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
TODAY = NOW // DAY * DAY
GAP = range(TODAY - 12 * DAY, TODAY - 12 * DAY + 5 * HOUR)


def rfc(time_ms: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def measured() -> dict[int, float | None]:
    """A value every ten minutes for 40 days until now, but for a gap and some that are missing."""
    chance = random.Random(1)  # noqa: S311 - nothing secret
    times = [NOW - 30_000 - index * 10 * MINUTE - chance.randrange(MINUTE) for index in range(40 * 24 * 6)]
    return {at: chance.choice([None, *range(-50, 50)]) for at in times if at not in GAP}


@pytest.fixture(scope="module")
def values() -> dict[int, float | None]:
    return measured()


@pytest.fixture(scope="module")
def database(database_server: Server, values: dict[int, float | None]) -> Iterator[str]:
    """A database that a worker has brought up to date, with one device of 40 days, part of them sent late."""
    with new_database(database_server) as url:
        migrate(url)
        pump = Source(url, "pump")
        early = {at: it for at, it in values.items() if at % 3}
        pump.write({at: {"a": it} for at, it in early.items()})
        work(url)
        pump.write({at: {"b": 0.0, "a": it} for at, it in values.items() if at not in early})
        work(url)
        yield url


@pytest.fixture(scope="module")
def client(database: str) -> Iterator[httpx2.Client]:
    with serving(database) as client:
        yield client


def work(url: str) -> None:
    with connect(url, "worker") as connection:
        for _ in Upkeep(connection, Retention()).round(NOW):
            pass


def history(client: httpx2.Client, device: str, metric: str, **parameters: Any) -> Any:
    return ok(client, "/api/v1/metrics/history", device=device, metric=metric, **parameters)


REFERENCE: dict[str, Callable[[list[float]], float]] = {
    "mean": fmean,
    "min": min,
    "max": max,
    "sum": math.fsum,
    "count": len,
    "last": lambda values: values[-1],
}


class Asked(NamedTuple):
    """A question and the shape of its answer."""

    start: int
    step: str
    tier: str
    step_ms: int


@pytest.mark.parametrize("aggregate", REFERENCE)
@pytest.mark.parametrize(
    "asked",
    [
        Asked(NOW - 20 * HOUR, "5m", "5m", 5 * MINUTE),
        Asked(NOW - 6 * DAY, "5m", "5m", 5 * MINUTE),
        Asked(NOW - 6 * DAY, "7m", "5m", 10 * MINUTE),
        Asked(NOW - 20 * DAY, "1h", "1h", HOUR),
        Asked(NOW - 20 * DAY, "3h", "1h", 3 * HOUR),
        Asked(NOW - 39 * DAY, "1h", "1d", DAY),
        Asked(NOW - 39 * DAY, "1w", "1d", 7 * DAY),
    ],
)
def test_buckets_equal_a_recomputation_from_all_readings(
    client: httpx2.Client, values: dict[int, float | None], asked: Asked, aggregate: str
) -> None:
    window = {"start": rfc(asked.start), "end": rfc(NOW)}
    answer = history(client, "pump", "a", **window, step=asked.step, aggregate=aggregate)
    assert (answer["tier"], answer["step_seconds"]) == (asked.tier, asked.step_ms // 1000)
    (series,) = answer["series"]
    assert series["time"] == [rfc(at) for at in range(asked.start // asked.step_ms * asked.step_ms, NOW, asked.step_ms)]
    held: dict[str, list[float]] = {at: [] for at in series["time"]}
    for at, value in sorted(values.items()):
        if value is not None and (bucket := rfc(at // asked.step_ms * asked.step_ms)) in held:
            held[bucket].append(value)
    nothing = 0.0 if aggregate == "count" else None
    assert series["value"] == [
        pytest.approx(REFERENCE[aggregate](numbers), rel=1e-12) if numbers else nothing for numbers in held.values()
    ]


def test_readings_that_are_gone_are_answered_with_the_shortest_rollups(client: httpx2.Client) -> None:
    recent = history(client, "pump", "a", start=rfc(NOW - 20 * HOUR))
    assert (recent["tier"], recent["step_seconds"]) == ("raw", None)
    for days, tier, step_ms in [(5, "5m", 5 * MINUTE), (20, "1h", HOUR), (39, "1d", DAY)]:
        answer = history(client, "pump", "a", start=rfc(NOW - days * DAY), end=rfc(NOW))
        assert (answer["tier"], answer["step_seconds"]) == (tier, step_ms // 1000)
        (series,) = answer["series"]
        assert len(series["value"]) == -(-NOW // step_ms) - (NOW - days * DAY) // step_ms


def test_coverage_of_rollups_shows_a_gap(client: httpx2.Client) -> None:
    (series,) = history(client, "pump", "a", start=rfc(GAP.start - 5 * HOUR), end=rfc(GAP.stop + 5 * HOUR), step="1h")[
        "series"
    ]
    coverage = series["coverage"]
    assert coverage[5:10] == [0.0] * 5
    assert min(coverage[:5]) > 0.5
    assert min(coverage[10:]) > 0.5


def test_a_rate_of_rollups_is_that_of_their_last_values_and_sees_resets(client: httpx2.Client, database: str) -> None:
    device = f"device-{uuid4().hex[:8]}"
    start = TODAY - 3 * DAY
    counted = {
        -10: 90.0,  # the bucket before
        10: 100.0,
        290: 190.0,  # within a bucket nothing is lost of a steady count
        310: 300.0,
        590: 50.0,  # it went on from 190 to 300 and was reset
        700: 10.0,
        890: 400.0,  # reset before it reached 50: that it has been there is not known
        1_000: 500.0,
        2_090: 900.0,  # after two empty buckets
    }
    Source(database, device).write({start + at * 1_000: {"sent_total": it} for at, it in counted.items()})
    work(database)
    window = {"start": rfc(start), "end": rfc(start + 2_100_000), "step": "5m", "aggregate": "rate"}
    answer = history(client, device, "sent_total", **window)
    assert (answer["tier"], answer["step_seconds"]) == ("5m", 300)
    (series,) = answer["series"]
    expected = [100 / 300, (110 + 50) / 300, 400 / 300, 100 / 110, None, None, 400 / 1090]
    assert series["value"] == [None if it is None else pytest.approx(it) for it in expected]


def test_a_rate_goes_on_from_rollups_to_readings(client: httpx2.Client, database: str) -> None:
    device = f"device-{uuid4().hex[:8]}"
    times = range(TODAY - 2 * DAY, NOW - MINUTE, 10 * MINUTE)
    Source(database, device).write({at: {"sent_total": index * 600.0} for index, at in enumerate(times)})
    work(database)
    answer = history(
        client, device, "sent_total", start=rfc(TODAY - 2 * DAY), end=rfc(NOW), step="1h", aggregate="rate"
    )
    assert answer["tier"] == "5m"
    (series,) = answer["series"]
    counted = [any(start <= at < start + HOUR for at in times[1:]) for start in range(TODAY - 2 * DAY, NOW, HOUR)]
    assert series["value"] == [pytest.approx(1.0) if it else None for it in counted]


def test_a_sum_in_a_rollup_that_no_number_can_hold_is_refused(client: httpx2.Client, database: str) -> None:
    device = f"device-{uuid4().hex[:8]}"
    Source(database, device).write({TODAY - 3 * DAY + at: {"a": 1.7e308} for at in (1, 2)})
    work(database)
    window = {"device": device, "metric": "a", "start": rfc(TODAY - 3 * DAY), "end": rfc(TODAY - 2 * DAY), "step": "1h"}
    response = client.get("/api/v1/metrics/history", params={**window, "aggregate": "sum"})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "aggregate"
    assert (
        max(filter(None, ok(client, "/api/v1/metrics/history", **window, aggregate="max")["series"][0]["value"]))
        == 1.7e308
    )


@pytest.mark.parametrize(("table", "days", "step"), [("rollup_5m", 2, "5m"), ("rollup_1h", 10, "1h")])
def test_reads_of_a_tier_do_not_touch_older_chunks(
    client: httpx2.Client, database: str, table: str, days: int, step: str
) -> None:
    window = {"start": rfc(TODAY - days * DAY), "end": rfc(TODAY - days * DAY + 8 * HOUR), "step": step}
    with psycopg.connect(database) as connection:
        (chunk,) = connection.execute(
            f"select tableoid::regclass from telemetry.{table} order by time limit 1"  # noqa: S608
        ).fetchone() or ("",)
        connection.execute(f"lock table {chunk} in access exclusive mode")  # who touches it now waits for ever
        assert len(history(client, "pump", "a", **window)["series"]) == 1
        # the narrow view, with bounds as Grafana writes them
        with psycopg.connect(database, options="-c lock_timeout=2s") as grafana:
            rows = grafana.execute(
                f"select time, sum / count from telemetry.sample_{step}"  # noqa: S608
                f" where time >= '{window['start']}' and time < '{window['end']}' and device = 'pump' and metric = 'a'"
            ).fetchall()
    assert rows
