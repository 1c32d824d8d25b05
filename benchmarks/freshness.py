"""How long a sample takes until it can be queried, while others only send live and while a fleet drains its backlog.

    PYTHONPATH=tests .venv/bin/python benchmarks/freshness.py [--rate SAMPLES_A_SECOND] [--seconds 30] [--json FILE]

Live readings of SERIES samples each are published at a steady rate, by default half of what one ingester takes, which
is measured first. Then the same again while BACKLOG_DEVICES devices come back from an outage of 72 h at once, each with
the window of 96 messages of 100 readings that an agent keeps on its way, and send on as the cloud confirms.

The database itself says when a reading could be queried: `track_commit_timestamp` keeps the time of each commit, and
a reading holds the time at which it was taken. Publisher, broker, database and ingester share the machine; how late
the publisher was is printed beside the result, and is part of it.
"""

import argparse
import json
import os
import platform
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import psycopg
from blast import publish_packet
from harness.absence import Absent
from harness.broker import Mosquitto
from harness.cloud import role
from harness.postgres import PlainServer, Server, TimescaleServer, new_database
from harness.wait import until
from ingest import WORKLOADS, generate, ingesters, run_ingest

from cloud_ingest.store.migrate import migrate
from telemetry_contract.codec import decode_ack, encode
from telemetry_contract.payload import Backlog, Tick

SERIES: Final = 60
LIVE_DEVICES: Final = 1_000
BACKLOG_DEVICES: Final = 500
WINDOW_MESSAGES: Final = 96
TICKS_A_MESSAGE: Final = 100
OUTAGE_TICKS: Final = 72 * 3600 // 5
AIM_SECONDS: Final = 1.0

_CONNECT: Final = b"\x10\x0e\x00\x04MQTT\x04\x02\xff\xff\x00\x02"
_SUBSCRIBED_BYTES: Final = 5
_KEYS: Final = [f'metric_{index % 12}{{part="{index}"}}' for index in range(SERIES)]


class Freshness(NamedTuple):
    """Seconds from the time of a reading to its commit, over so many readings; and how late they were sent."""

    readings: int
    p50: float
    p99: float
    largest: float
    sent_late_p99: float


def connected(broker: Mosquitto, name: bytes) -> socket.socket:
    """A plain MQTT 3.1.1 connection; `name` has two characters."""
    connection = socket.create_connection((broker.host, broker.port), timeout=60)
    connection.sendall(_CONNECT + name)
    if connection.recv(4, socket.MSG_WAITALL)[3:] != b"\x00":
        raise ConnectionRefusedError("the broker refused the benchmark's publisher")
    return connection


def swallow(connection: socket.socket) -> None:
    """Reads and forgets, until the connection ends."""
    while connection.recv(1 << 16):
        pass


def send_live(broker: Mosquitto, rate: float, seconds: float) -> list[float]:
    """Publishes readings at `rate` samples a second; how late each part was, in seconds."""
    streams = [uuid4() for _ in range(LIVE_DEVICES)]
    late = []
    with connected(broker, b"li") as connection:
        reader = threading.Thread(target=swallow, args=(connection,), daemon=True)
        reader.start()
        began, number, total = time.perf_counter(), 0, int(rate / SERIES * seconds)
        while number < total:
            now = time.perf_counter()
            due = min(total, int((now - began) * rate / SERIES) + 1)
            packets = []
            for each in range(number, due):
                device, turn = each % LIVE_DEVICES, each // LIVE_DEVICES
                values: dict[str, float | None] = {key: (turn * 7 + i) % 1000 / 10 for i, key in enumerate(_KEYS)}
                taken = time.time_ns() // 1_000_000
                tick = Tick(v=1, stream=streams[device], seq=turn + 1, low=1, t=taken, values=values)
                topic = f"telemetry/v1/bench/live-{device}/samples"
                packets.append(publish_packet(topic, encode(tick).payload, each % 60_000 + 1))
                late.append(max(0.0, time.perf_counter() - began - each * SERIES / rate))
            if packets:
                connection.sendall(b"".join(packets))
            number = max(number, due)
            time.sleep(0.002)
        connection.sendall(b"\xe0\x00")
        reader.join(10)
    return late


