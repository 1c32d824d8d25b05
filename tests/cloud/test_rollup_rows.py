"""Merging rollups: in any order and in any steps, it is what a plain recomputation makes of the readings."""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from cloud_ingest.store.database import Connection, connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.partitions import partitions_of
from cloud_ingest.store.rollup import copying
from cloud_ingest.store.rollup.copying import ROLLUP_COLUMNS, fetch_rollups, write_rollups
from cloud_ingest.store.rollup.rows import Rollups
from cloud_ingest.store.tiers import FIVE_MINUTES, HOUR

WIDTH = 3
Reading = tuple[int, int, int, list[float]]

values = st.one_of(st.integers(-(2**40), 2**40).map(float), st.just(math.nan))
readings = st.lists(
    st.tuples(
        st.integers(0, 3 * HOUR.step_ms),
        st.integers(1, 2),
        st.integers(1, 2),
        st.lists(values, min_size=WIDTH, max_size=WIDTH),
    ),
    min_size=1,
    max_size=30,
)


def of_readings(rows: list[Reading]) -> Rollups:
    return Rollups.of_readings(
        np.array([time for time, _, _, _ in rows], np.int64),
        np.array([device for _, device, _, _ in rows], np.int64),
        np.array([layout for _, _, layout, _ in rows], np.int64),
        np.array([samples for _, _, _, samples in rows], np.float64),
    )


def recomputed(rows: list[Reading], step_ms: int) -> list[Any]:
    groups: dict[tuple[int, int, int], list[tuple[int, list[float]]]] = defaultdict(list)
    for time, device, layout, samples in rows:
        groups[device, layout, time // step_ms * step_ms].append((time, samples))
    result: list[Any] = []
    for (device, layout, start), ticks in sorted(groups.items()):
        series = []
        for position in range(WIDTH):
            held = [(time, samples[position]) for time, samples in ticks if not math.isnan(samples[position])]
            numbers = [value for _, value in held]
            series.append((len(held), sum(numbers), min(numbers), max(numbers), *max(held)) if held else None)
        times = [time for time, _ in ticks]
        result.append((device, layout, start, len(ticks), min(times), max(times), series))
    return result


def plain(rollups: Rollups) -> list[Any]:
    result = []
    for row in range(len(rollups)):
        series = [
            None
            if rollups.counts[row, position] == 0
            else (
                int(rollups.counts[row, position]),
                *(float(it[row, position]) for it in (rollups.sums, rollups.mins, rollups.maxs)),
                int(rollups.lasts_ms[row, position]),
                float(rollups.lasts[row, position]),
            )
            for position in range(WIDTH)
        ]
        numbers = (rollups.device_ids, rollups.layout_ids, rollups.starts_ms, rollups.ticks)
        result.append((*(int(it[row]) for it in (*numbers, rollups.first_ms, rollups.last_ms)), series))
    return result


@given(readings)
def test_rollups_are_what_a_recomputation_makes(rows: list[Reading]) -> None:
    assert plain(of_readings(rows).merged(FIVE_MINUTES.step_ms)) == recomputed(rows, FIVE_MINUTES.step_ms)


@given(readings, st.data())
def test_merging_in_any_order_and_in_steps_makes_no_difference(rows: list[Reading], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows)))
    parts = [of_readings(part).merged(FIVE_MINUTES.step_ms) for part in (shuffled[:cut], shuffled[cut:]) if part]
    assert plain(Rollups.joined(parts).merged(HOUR.step_ms)) == recomputed(rows, HOUR.step_ms)


def test_where_there_is_no_value_there_is_none_and_no_sum() -> None:
    (row,) = [of_readings([(7, 1, 1, [math.nan] * WIDTH), (9, 1, 1, [math.nan] * WIDTH)]).merged(HOUR.step_ms)]
    assert row.counts.tolist() == [[0] * WIDTH]
    assert row.sums.tolist() == [[0.0] * WIDTH]
    assert np.isnan([row.mins, row.maxs, row.lasts]).all()
    assert (row.ticks[0], row.first_ms[0], row.last_ms[0]) == (2, 7, 9)


def test_sum_that_no_number_can_hold_is_infinite() -> None:
    merged = of_readings([(1, 1, 1, [1.7e308] * WIDTH), (2, 1, 1, [1.7e308] * WIDTH)]).merged(HOUR.step_ms)
    assert merged.sums.tolist() == [[math.inf] * WIDTH]


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    migrate(database_url)
    with connect(database_url, "test") as connection:
        partitions_of(connection, FIVE_MINUTES).cover(connection, [0])
        yield connection


@given(rows=readings)
@settings(max_examples=30, deadline=None, suppress_health_check=[])
def check_round_trip(connection: Connection, rows: list[Reading]) -> None:
    connection.execute("delete from telemetry.rollup_5m")
    written = of_readings(rows).merged(FIVE_MINUTES.step_ms)
    write_rollups(connection, FIVE_MINUTES, [written])
    query = sql.SQL("select {} from telemetry.rollup_5m").format(ROLLUP_COLUMNS)
    parts = list(fetch_rollups(connection, query, {}, WIDTH))
    assert plain(Rollups.joined(parts).merged(FIVE_MINUTES.step_ms)) == plain(written)


def test_database_keeps_rollups_as_they_are(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    check_round_trip(connection)
    monkeypatch.setattr(copying, "_FETCH_BYTES", 500)  # a part holds a few rows only
    check_round_trip(connection)


def test_what_every_tick_has_takes_no_space_for_counts(connection: Connection) -> None:
    full = of_readings([(time, 1, 1, [1.0, 2.0, 3.0]) for time in range(5)])
    gappy = of_readings([(time, 2, 1, [1.0, 2.0, math.nan if time == 4 else 3.0]) for time in range(5)])
    write_rollups(connection, FIVE_MINUTES, [Rollups.joined([full, gappy]).merged(FIVE_MINUTES.step_ms)])
    rows = connection.execute(
        "select device_id, counts, (extract(epoch from lasts_times[3]) * 1000)::int, sums"
        " from telemetry.rollup_5m order by device_id"
    ).fetchall()
    assert rows == [(1, None, None, [5, 10, 15]), (2, [5, 5, 4], 3, [5, 10, 12])]
