"""What shape rollups should have: a row a device, layout and bucket with arrays, or a row a series and bucket.

    PYTHONPATH=tests .venv/bin/python benchmarks/rollup_shape.py [--devices 100] [--series 60] [--json FILE]

On one server, with the same readings of an hour and the same 5-minute rollups of a day:

- arrays: `telemetry.rollup_5m` as migrated; inline: the same, kept from compressing (toast_tuple_target); narrow: one
  row a series and bucket with the index that its questions need;
- bytes a series and bucket with indexes, and how fast they are written (COPY BINARY of packed rows);
- questions: a day of one series by the hour; an hour of one metric of all devices; joining an hour into hourly rollups;
- making them from the readings: by the worker (numpy, both tiers) and by SQL into the narrow table (one tier);
- storing ticks through ingest's transaction: of now, of hours ago (leaving marks), of days ago (joined into rollups).

Absolute figures depend on the machine; the ratios are the result.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
from harness.absence import Absent
from harness.postgres import PlainServer, Server, TimescaleServer, new_database
from psycopg import sql

from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.database import Connection, connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.partitions import partitions_of
from cloud_ingest.store.readings import copy_stream
from cloud_ingest.store.rollup.copying import ROLLUP_COLUMNS, fetch_rollups, write_rollups
from cloud_ingest.store.rollup.keeper import TierKeeper
from cloud_ingest.store.rollup.rows import Rollups
from cloud_ingest.store.rollup.state import from_ms
from cloud_ingest.store.tiers import DAY, FIVE_MINUTES, HOUR, RAW, TIERS, Tier

INTERVAL_MS: Final = 5_000
TICKS_A_BUCKET: Final = FIVE_MINUTES.step_ms // INTERVAL_MS
BUCKETS: Final = DAY.step_ms // FIVE_MINUTES.step_ms
START_MS: Final = 1_795_000_000_000 // DAY.step_ms * DAY.step_ms
WRITE_BUCKETS: Final = 4

NARROW: Final = """
create table narrow (time timestamptz not null, device_id integer not null, key_id integer not null,
                     count integer not null, sum float8, min float8, max float8, last float8, last_time timestamptz);
