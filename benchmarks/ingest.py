"""How fast one ingest process takes samples from a real broker until they are committed, and beside what.

    PYTHONPATH=tests .venv/bin/python benchmarks/ingest.py [--mode live|backlog|both] [--source mqtt5|paho|both]
                                                           [--repeat 3] [--json FILE]

In each round, on the same servers, one after the other:

- ingest: each device has sent a first message, so that its names are known, as they are but once in its life; then
  messages wait in mosquitto (the ingester is stopped with SIGSTOP while they are published), and the clock runs from
  SIGCONT until the ledger has all ticks;
- two: the same with two ingesters that share the subscription;
- paho: the same, with paho as the client (`--source paho` or `both`);
- subscriber: `mosquitto_sub`, a client in C that throws the same messages away, acknowledging each at once;
- copy: the same rows, already packed, by COPY BINARY into the same table, in transactions of the same size;
- insert: the same samples one row each, by `insert .. select unnest .. on conflict do nothing` into a table with a
  unique index (series, time), the usual way to be safe against redelivery; its parameters are ready beforehand.

All commits are synchronous. Broker, database and ingester share the machine, so absolute figures mean little: the
ratios are the result. `busy` is how much of the machine's CPU time was used while the ingesters ran: near 1, a second
one could not have got more, whatever the database takes.
"""

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import numpy as np
import psutil
import psycopg
from blast import blast
from harness.absence import Absent
from harness.broker import Mosquitto
from harness.postgres import PlainServer, Server, TimescaleServer, new_database
from harness.processes import Process
from harness.wait import until

from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.partitions import SPAN_MS, partitions_of
from cloud_ingest.store.readings import COPY_STATEMENT, copy_stream, pack
from telemetry_contract.codec import encode
from telemetry_contract.payload import Backlog, Tick

SERIES: Final = 60
COPY_ROWS: Final = 5_000
INSERT_SAMPLES: Final = 10_000
INSERT_LIMIT: Final = 1_500_000
INGEST: Final[list[str | Path]] = [Path(sys.executable).with_name("cloud-ingest"), "ingest"]


class Workload(NamedTuple):
    """What is sent: `messages` of `ticks` readings of SERIES values each, from `devices` in turn."""

    name: str
    devices: int
    messages: int
    ticks: int

    @property
    def samples(self) -> int:
        """Values in all messages."""
        return self.messages * self.ticks * SERIES


WORKLOADS: Final = {
    "live": Workload("live", devices=1_000, messages=30_000, ticks=1),
    "backlog": Workload("backlog", devices=20, messages=2_000, ticks=100),
}


class Data(NamedTuple):
    """The samples of a workload in arrays: (messages, ticks) of time, (messages, ticks, SERIES) of values."""

    workload: Workload
    times_ms: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.float64]]
    streams: list[UUID]

    def messages(self) -> Iterator[tuple[str, bytes]]:
        """Topic and payload of each."""
        keys = [f'metric_{index % 12}{{part="{index}"}}' for index in range(SERIES)]
        work = self.workload
        for number in range(work.messages):
            device, turn = number % work.devices, number // work.devices
            stream, prefix = self.streams[device], f"telemetry/v1/bench/device-{device}"
            seqs = list(range(turn * work.ticks + 1, (turn + 1) * work.ticks + 1))
            times, rows = self.times_ms[number].tolist(), self.values[number]
            if work.ticks == 1:
                values = dict(zip(keys, rows[0].tolist(), strict=True))
                tick = Tick(v=1, stream=stream, seq=seqs[0], low=1, t=times[0], values=values)
                yield f"{prefix}/samples", encode(tick).payload
            else:
                columns = dict(zip(keys, rows.T.tolist(), strict=True))
                backlog = Backlog(v=1, stream=stream, low=1, seq=seqs, t=times, values=columns)
                yield f"{prefix}/backlog", encode(backlog, compress_above=0).payload


