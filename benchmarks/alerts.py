"""What thresholds cost the ingest, and how soon a sample is told.

    PYTHONPATH=tests .venv/bin/python benchmarks/alerts.py [--mode live|backlog|both] [--thresholds 100] [--repeat 5]
                                                           [--json FILE]

In each round, on the same server, the messages of `benchmarks/ingest.py` wait in mosquitto for one ingester, once
without thresholds and once with so many, in an order that changes from round to round. The thresholds cover the whole
fleet: each watches one series of every device, above or below a level that is not reached, as in a fleet that is well.
The ratio of the rounds' rates is the result: 0.9 means that judging costs 10 %.

The machine is shared, and what else runs on it blurs this. So the transactions alone are measured too: the same batches
are written to two databases in turn, one of them with the thresholds, and the ratio is the median of the batches'.

Then a device sends samples that go beyond a level and back, one at a time, and the clock runs from the publish until
the notification is committed, and until a client of `/api/v1/alerts/stream` has its event; first alone, then beside the
fleet at half the rate that was measured with thresholds.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

import httpx2
import psycopg
from blast import blast
from harness.absence import Absent
from harness.broker import Mosquitto
from harness.cloud import role
from harness.device import Device
from harness.ports import free_port
from harness.postgres import Server, TimescaleServer, new_database
from harness.wait import until
from ingest import INGEST, SERIES, WORKLOADS, Data, Workload, generate, run_ingest

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.decode import Limits, decode
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.thresholds import create_threshold

TOLD_SAMPLES: Final = 100
TOLD_SECONDS: Final = 60  # more than these samples take
BATCH_TICKS: Final = 1_000
WARM_UP_BATCHES: Final = 2
KEY: Final = "probe_celsius"


def add_thresholds(url: str, count: int) -> None:
    """Each for one series of every device, in turn above and below."""
    with psycopg.connect(url) as connection:
        for number in range(count):
            part, is_below = number // 2 % SERIES, number % 2
            definition = {
                "name": f"threshold-{number}",
                "metric": f"metric_{part % 12}",
                "selector": {"labels": {"part": str(part)}},
                "operator": "<" if is_below else ">",
                "warning": -1.0 if is_below else 1e12,
                "for_seconds": 10,
            }
            create_threshold(connection, Definition.model_validate(definition))
        create_threshold(
            connection, Definition.model_validate({"name": "probe", "metric": KEY, "operator": ">", "warning": 80})
        )
        # As if they had been there before the first of the samples
        connection.execute("update telemetry.threshold_version set valid_from = now() - interval '1 day'")


def measure(work: Workload, server: Server, counts: tuple[int, int], repeat: int, directory: Path) -> dict[str, Any]:
    """Samples a second by the number of thresholds, a figure a round, and the median of the rounds' ratios."""
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(repeat):
        data = generate(work)
        for count in random.sample(counts, len(counts)):
            with new_database(server) as url:
                migrate(url)
                if count:
                    add_thresholds(url, count)
                rates[count].append(work.samples / run_ingest(data, url, command=INGEST, directory=directory))
                print(f"  {work.name:8} {count:4} thresholds {rates[count][-1]:12,.0f} samples/s", file=sys.stderr)
    without, with_them = (rates[count] for count in counts)
    return {
        "mode": work.name,
        "samples_per_second": {str(count): round(statistics.median(found)) for count, found in rates.items()},
        "rounds": {str(count): [round(it) for it in found] for count, found in rates.items()},
        "ratio": round(statistics.median(b / a for a, b in zip(without, with_them, strict=True)), 3),
    }


def measure_transactions(server: Server, count: int) -> dict[str, Any]:
    """Milliseconds of the transaction of a batch without and with thresholds, and the median of the batches' ratios."""
    data = generate(WORKLOADS["live"])
    seconds: tuple[list[float], list[float]] = ([], [])
    with new_database(server) as plain, new_database(server) as judged, ExitStack() as stack:
        for url in (plain, judged):
            migrate(url)
        add_thresholds(judged, count)
        writers = [stack.enter_context(closing(BatchWriter(url))) for url in (plain, judged)]
        for number, batch in enumerate(batched_blocks(data)):
            for way in (0, 1) if number % 2 else (1, 0):
                started = time.perf_counter()
                writers[way].write(batch, [])
                seconds[way].append(time.perf_counter() - started)
    without, with_them = (found[WARM_UP_BATCHES:] for found in seconds)
    return {
        "ticks": BATCH_TICKS,
        "milliseconds": [round(1000 * statistics.median(found), 1) for found in (without, with_them)],
        "time_ratio": round(statistics.median(b / a for a, b in zip(without, with_them, strict=True)), 3),
    }


def batched_blocks(data: Data) -> Iterator[list[Block]]:
    """The messages as an ingester has decoded them, in batches of the same size."""
    limits = Limits(2**20, 2**20, max_future_ms=3_600_000, max_age_ms=86_400_000)
    now_ms = time.time_ns() // 1_000_000
    messages = data.messages()
    while part := list(islice(messages, BATCH_TICKS)):
        decoded = [decode(Message(topic, payload), limits, now_ms) for topic, payload in part]
        yield [block for blocks in decoded if isinstance(blocks, list) for block in blocks]