create index on narrow (device_id, key_id, time desc)
"""


def values(chance: np.random.Generator, ticks: int, series: int, start: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What a host sends: gauges with a decimal, and as many counters; shape (ticks, series)."""
    gauges = chance.integers(0, 1_000, (ticks, series // 2)) / 10
    counters = (start + np.arange(ticks))[:, np.newaxis] * chance.integers(1, 5_000, series - series // 2)
    return np.concatenate([gauges, counters], axis=1)


def day_of_rollups(devices: int, series: int) -> Rollups:
    """A day of 5-minute rollups, bucket by bucket."""
    chance = np.random.default_rng(20261121)
    parts = []
    for bucket in range(BUCKETS):
        times = START_MS + bucket * FIVE_MINUTES.step_ms + np.arange(TICKS_A_BUCKET) * INTERVAL_MS
        samples = [values(chance, TICKS_A_BUCKET, series, bucket * TICKS_A_BUCKET) for _ in range(devices)]
        numbers = np.repeat(np.arange(1, devices + 1), TICKS_A_BUCKET)
        readings = Rollups.of_readings(np.tile(times, devices), numbers, np.ones_like(numbers), np.concatenate(samples))
        parts.append(readings.merged(FIVE_MINUTES.step_ms))
    return Rollups.joined(parts)


def in_turn(rollups: Rollups, devices: int) -> Iterator[Rollups]:
    """A few buckets of all devices at a time, as a worker writes them."""
    step = devices * WRITE_BUCKETS
    for at in range(0, len(rollups), step):
        yield rollups.rows(np.arange(at, min(at + step, len(rollups))))


def best_ms(action: Callable[[], object]) -> float:
    """The quickest of some runs."""
    durations = []
    for _ in range(7):
        started = time.perf_counter()
        action()
        durations.append(time.perf_counter() - started)
    return round(min(durations) * 1_000, 2)


def size(connection: Connection, tables: str) -> int:
    """Bytes of all tables whose name is like `tables`, with indexes and what is stored aside."""
    ((total,),) = connection.execute(
        "select sum(pg_total_relation_size(oid)) from pg_class where relkind = 'r' and relname like %s"
        " and relnamespace::regnamespace::text in ('telemetry', '_timescaledb_internal', 'public')",
        [tables],
    ).fetchall()
    return int(total)


def measure_arrays(connection: Connection, rollups: Rollups, devices: int, *, inline: bool) -> dict[str, float]:
    """The figures of the array rows, in a plain table so that all shapes are measured alike."""
    table = "inline" if inline else "arrays"
    tier = Tier(1, "5m", table, FIVE_MINUTES.step_ms, FIVE_MINUTES.span_ms)
    name = sql.Identifier("telemetry", table)
    connection.execute(sql.SQL("create table {} (like telemetry.rollup_5m)").format(name))
    if inline:
        connection.execute(sql.SQL("alter table {} set (toast_tuple_target = 8160)").format(name))
    connection.execute(sql.SQL("create index on {} (device_id, layout_id, time desc)").format(name))
    started = time.perf_counter()
    for part in in_turn(rollups, devices):
        write_rollups(connection, tier, [part])
    seconds = time.perf_counter() - started
    connection.execute(sql.SQL("vacuum analyze {}").format(name))
    series = sql.SQL(
        "select date_bin('1 hour', time, 'epoch'), sum(coalesce(counts[7], ticks)), sum(sums[7]), min(mins[7]),"
        " max(maxs[7]), (array_agg(lasts[7] order by time desc))[1]"
        " from {} where device_id = 2 and layout_id = 1 and time >= %s group by 1"
    ).format(name)
    fleet = sql.SQL(
        "select time, sum(sums[7]) / sum(ticks), max(maxs[7]) from {}"
        " where device_id = any(%s) and layout_id = 1 and time >= %s and time < %s group by 1"
    ).format(name)
    hour = sql.SQL("select {} from {} where time >= %(start)s and time < %(end)s").format(ROLLUP_COLUMNS, name)
    bounds = {"start": from_ms(START_MS), "end": from_ms(START_MS + HOUR.step_ms)}
    cells = len(rollups) * rollups.width
    return {
        "bytes": round(size(connection, table) / cells, 1),
        "written_per_second": round(cells / seconds),
        "series_day_ms": best_ms(lambda: connection.execute(series, [from_ms(START_MS)]).fetchall()),
        "fleet_hour_ms": best_ms(
            lambda: connection.execute(fleet, [list(range(1, devices + 1)), *bounds.values()]).fetchall()
        ),
        "join_hour_ms": best_ms(
            lambda: [part.merged(HOUR.step_ms) for part in fetch_rollups(connection, hour, bounds, rollups.width)]
        ),
    }


def measure_narrow(connection: Connection, rollups: Rollups, devices: int) -> dict[str, float]:
    """The same figures of a row a series and bucket; its hour is joined where it lies."""
    connection.execute(NARROW)
    packed = [narrow_rows(part) for part in in_turn(rollups, devices)]
    started = time.perf_counter()
    for part in packed:
        with connection.cursor() as cursor, cursor.copy("copy narrow from stdin (format binary)") as copy:
            copy.write(part)
    seconds = time.perf_counter() - started
    connection.execute("vacuum analyze narrow")
    start, end = from_ms(START_MS), from_ms(START_MS + HOUR.step_ms)
    series = (
        "select date_bin('1 hour', time, 'epoch'), sum(count), sum(sum), min(min), max(max),"
        " (array_agg(last order by time desc))[1]"
        " from narrow where device_id = 2 and key_id = 7 and time >= %s group by 1"
    )
    fleet = (
        "select time, sum(sum) / sum(count), max(max) from narrow"
        " where device_id = any(%s) and key_id = 7 and time >= %s and time < %s group by 1"
    )
    hour = (
        "create temporary table hour on commit drop as select device_id, key_id, sum(count) as count, sum(sum) as sum,"
        " min(min) as min, max(max) as max, (array_agg(last order by last_time desc))[1] as last"
        " from narrow where time >= %s and time < %s group by 1, 2"
    )
    cells = len(rollups) * rollups.width
    return {
        "bytes": round(size(connection, "narrow") / cells, 1),
        "written_per_second": round(cells / seconds),
        "series_day_ms": best_ms(lambda: connection.execute(series, [start]).fetchall()),
        "fleet_hour_ms": best_ms(
            lambda: connection.execute(fleet, [list(range(1, devices + 1)), start, end]).fetchall()
        ),
        "join_hour_ms": best_ms(lambda: connection.execute(hour, [start, end])),
    }


def narrow_rows(rollups: Rollups) -> bytes:
    """A COPY stream of a row a series and bucket."""
    fields = [("time", ">i8"), ("device_id", ">i4"), ("key_id", ">i4"), ("count", ">i4")]
    fields += [("sum", ">f8"), ("min", ">f8"), ("max", ">f8"), ("last", ">f8"), ("last_time", ">i8")]
    parts = [("fields", ">i2")]
    for name, type_ in fields:
        parts += [(f"{name} size", ">i4"), (name, type_)]
    rows = np.zeros(len(rollups) * rollups.width, parts)
    rows["fields"] = len(fields)
    for name, type_ in fields:
        rows[f"{name} size"] = np.dtype(type_).itemsize
    microseconds = 1_000 * (rollups.starts_ms - 946_684_800_000)
    rows["time"] = np.repeat(microseconds, rollups.width)
    rows["last_time"] = 1_000 * (rollups.lasts_ms.ravel() - 946_684_800_000)
    rows["device_id"] = np.repeat(rollups.device_ids, rollups.width)
    rows["key_id"] = np.tile(np.arange(1, rollups.width + 1), len(rollups))
    rows["count"] = rollups.counts.ravel()
    for name, column in (("sum", rollups.sums), ("min", rollups.mins), ("max", rollups.maxs), ("last", rollups.lasts)):
        rows[name] = column.ravel()
    return copy_stream([rows.tobytes()])


class Fleet:
    """Devices whose ticks go through ingest's transaction."""

    def __init__(self, url: str, devices: int, series: int) -> None:
        self._url = url
        self._streams = [uuid4() for _ in range(devices)]
        self._keys = tuple(f'metric_{index % 12}{{part="{index}"}}' for index in range(series))
        self._chance = np.random.default_rng(20261121)
        self._next_seq = 1

    def store(self, start_ms: int, ticks: int) -> float:
        """Samples a second; 100 ticks a message and 5,000 a transaction, as a drained backlog comes."""
        blocks = []
        for at in range(0, ticks, 100):
            seqs = list(range(self._next_seq + at, self._next_seq + min(at + 100, ticks)))
            times = start_ms + (at + np.arange(len(seqs))) * INTERVAL_MS
            for number, stream in enumerate(self._streams):
                samples = values(self._chance, len(seqs), len(self._keys), at)
                message = Message("", b"")
                name = f"device-{number}"
                blocks.append(Block(message, "bench", name, stream, 1, self._keys, seqs, times, samples))
        self._next_seq += ticks
        with closing(BatchWriter(self._url)) as writer:
            started = time.perf_counter()
            for first in range(0, len(blocks), 50):
                writer.write(blocks[first : first + 50], [])
            return len(self._streams) * ticks * len(self._keys) / (time.perf_counter() - started)


def measure_making(url: str, devices: int, series: int) -> dict[str, int]:
    """Samples a second into rollups by the worker and by SQL, and through ingest by how old they are."""
    now_ms = START_MS + 3 * HOUR.step_ms
    keep_ms = {RAW: DAY.step_ms, FIVE_MINUTES: 7 * DAY.step_ms, HOUR: 30 * DAY.step_ms, DAY: 365 * DAY.step_ms}
    fleet = Fleet(url, devices, series)
    ticks = HOUR.step_ms // INTERVAL_MS
    samples = devices * series * ticks
    with connect(url, "bench") as connection:
        stored_now = fleet.store(START_MS, ticks)
        connection.execute("analyze")
        started = time.perf_counter()
        for _ in TierKeeper(connection, keep_ms).round(now_ms):
            pass
        by_worker = samples / (time.perf_counter() - started)
        connection.execute(NARROW)
        started = time.perf_counter()
        connection.execute(
            "insert into narrow select date_bin('5 minutes', time, 'epoch'), device_id, position, count(value),"
            " sum(value), min(value), max(value), (array_agg(value order by time desc))[1], max(time)"
            " from telemetry.reading cross join lateral unnest(samples) with ordinality as sample (value, position)"
            " group by 1, 2, 3"
        )
        by_sql = samples / (time.perf_counter() - started)
        for tier in TIERS:  # so that no way pays for partitions
            days = [START_MS - ago * DAY.step_ms for ago in (0, 1, 3)]
            partitions_of(connection, tier).cover(connection, days)
    return {
        "made_by_worker": round(by_worker),
        "made_by_sql": round(by_sql),
        "stored_of_now": round(stored_now),
        "stored_of_hours_ago": round(fleet.store(START_MS + INTERVAL_MS // 2, ticks)),
        "stored_of_days_ago": round(fleet.store(START_MS - 3 * DAY.step_ms, ticks)),
    }


def measure(server: Server, devices: int, series: int) -> dict[str, Any]:
    """All figures."""
    rollups = day_of_rollups(devices, series)
    shapes: dict[str, dict[str, float]] = {}
    with new_database(server) as url:
        migrate(url)
        with connect(url, "bench") as connection:
            shapes["arrays"] = measure_arrays(connection, rollups, devices, inline=False)
            shapes["inline"] = measure_arrays(connection, rollups, devices, inline=True)
            shapes["narrow"] = measure_narrow(connection, rollups, devices)
    with new_database(server) as url:
        migrate(url)
        return {"shapes": shapes, "samples_per_second": measure_making(url, devices, series)}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--series", type=int, default=60)
    parser.add_argument("--server", choices=["timescaledb", "postgresql"], default="timescaledb")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    durable = {"fsync": "on", "shared_buffers": "512MB", "max_wal_size": "4GB"}
    try:
        server = TimescaleServer(settings=durable) if options.server == "timescaledb" else PlainServer(settings=durable)
    except Absent as absent:
        parser.exit(1, f"can't measure on {options.server}: {absent}\n")
    try:
        server.start()
        figures = measure(server, options.devices, options.series)
    finally:
        server.close()
    print(f"{'shape':8} {'bytes':>7} {'written/s':>12} {'series day':>11} {'fleet hour':>11} {'join hour':>10}")
    for name, shape in figures["shapes"].items():
        print(
            f"{name:8} {shape['bytes']:7.1f} {shape['written_per_second']:12,} {shape['series_day_ms']:8.2f} ms"
            f" {shape['fleet_hour_ms']:8.2f} ms {shape['join_hour_ms']:7.1f} ms"
        )
    for name, rate in figures["samples_per_second"].items():
        print(f"{name:22} {rate:12,} samples/s")
    if options.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "server": options.server}
        shape = {"devices": options.devices, "series": options.series}
        options.json.write_text(json.dumps({**about, **shape, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