def generate(work: Workload) -> Data:
    """Values that look like a host's: a few digits, and half of them counters that grow."""
    chance = np.random.default_rng(20261121)
    now_ms = time.time_ns() // 1_000_000
    turn = np.arange(work.messages)[:, None] // work.devices
    index = turn * work.ticks + np.arange(work.ticks)
    times = now_ms - (index.max() - index) * 1_000
    gauges = chance.integers(0, 1_000, (work.messages, work.ticks, SERIES // 2)) / 10
    counters = index[:, :, None] * chance.integers(1, 5_000, SERIES // 2)
    values = np.concatenate([gauges, counters.astype(np.float64)], axis=2)
    return Data(work, times.astype(np.int64), values, [uuid4() for _ in range(work.devices)])


def run_ingest(
    data: Data,
    url: str,
    *,
    command: Sequence[str | Path],
    directory: Path,
    ingesters: int = 1,
    busy: list[float] | None = None,
) -> float:
    """Seconds from the moment that the ingesters may go on until all is committed, for as many messages as there are.

    The share of the machine's CPU time that was used meanwhile is added to `busy`.
    """
    work = data.workload
    broker = Mosquitto(directory / f"broker-{uuid4().hex[:8]}", extra_config="max_queued_messages 0\n")
    broker.start()
    environ = {
        "CLOUD_INGEST_DATABASE_URL": url,
        "CLOUD_INGEST_BROKER__HOST": broker.host,
        "CLOUD_INGEST_BROKER__PORT": str(broker.port),
        "CLOUD_INGEST_BROKER__KEEPALIVE_SECONDS": "600",
    }
    members = [Process(command, environ, log=directory / f"ingest-{uuid4().hex[:8]}.log") for _ in range(ingesters)]
    try:
        for member in members:
            member.start()
        for member in members:
            until(lambda: "connected to the broker" in member.output(), 30, "the ingester's subscription")  # noqa: B023
        with psycopg.connect(url, autocommit=True) as connection:

            def committed(messages: int) -> bool:
                row = connection.execute("select sum(ticks) from telemetry.stream").fetchone()
                return row is not None and row[0] == messages * work.ticks

            messages = data.messages()
            blast(broker.host, broker.port, islice(messages, work.devices))
            until(lambda: committed(work.devices), 60, "the first message of each device")
            for member in members:
                os.kill(member.pid, signal.SIGSTOP)
            blast(broker.host, broker.port, messages)
            psutil.cpu_percent()
            started = time.perf_counter()
            for member in members:
                os.kill(member.pid, signal.SIGCONT)
            until(lambda: committed(work.messages), 600, "all messages in the ledger")
            seconds = (time.perf_counter() - started) * work.messages / (work.messages - work.devices)
            if busy is not None:
                busy.append(psutil.cpu_percent() / 100)
            return seconds
    finally:
        for member in members:
            member.close()
        broker.close()


def run_subscriber(data: Data, *, directory: Path) -> float:
    """Seconds that a client in C takes to receive the messages, which wait for it in a session."""
    broker = Mosquitto(directory / f"broker-{uuid4().hex[:8]}", extra_config="max_queued_messages 0\n")
    broker.start()
    subscriber = ["mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "-V", "mqttv5", "-i", "bench", "-c"]
    subscriber += ["-x", "600", "-q", "1", "-t", "telemetry/v1/#", "-D", "connect", "receive-maximum", "10000"]
    try:
        subprocess.run([*subscriber, "-E"], check=True, timeout=60)
        blast(broker.host, broker.port, data.messages())
        started = time.perf_counter()
        count = str(data.workload.messages)
        subprocess.run([*subscriber, "-C", count], check=True, stdout=subprocess.DEVNULL, timeout=600)
        return time.perf_counter() - started
    finally:
        broker.close()


def run_copy(data: Data, url: str) -> float:
    """Seconds to copy the same rows, packed beforehand."""
    times, values = data.times_ms.reshape(-1), data.values.reshape(-1, SERIES)
    devices = np.repeat(np.arange(data.workload.messages) % data.workload.devices, data.workload.ticks)
    parts = [
        copy_stream([pack(times[at : at + COPY_ROWS], devices[at : at + COPY_ROWS], 1, values[at : at + COPY_ROWS])])
        for at in range(0, len(times), COPY_ROWS)
    ]
    with psycopg.connect(url, autocommit=True) as connection:
        spans = np.unique(times // SPAN_MS) * SPAN_MS
        partitions_of(connection).cover(connection, spans.tolist())
        started = time.perf_counter()
        for part in parts:
            with connection.cursor() as cursor, cursor.copy(COPY_STATEMENT) as copy:
                copy.write(part)
        return time.perf_counter() - started


def run_insert(data: Data, url: str, *, hypertable: bool) -> float:
    """Seconds that all samples would take one row each, measured on the first INSERT_LIMIT of them."""
    work = data.workload
    device = np.arange(work.messages) % work.devices
    series = np.repeat(device[:, None] * SERIES + np.arange(SERIES), work.ticks, axis=0).reshape(-1)[:INSERT_LIMIT]
    stamps = np.repeat(data.times_ms.reshape(-1), SERIES)[:INSERT_LIMIT]
    values = data.values.reshape(-1)[:INSERT_LIMIT]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    batches = []
    for at in range(0, len(values), INSERT_SAMPLES):
        part = slice(at, at + INSERT_SAMPLES)
        times = [epoch + timedelta(milliseconds=ms) for ms in stamps[part].tolist()]
        batches.append((times, series[part].tolist(), values[part].tolist()))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "create table narrow (time timestamptz not null, series_id integer not null,"
            " value double precision, primary key (series_id, time))"
        )
        if hypertable:
            connection.execute("select create_hypertable('narrow', 'time', create_default_indexes => false)")
        started = time.perf_counter()
        for batch in batches:
            connection.execute(
                "insert into narrow (time, series_id, value)"
                " select * from unnest(%b::timestamptz[], %b::integer[], %b::double precision[])"
                " on conflict do nothing",
                batch,
            )
        return (time.perf_counter() - started) * work.samples / len(values)


def ingesters(sources: str) -> dict[str, list[str | Path]]:
    """The programs to measure by name."""
    commands: dict[str, list[str | Path]] = {
        "ingest": INGEST,
        "paho": [sys.executable, Path(__file__).with_name("ingest_with_paho.py")],
    }
    wanted = {"mqtt5": ["ingest"], "paho": ["paho"], "both": ["ingest", "paho"]}[sources]
    return {name: commands[name] for name in wanted}


def measure(
    work: Workload, server: Server, repeat: int, commands: dict[str, list[str | Path]], directory: Path
) -> dict[str, list[float]]:
    """Samples a second of each way, a figure a round; the order of the ways changes from round to round."""
    rates: dict[str, list[float]] = {}
    busy: dict[str, list[float]] = {name: [] for name in (*commands, "two")}
    for _ in range(repeat):
        data = generate(work)
        ways: list[tuple[str, Callable[[str], float]]] = [
            *(
                (name, partial(run_ingest, data, command=it, directory=directory, busy=busy[name]))
                for name, it in commands.items()
            ),
            (
                "two",
                partial(run_ingest, data, command=INGEST, directory=directory, ingesters=2, busy=busy["two"]),
            ),
            ("subscriber", lambda _: run_subscriber(data, directory=directory)),  # noqa: B023 - called in this round
            ("copy", partial(run_copy, data)),
            ("insert", partial(run_insert, data, hypertable=server.kind == "timescaledb")),
        ]
        random.shuffle(ways)
        for name, way in ways:
            with new_database(server) as url:
                migrate(url)
                rates.setdefault(name, []).append(work.samples / way(url))
                print(f"  {work.name:8} {name:10} {rates[name][-1]:12,.0f} samples/s", file=sys.stderr)
    for name, shares in busy.items():
        print(f"  {work.name:8} {name:10} {statistics.median(shares):12.0%} of the CPU time used", file=sys.stderr)
    return rates


def report(work: Workload, name: str, rates: dict[str, list[float]]) -> dict[str, Any]:
    """The medians, and how one ingester compares."""
    median = {each: statistics.median(values) for each, values in rates.items()}
    return {
        "mode": work.name,
        "ingester": name,
        "samples": work.samples,
        "samples_per_second": {each: round(value) for each, value in median.items()},
        "rounds": {each: [round(value) for value in values] for each, values in rates.items()},
        "ratio_to": {
            # Of the rounds' ratios, not of the medians: what slows the machine slows a whole round
            each: round(statistics.median(a / b for a, b in zip(rates[name], values, strict=True)), 3)
            for each, values in rates.items()
            if each != name
        },
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=[*WORKLOADS, "both"], default="both")
    parser.add_argument("--source", choices=["mqtt5", "paho", "both"], default="mqtt5")
    parser.add_argument("--server", choices=["timescaledb", "postgresql"], default="timescaledb")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    durable = {"fsync": "on"}  # the harness turns it off, and a commit would cost nothing
    server = TimescaleServer(settings=durable) if options.server == "timescaledb" else PlainServer(settings=durable)
    commands = ingesters(options.source)
    results = []
    try:
        server.start()
        with tempfile.TemporaryDirectory() as directory:
            for work in WORKLOADS.values():
                if options.mode in (work.name, "both"):
                    rates = measure(work, server, options.repeat, commands, Path(directory))
                    results += [report(work, name, rates) for name in commands]
    except Absent as absent:
        parser.exit(1, f"can't measure on {options.server}: {absent}\n")
    finally:
        server.close()
    print(
        f"{'mode':8} {'ingester':8} {'samples/s':>12} {'x insert':>9} {'x copy':>7} {'x subscriber':>13} {'x two':>7}"
    )
    for result in results:
        name, ratio = result["ingester"], result["ratio_to"]
        print(
            f"{result['mode']:8} {name:8} {result['samples_per_second'][name]:12,} {ratio['insert']:9.1f}"
            f" {ratio['copy']:7.2f} {ratio['subscriber']:13.2f} {ratio['two']:7.2f}"
        )
    if options.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        figures = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine,
            "server": options.server,
            "results": results,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