class Stream:
    """A client of the event stream, which notes when each event has come."""

    def __init__(self, port: int) -> None:
        self._client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._closing = False
        self.came: list[float] = []

    def __enter__(self) -> Self:
        until(self._is_ready, 30, "the API")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._thread.join(30)
        self._client.close()

    def _is_ready(self) -> bool:
        try:
            return self._client.get("/readiness").status_code == HTTPStatus.OK
        except httpx2.TransportError:
            return False

    def _read(self) -> None:
        with self._client.stream("GET", "/api/v1/alerts/stream") as answer:
            for line in answer.iter_lines():  # a comment comes every now and then, also where nothing happens
                if line.startswith("data:"):
                    self.came.append(time.perf_counter())
                if self._closing:
                    return


def told_seconds(url: str, broker: Mosquitto, stream: Stream) -> tuple[list[float], list[float]]:
    """From the publish of each sample that changes something to its committed notification, and to its event."""
    committed, heard = [], []
    with psycopg.connect(url, autocommit=True) as connection, Device(broker, "probe") as device:
        for number in range(1, TOLD_SAMPLES + 1):
            value = 99.0 if number % 2 else 1.0
            started = time.perf_counter()
            device.send_tick(number, time.time_ns() // 1_000_000, {KEY: value})
            while connection.execute("select count(*) from telemetry.notification").fetchall() != [(number,)]:
                time.sleep(0.002)
            committed.append(time.perf_counter() - started)
            until(lambda: len(stream.came) >= number, 30, "the event")  # noqa: B023 - called in this turn
            heard.append(stream.came[number - 1] - started)
    return committed, heard


def paced(data: Data, rate: float, stop: threading.Event) -> Iterator[tuple[str, bytes]]:
    """So many messages a second, a hundred at a time, until there are none or `stop` is set."""
    started = time.perf_counter()
    for number, message in enumerate(data.messages()):
        if number % 100 == 0:
            time.sleep(max(0.0, started + number / rate - time.perf_counter()))
            if stop.is_set():
                return
        yield message


def measure_told(server: Server, count: int, rate: float, directory: Path) -> dict[str, Any]:
    """Milliseconds from a sample to its notification and its event, alone and beside `rate` messages a second."""
    figures: dict[str, Any] = {"load_messages_per_second": round(rate)}
    for name in ("alone", "beside"):
        broker = Mosquitto(directory / f"broker-{uuid4().hex[:8]}", extra_config="max_queued_messages 0\n")
        with new_database(server) as url:
            migrate(url)
            add_thresholds(url, count)
            broker.start()
            ingest = role("ingest", directory / f"told-{name}", broker, url)
            port = free_port()
            api = role("api", directory / f"told-{name}", broker, url, API__LISTEN=f"127.0.0.1:{port}")
            stop = threading.Event()
            lasting = WORKLOADS["live"]._replace(messages=int(rate * TOLD_SECONDS))
            messages = paced(generate(lasting), rate, stop) if name == "beside" else iter(())
            load = threading.Thread(target=blast, args=(broker.host, broker.port, messages))
            try:
                ingest.start()
                api.start()
                until(lambda: "connected to the broker" in ingest.output(), 30, "the ingester")  # noqa: B023
                load.start()
                with Stream(port) as stream:
                    committed, heard = told_seconds(url, broker, stream)
                    figures[f"load_lasted_{name}"] = load.is_alive()
            finally:
                stop.set()
                if load.ident is not None:
                    load.join()
                api.close()
                ingest.close()
                broker.close()
        figures[name] = {"notification": quantiles(committed), "event": quantiles(heard)}
    return figures


def quantiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50_ms": round(1000 * ordered[len(ordered) // 2], 1),
        "p99_ms": round(1000 * ordered[len(ordered) * 99 // 100], 1),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=[*WORKLOADS, "both"], default="live")
    parser.add_argument("--thresholds", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    server = TimescaleServer(settings={"fsync": "on"})  # the harness turns it off, and a commit would cost nothing
    try:
        server.start()
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            wanted = [work for work in WORKLOADS.values() if options.mode in (work.name, "both")]
            results = [measure(it, server, (0, options.thresholds), options.repeat, directory) for it in wanted]
            slowest = min(it["rounds"][str(options.thresholds)][0] for it in results)
            transactions = measure_transactions(server, options.thresholds)
            told = measure_told(server, options.thresholds, slowest / SERIES / 2, directory)
    except Absent as absent:
        parser.exit(1, f"can't measure on TimescaleDB: {absent}\n")
    finally:
        server.close()
    for result in results:
        print(f"{result['mode']:8} {result['samples_per_second']} samples/s, with / without: {result['ratio']:.3f}")
    print(f"transaction: {transactions}")
    print(f"sample to notification: {told}")
    if options.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        date = datetime.now(UTC).isoformat(timespec="seconds")
        figures = {"date": date, "machine": machine, "results": results, "transactions": transactions, "told": told}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
