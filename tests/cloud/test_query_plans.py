"""Each query reads the pieces of its time and no others, by their index, on every server."""

import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from harness.api import Source
from harness.plans import Plans, Scan
from harness.postgres import Server, new_database

from cloud_ingest.config import Retention
from cloud_ingest.store.current import current_values
from cloud_ingest.store.database import Connection, connect
from cloud_ingest.store.history import (
    Aggregate,
    Cut,
    Series,
    Window,
    buckets,
    find_series,
    raw_points,
)
from cloud_ingest.store.matrices import matrices
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.rollup.state import from_ms, read_state
from cloud_ingest.store.tier_choice import parts_of
from cloud_ingest.store.tiers import DAY, FIVE_MINUTES, HOUR, RAW, TIERS, Tier
from cloud_ingest.worker.upkeep import Upkeep

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOW = time.time_ns() // 1_000_000
DEVICES = [f"pump-{index}" for index in range(40)]


@pytest.fixture(scope="module")
def database(database_server: Server) -> Iterator[str]:
    """40 devices, a reading each five minutes of 20 hours, and each four hours of 60 days: enough to want an index."""
    with new_database(database_server) as url:
        migrate(url)
        times = [NOW - at for at in range(60_000, 20 * HOUR_MS, 300_000)]
        times += [NOW - at for at in range(20 * HOUR_MS, 60 * DAY_MS, 4 * HOUR_MS)]
        for device in DEVICES:
            Source(url, device).write({at: {"a_total": float(at), "b": 1.0} for at in times})
        with connect(url, "worker") as connection:
            for _ in Upkeep(connection, Retention()).round(NOW):
                pass
            connection.execute("vacuum analyze")
        yield url


@pytest.fixture
def plans(database: str) -> Iterator[Plans]:
    plans = Plans(database)
    yield plans
    plans.close()


class Query:
    """A query over some time of one series, as the API asks it."""

    def __init__(self, connection: Connection, start_ms: int, end_ms: int) -> None:
        self.connection = connection
        self.window = Window(from_ms(start_ms), from_ms(end_ms))
        self.start_ms, self.end_ms = start_ms, end_ms
        self.series: list[Series] = find_series(
            connection, metric="a_total", devices=["pump-7"], site=None, labels={}, limit=10
        )

    def points(self) -> None:
        assert len(raw_points(self.connection, self.series, self.window, 10_000)["time"]) > 5

    def matrices(self) -> None:
        with matrices(self.connection, self.series, self.window) as devices:
            ((matrix,),) = devices
        assert matrix.samples.shape[1] > 5

    def buckets(self, tier: Tier, aggregates: list[Aggregate], *, edges: bool = False) -> None:
        parts = parts_of(read_state(self.connection), tier, self.start_ms, self.end_ms)
        cut = Cut(
            self.window.start,
            timedelta(milliseconds=max(tier.step_ms, HOUR_MS)),
            [self.window.start, self.window.end] if edges else None,
        )
        found = buckets(self.connection, [self.series[0].places], parts, cut, aggregates)
        assert len(found["time"]) > 0


def pieces(connection: Connection, tier: Tier, start_ms: int, end_ms: int) -> set[str]:
    """The pieces of a tier that hold any of the time."""
    rows = connection.execute(
        "select distinct format('%%s.%%s', nspname, relname)"  # noqa: S608 - a table of ours
        f" from telemetry.{tier.table} as it join pg_class on pg_class.oid = it.tableoid"
        " join pg_namespace on pg_namespace.oid = relnamespace where it.time >= %s and it.time < %s",
        [from_ms(start_ms), from_ms(end_ms)],
    ).fetchall()
    return {row[0] for row in rows}


def all_pieces(connection: Connection) -> set[str]:
    return {piece for tier in TIERS for piece in pieces(connection, tier, 0, NOW + DAY_MS)}


def by_its_index(scan: Scan) -> bool:
    """The index over device, layout and time, which has another name in each piece."""
    return scan.by is not None and re.search(r"device(_id)?_layout(_id)?_time", scan.by) is not None


def span(tier: Tier) -> tuple[int, int]:
    """A time in the midst of a tier's, which some of its pieces lie before and some after."""
    ago = {RAW: 10 * HOUR_MS, FIVE_MINUTES: 4 * DAY_MS, HOUR: 15 * DAY_MS, DAY: 57 * DAY_MS}[tier]
    start = (NOW - ago) // tier.step_ms * tier.step_ms
    return start, start + 10 * max(tier.step_ms, 300_000)


CASES: dict[str, tuple[Tier, Callable[[Query], None]]] = {
    "points": (RAW, Query.points),
    "matrices": (RAW, Query.matrices),
    "a rate of readings": (RAW, lambda query: query.buckets(RAW, [Aggregate.RATE])),
    "buckets of a zone": (RAW, lambda query: query.buckets(RAW, [Aggregate.MEAN], edges=True)),
} | {
    f"{name} of {tier.name}": (tier, lambda query, tier=tier, chosen=chosen: query.buckets(tier, chosen))
    for tier in TIERS
    for name, chosen in (
        ("a mean", [Aggregate.MEAN]),
        ("figures", [Aggregate.SUM, Aggregate.MIN, Aggregate.MAX, Aggregate.LAST]),
    )
}


@pytest.mark.parametrize("case", CASES)
def test_a_query_reads_the_pieces_of_its_time_by_their_index(plans: Plans, case: str) -> None:
    tier, ask = CASES[case]
    start, end = span(tier)
    wanted, others = pieces(plans.connection, tier, start, end), all_pieces(plans.connection)
    assert wanted
    assert len(others) > len(wanted)
    query = Query(plans.connection, start, end)
    plans.clear()
    ask(query)
    scans = [scan for scan in plans.scans() if scan.table in others]
    assert {scan.table for scan in scans} == wanted
    assert all(by_its_index(scan) for scan in scans), scans


def test_current_values_of_one_device_are_read_from_the_newest_piece_alone(plans: Plans) -> None:
    plans.clear()
    rows = current_values(
        plans.connection, devices=["pump-7"], metric=None, site=None, since=from_ms(NOW - DAY_MS), after=None, limit=10
    )
    assert len(rows) == 2
    scans = [scan for scan in plans.scans() if scan.table in all_pieces(plans.connection)]
    assert {scan.table for scan in scans} == pieces(plans.connection, RAW, NOW - 60_000, NOW)
    assert all(by_its_index(scan) for scan in scans), scans


def test_a_whole_tier_read_without_its_index_would_be_seen(plans: Plans) -> None:
    plans.clear()
    plans.connection.execute("select count(*) from telemetry.reading where samples[1] = 0")
    scans = [scan for scan in plans.scans() if scan.table in all_pieces(plans.connection)]
    assert {scan.table for scan in scans} == pieces(plans.connection, RAW, 0, NOW + DAY_MS)
    assert any(scan.by is None for scan in scans)
