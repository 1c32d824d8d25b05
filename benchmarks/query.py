"""How long the REST API takes for the questions that people and dashboards ask most, beside what is aimed at.

    PYTHONPATH=tests .venv/bin/python benchmarks/query.py [--samples 3000000] [--server timescaledb|postgresql]
                                                          [--repeat 50] [--shared-buffers SIZE] [--json FILE]

A day of readings of SERIES values every five seconds, of as many devices as make up the samples, and their rollups are
made by the server itself; a fleet of at least FLEET devices has a reading. `cloud-ingest api` runs as a process of its
own; each question is asked `--repeat` times after two that don't count, of a random device each time, over one
connection, and the clock runs until the last byte is there. 300 million samples take 4 GB of disk.

The server has a quarter of the machine's memory as `shared_buffers`, as PostgreSQL's documentation advises: the
readings of a device lie between those of all others, a page each, and a page that is not there costs several times as
much.

Then what a sample takes at rest in each tier, by the server's own account of tables and indexes. Beside it stands what
the array row was chosen for.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx2
import psutil
import psycopg
from harness.absence import Absent
from harness.ports import free_port
from harness.postgres import PlainServer, Server, TimescaleServer, new_database
from harness.processes import Process
from harness.wait import until
from psycopg import sql

from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.partitions import partitions_of
from cloud_ingest.store.tiers import FIVE_MINUTES, HOUR, RAW, TIERS, Tier

SERIES: Final = 60
INTERVAL_SECONDS: Final = 5
TICKS_A_DAY: Final = 86_400 // INTERVAL_SECONDS
DAYS_OF_ROLLUPS: Final = {FIVE_MINUTES: 1, HOUR: 30}
MIN_DEVICES: Final = 3
FLEET: Final = 334  # of 60 series: 20,040
# A sample of an array row of 60, with its index; of a row of its own, with its index (measured when the row was chosen)
EXPECTED_BYTES: Final = 10.7
NARROW_BYTES: Final = 108


class Question(NamedTuple):
    """What is asked of a device, and in how many milliseconds 95 of 100 answers should be there."""

    name: str
    aim_ms: float | None
    address: Callable[[str], str]


QUESTIONS: Final = (
    Question("current values of one device", 50, lambda device: f"metrics/current?device={device}"),
    Question(
        "24 h raw of one series", 50, lambda device: f"metrics/history?metric=metric_7&device={device}&start=-24h"
    ),
    Question(
        "30 d hourly of one series",
        50,
        lambda device: f"metrics/history?metric=metric_7&device={device}&start=-30d&step=1h",
    ),
    Question(
        "24 h of one series in 5 min",
        None,
        lambda device: f"metrics/history?metric=metric_7&device={device}&start=-24h&step=5m",
    ),
    Question("summary of one device, 1 h", None, lambda device: f"metrics/summary?device={device}"),
    Question("current values of the fleet", 100, lambda _: "metrics/current?limit=100000"),
    Question("1 h of one metric, all devices", None, lambda _: "aggregation/metric_7?start=-1h&step=5m&by=site"),
)


def seed(url: str, devices: int, fleet: int = FLEET) -> float:
    """Makes the readings and rollups of `devices`, and a reading of each other of a `fleet`; in how many seconds."""
    started = time.perf_counter()
    now = datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    with connect(url, "benchmark") as connection:
        _name(connection, max(devices, fleet))
        for tier, days in ((RAW, 1), *DAYS_OF_ROLLUPS.items()):
            steps = range(days * 24 + 2)
            times = [int((now - timedelta(hours=step)).timestamp() * 1_000) for step in steps]
            partitions_of(connection, tier).cover(connection, times)
        # A hundred readings to choose from: random numbers for each would take longer than to store them
        connection.execute(
            "create temporary table pattern as"
            " select n, array_agg(round((random() * 1000)::numeric, 1)::float8) as samples"
            " from generate_series(0, 99) as n, generate_series(1, %s) group by n",
            [SERIES],
        )
        connection.execute(
            "insert into telemetry.reading (time, device_id, layout_id, samples)"
            " select at, device_id, layout_id, samples"
            " from generate_series(%(start)s::timestamptz, %(end)s, make_interval(secs => %(interval)s)) as at"
            " cross join telemetry.device_layout"
            " join pattern on n = (extract(epoch from at)::bigint / %(interval)s + device_id) %% 100"
            " where device_id <= %(devices)s or at = %(end)s",
            {"start": now - timedelta(days=1), "end": now, "interval": INTERVAL_SECONDS, "devices": devices},
        )
        oldest = hour - timedelta(days=DAYS_OF_ROLLUPS[HOUR])
        for tier, days in DAYS_OF_ROLLUPS.items():
            _roll(connection, tier, hour - timedelta(days=days), hour, devices)
        connection.execute(
            "update telemetry.rollup_state set watermark = %(hour)s, rolled_5m = %(hour)s, rolled_1h = %(hour)s,"
            "  rolled_1d = %(oldest)s, floor_raw = %(day)s, floor_5m = %(day)s, floor_1h = %(oldest)s,"
            "  floor_1d = %(oldest)s",
            {"hour": hour, "oldest": oldest - timedelta(hours=1), "day": hour - timedelta(days=1)},
        )
        connection.execute("vacuum analyze")
    return time.perf_counter() - started


def _roll(connection: psycopg.Connection[Any], tier: Tier, start: datetime, end: datetime, devices: int) -> None:
    """Rollups of a tier, each of readings that have all values."""
    connection.execute(
        sql.SQL(
            "insert into {table} (time, device_id, layout_id, ticks, first_time, last_time, sums, mins, maxs, lasts)"
            " select at, device_id, layout_id, %(seconds)s / %(interval)s,"
            "  at, at + make_interval(secs => %(seconds)s - %(interval)s), samples, samples, samples, samples"
            " from generate_series(%(start)s::timestamptz, %(last)s, make_interval(secs => %(seconds)s)) as at"
            " cross join telemetry.device_layout"
            " join pattern on n = (extract(epoch from at)::bigint / %(seconds)s + device_id) %% 100"
            " where device_id <= %(devices)s"
        ).format(table=sql.Identifier("telemetry", tier.table)),
        {
            "start": start,
            "last": end - timedelta(milliseconds=tier.step_ms),
            "seconds": tier.step_ms // 1_000,
            "interval": INTERVAL_SECONDS,
            "devices": devices,
        },
    )


def at_rest(url: str) -> list[dict[str, Any]]:
    """What is in each tier, and how many bytes a value of a series, or its figures of a bucket, take with the index."""
    tiers = []
    with connect(url, "benchmark") as connection:
        for tier in TIERS:
            # The rows, and the size of all pieces: chunks or partitions, with their indexes
            rows, size = connection.execute(
                sql.SQL(
                    "select count(*), coalesce((select sum(pg_total_relation_size(piece)) from ("
                    "  select distinct tableoid as piece from {table}) as it), 0)::bigint from {table}"
                ).format(table=sql.Identifier("telemetry", tier.table))
            ).fetchall()[0]
            if rows:
                tiers.append(
                    {"tier": tier.name, "rows": rows, "bytes": size, "bytes_a_series": round(size / rows / SERIES, 2)}
                )
    return tiers


def _name(connection: psycopg.Connection[Any], devices: int) -> None:
    """Devices of ten sites with one layout of SERIES series."""
    connection.execute(
        "insert into telemetry.device (name, site)"
        " select 'device-' || n, 'site-' || n %% 10 from generate_series(1, %s) as n",
        [devices],
    )
    connection.execute(
        "insert into telemetry.series_key (key, metric, labels)"
        " select format('metric_%%s{part=\"%%s\"}', n, n), 'metric_' || n, jsonb_build_object('part', n::text)"
        " from generate_series(1, %s) as n",
        [SERIES],
    )
    connection.execute("insert into telemetry.layout (digest) values ('benchmark')")
    connection.execute(
        "insert into telemetry.layout_position (layout_id, position, key_id)"
        " select layout_id, row_number() over (order by key_id), key_id from telemetry.layout, telemetry.series_key"
    )
    connection.execute(
        "insert into telemetry.device_layout (device_id, layout_id)"
        " select device_id, layout_id from telemetry.device, telemetry.layout"
    )


def ask(client: httpx2.Client, question: Question, devices: int, repeat: int) -> dict[str, Any]:
    """The milliseconds that answers take, and the bytes of the last one as it was sent."""
    chance = random.Random(20261121)  # noqa: S311 - which device is asked for
    taken: list[float] = []
    size = 0
    for _ in range(repeat + 2):
        address = f"/api/v1/{question.address(f'device-{chance.randint(1, devices)}')}"
        started = time.perf_counter()
        response = client.get(address)
        taken.append((time.perf_counter() - started) * 1_000)
        assert response.status_code == 200, response.text  # noqa: S101, PLR2004
        size = int(response.headers["content-length"])
    counted = sorted(taken[2:])
    return {
        "question": question.name,
        "aim_ms": question.aim_ms,
        "p50_ms": round(statistics.median(counted), 1),
        "p95_ms": round(counted[max(int(len(counted) * 0.95) - 1, 0)], 1),
        "bytes": size,
    }


def measure(server: Server, devices: int, repeat: int, directory: Path) -> dict[str, list[dict[str, Any]]]:
    """The figures of each question, and of each tier."""
    with new_database(server) as url:
        migrate(url)
        seconds = seed(url, devices)
        print(f"{devices * TICKS_A_DAY * SERIES:,} samples of {devices} devices, made in {seconds:.0f} s")
        tiers = at_rest(url)
        port = free_port()
        environ = {"CLOUD_INGEST_DATABASE_URL": url, "CLOUD_INGEST_API__LISTEN": f"127.0.0.1:{port}"}
        api = Process([Path(sys.executable).with_name("cloud-ingest"), "api"], environ, log=directory / "api.log")
        api.start()
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                until(lambda: _is_ready(client), 30, "the API to be ready")
                results = [ask(client, question, devices, repeat) for question in QUESTIONS]
                return {"results": results, "tiers": tiers}
        finally:
            api.close()


def _is_ready(client: httpx2.Client) -> bool:
    try:
        return client.get("/readiness").status_code == 200  # noqa: PLR2004
    except httpx2.TransportError:
        return False


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=3_000_000)
    parser.add_argument("--server", choices=["timescaledb", "postgresql"], default="timescaledb")
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--shared-buffers", default=f"{psutil.virtual_memory().total // 4_194_304}MB")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    devices = max(-(-options.samples // (TICKS_A_DAY * SERIES)), MIN_DEVICES)
    try:
        settings = {"shared_buffers": options.shared_buffers}
        server = TimescaleServer(settings) if options.server == "timescaledb" else PlainServer(settings)
    except Absent as absent:
        parser.exit(1, f"can't measure on {options.server}: {absent}\n")
    try:
        server.start()
        with tempfile.TemporaryDirectory() as directory:
            found = measure(server, devices, options.repeat, Path(directory))
    finally:
        server.close()
    print(f"{'question':32} {'p50 ms':>8} {'p95 ms':>8} {'aim ms':>7} {'bytes':>9}")
    for result in found["results"]:
        aim = "-" if result["aim_ms"] is None else f"{result['aim_ms']:.0f}"
        print(f"{result['question']:32} {result['p50_ms']:8.1f} {result['p95_ms']:8.1f} {aim:>7} {result['bytes']:9,}")
    print(f"\n{'tier':32} {'rows':>12} {'bytes':>14} {'a series':>9}")
    for tier in found["tiers"]:
        print(f"{tier['tier']:32} {tier['rows']:12,} {tier['bytes']:14,} {tier['bytes_a_series']:9.2f}")
    print(f"when the array row was chosen: {EXPECTED_BYTES} a sample; with a row a sample {NARROW_BYTES}")
    if options.json:
        figures = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "server": options.server,
            "shared_buffers": options.shared_buffers,
            "samples": devices * TICKS_A_DAY * SERIES,
            **found,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