class Fleet:
    """Devices that drain their backlog, each within its window, as commit acks come."""

    def __init__(self, broker: Mosquitto) -> None:
        self._streams = [uuid4() for _ in range(BACKLOG_DEVICES)]
        self._sent = [0] * BACKLOG_DEVICES
        self._confirmed = [0] * BACKLOG_DEVICES
        self._by_stream = {stream: number for number, stream in enumerate(self._streams)}
        self._start_ms = time.time_ns() // 1_000_000 - OUTAGE_TICKS * 5_000
        # One message's columns serve for all: what differs is whose it is and when
        self._columns: dict[str, list[float | None]] = {
            key: [float((turn * 37 + i * 101) % 1000 / 10) for turn in range(TICKS_A_MESSAGE)]
            for i, key in enumerate(_KEYS)
        }
        self._connection = connected(broker, b"bl")
        self._ready = deque(range(BACKLOG_DEVICES))
        self._stop = threading.Event()
        self._packet_id = 0
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._listen, self._send)]

    @property
    def sent_ticks(self) -> int:
        """How many readings were published."""
        return sum(self._sent)

    def start(self) -> None:
        """Begins."""
        name = b"telemetry/v1/bench/+/ack"
        body = b"\x00\x01" + len(name).to_bytes(2, "big") + name + b"\x00"
        self._connection.sendall(b"\x82" + bytes([len(body)]) + body)
        if self._connection.recv(_SUBSCRIBED_BYTES, socket.MSG_WAITALL)[:1] != b"\x90":
            raise ConnectionRefusedError("the broker refused the subscription to commit acks")
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends; what is on its way is left to the cloud."""
        self._stop.set()
        self._threads[1].join(30)
        self._connection.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(30)
        self._connection.close()

    def _send(self) -> None:
        window = WINDOW_MESSAGES * TICKS_A_MESSAGE
        while not self._stop.is_set():
            if not self._ready:
                time.sleep(0.005)
                continue
            number = self._ready.popleft()
            if self._sent[number] < min(OUTAGE_TICKS, self._confirmed[number] + window):
                self._connection.sendall(self._next(number))
                self._ready.append(number)

    def _next(self, number: int) -> bytes:
        first = self._sent[number] + 1
        self._sent[number] += TICKS_A_MESSAGE
        seqs = list(range(first, first + TICKS_A_MESSAGE))
        message = Backlog(
            v=1,
            stream=self._streams[number],
            low=self._confirmed[number] + 1,
            seq=seqs,
            t=[self._start_ms + 5_000 * seq for seq in seqs],
            values=self._columns,
        )
        self._packet_id = self._packet_id % 60_000 + 1
        topic = f"telemetry/v1/bench/back-{number}/backlog"
        return publish_packet(topic, encode(message, compress_above=0).payload, self._packet_id)

    def _listen(self) -> None:
        with suppress(OSError):  # the end, with acks on their way
            self._read_acks()

    def _read_acks(self) -> None:
        source = self._connection.makefile("rb")
        while head := source.read(1):
            length, shift = 0, 0
            while True:
                digit = source.read(1)[0]
                length |= (digit & 0x7F) << shift
                shift += 7
                if not digit & 0x80:
                    break
            body = source.read(length)
            if head[0] >> 4 == 3:  # noqa: PLR2004 - PUBLISH
                at = 2 + int.from_bytes(body[:2], "big")
                self._confirm(decode_ack(body[at:]).stream, decode_ack(body[at:]).committed)

    def _confirm(self, stream: UUID, ranges: list[tuple[int, int]]) -> None:
        number = self._by_stream.get(stream)
        if number is not None and ranges and ranges[0][1] > self._confirmed[number]:
            self._confirmed[number] = ranges[0][1]
            self._ready.append(number)


def measure(server: Server, rate: float, seconds: float, *, with_backlog: bool, directory: Path) -> dict[str, Any]:
    """One run in a database of its own."""
    name = "backlog" if with_backlog else "live"
    broker = Mosquitto(directory / f"broker-{name}", extra_config="max_queued_messages 0\n")
    broker.start()
    try:
        with new_database(server) as url:
            migrate(url)
            ingest = role("ingest", directory / name, broker, url)
            ingest.start()
            fleet = Fleet(broker) if with_backlog else None
            try:
                until(lambda: "connected to the broker" in ingest.output(), 30, "the ingester's subscription")
                if fleet is not None:
                    fleet.start()
                    time.sleep(3.0)  # until the windows are full and batches are
                late = send_live(broker, rate, seconds)
                result = settled(url, len(late), late)
            finally:
                if fleet is not None:
                    fleet.stop()
                ingest.close()
            with psycopg.connect(url) as connection:
                total = connection.execute("select sum(ticks) from telemetry.stream").fetchone()
    finally:
        broker.close()
    return {
        "mode": name,
        **result._asdict(),
        "backlog_samples_committed": 0 if total is None else (int(total[0]) - result.readings) * SERIES,
    }


def settled(url: str, wanted: int, late: list[float]) -> Freshness:
    """Waits until all live readings are there, and asks the database when they came."""
    query = (
        "select count(*), percentile_disc(array[0.5, 0.99, 1.0]) within group"
        " (order by extract(epoch from pg_xact_commit_timestamp(reading.xmin) - reading.time)::float8)"
        " from telemetry.reading join telemetry.device using (device_id) where name like 'live-%'"
    )
    count = "select coalesce(sum(ticks), 0) from telemetry.stream join telemetry.device using (device_id)"
    with psycopg.connect(url, autocommit=True) as connection:
        until(
            lambda: connection.execute(f"{count} where name like 'live-%'").fetchall()[0][0] == wanted,
            600,
            f"{wanted} live readings",
        )
        [(readings, (p50, p99, largest))] = connection.execute(query).fetchall()
    return Freshness(readings, p50, p99, largest, sorted(late)[int(len(late) * 0.99)])


def full_rate(server: Server, directory: Path) -> float:
    """Samples a second that one ingester takes of live messages that wait for it."""
    work = WORKLOADS["live"]
    with new_database(server) as url:
        migrate(url)
        return work.samples / run_ingest(generate(work), url, command=ingesters("mqtt5")["ingest"], directory=directory)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, help="live samples a second; by default half of the full rate")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--server", choices=["timescaledb", "postgresql"], default="timescaledb")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    settings = {"fsync": "on", "track_commit_timestamp": "on", "max_wal_size": "8GB"}
    server = TimescaleServer(settings=settings) if options.server == "timescaledb" else PlainServer(settings=settings)
    results = []
    try:
        server.start()
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            rate = options.rate or full_rate(server, directory) / 2
            print(f"live: {rate:,.0f} samples/s for {options.seconds:g} s", file=sys.stderr)
            results = [
                measure(server, rate, options.seconds, with_backlog=with_backlog, directory=directory)
                for with_backlog in (False, True)
            ]
    except Absent as absent:
        parser.exit(1, f"can't measure on {options.server}: {absent}\n")
    finally:
        server.close()
    print(f"{'':8} {'p50 s':>7} {'p99 s':>7} {'max s':>7}  (aim: p99 <= {AIM_SECONDS:g} s)")
    for each in results:
        print(
            f"{each['mode']:8} {each['p50']:7.3f} {each['p99']:7.3f} {each['largest']:7.3f}"
            f"  sent late p99 {each['sent_late_p99']:.3f} s; backlog {each['backlog_samples_committed']:,} samples"
        )
    if options.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        date = datetime.now(UTC).isoformat(timespec="seconds")
        figures = {"date": date, "machine": machine, "server": options.server, "rate": rate, "results": results}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
