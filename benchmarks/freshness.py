"""How long a sample takes until it can be queried, while others only send live and while a fleet drains its backlog.

    PYTHONPATH=tests .venv/bin/python benchmarks/freshness.py [--rate SAMPLES_A_SECOND] [--seconds 20] [--json FILE]

Live readings of SERIES samples each are published at a steady rate, by default half of what one ingester takes, which
is measured first; each device has sent one before, as a device is new but once. Then the same again while
BACKLOG_DEVICES devices come back from an outage at once, each with BACKLOG_MESSAGES messages of 100 readings on their
way (an agent lets 96 be). That is the beginning of what 72 hours leave, and more than is committed in the time: how
much was, is printed.

The database itself says when a reading could be queried: `track_commit_timestamp` keeps the time of each commit, and
a reading holds the time at which it was taken. Publishers, broker, database and ingester share the machine; so that the
publishers take little of it, what can be made beforehand is. How late they were is printed, and is part of the result.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

import msgspec
import psycopg
from blast import publish_packet
from harness.absence import Absent
from harness.broker import Mosquitto
from harness.cloud import role
from harness.postgres import PlainServer, Server, TimescaleServer, new_database
from harness.wait import until
from ingest import WORKLOADS, generate, ingesters, run_ingest

from cloud_ingest.store.migrate import migrate
from telemetry_contract.codec import encode
from telemetry_contract.payload import Backlog

SERIES: Final = 60
LIVE_DEVICES: Final = 1_000
BACKLOG_DEVICES: Final = 500
BACKLOG_MESSAGES: Final = 24
TICKS_A_MESSAGE: Final = 100
OUTAGE_TICKS: Final = 72 * 3600 // 5
AIM_SECONDS: Final = 1.0

_CONNECT: Final = b"\x10\x0e\x00\x04MQTT\x04\x02\xff\xff\x00\x02"
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


class Live:
    """Devices that are there all the time."""

    def __init__(self) -> None:
        self._turn = 0
        self._heads = [b'{"v":1,"stream":"%s","seq":' % str(uuid4()).encode() for _ in range(LIVE_DEVICES)]
        self._topics = [f"telemetry/v1/bench/live-{device}/samples" for device in range(LIVE_DEVICES)]
        self._tails = [
            b',"values":' + msgspec.json.encode({key: (turn * 7 + i) % 1000 / 10 for i, key in enumerate(_KEYS)}) + b"}"
            for turn in range(16)
        ]

    def send(self, broker: Mosquitto, rate: float, seconds: float) -> list[float]:
        """Publishes readings at `rate` samples a second; how late each was, in seconds."""
        late = []
        with connected(broker, b"li") as connection:
            reader = threading.Thread(target=swallow, args=(connection,), daemon=True)
            reader.start()
            began, number, total = time.perf_counter(), 0, int(rate / SERIES * seconds)
            while number < total:
                now = time.perf_counter()
                due = min(total, int((now - began) * rate / SERIES) + 1)
                taken = time.time_ns() // 1_000_000
                packets = []
                for each in range(number, due):
                    packets.append(self._packet(taken))
                    late.append(max(0.0, now - began - each * SERIES / rate))
                if packets:
                    connection.sendall(b"".join(packets))
                number = max(number, due)
                time.sleep(0.002)
            connection.sendall(b"\xe0\x00")
            reader.join(10)
        return late

    def _packet(self, taken_ms: int) -> bytes:
        seq, device = divmod(self._turn, LIVE_DEVICES)
        self._turn += 1
        payload = self._heads[device] + b'%d,"low":1,"t":%d' % (seq + 1, taken_ms) + self._tails[seq % 16]
        return publish_packet(self._topics[device], payload, self._turn % 60_000 + 1)


class Fleet:
    """Devices that return, with what they have on their way."""

    def __init__(self) -> None:
        start_ms = time.time_ns() // 1_000_000 - OUTAGE_TICKS * 5_000
        streams = [uuid4() for _ in range(BACKLOG_DEVICES)]
        columns: dict[str, list[float | None]] = {
            key: [float((turn * 37 + i * 101) % 1000 / 10) for turn in range(TICKS_A_MESSAGE)]
            for i, key in enumerate(_KEYS)
        }
        self._packets: list[bytes] = []
        for number in range(BACKLOG_MESSAGES):
            seqs = list(range(number * TICKS_A_MESSAGE + 1, (number + 1) * TICKS_A_MESSAGE + 1))
            times = [start_ms + 5_000 * seq for seq in seqs]
            for device, stream in enumerate(streams):
                message = Backlog(v=1, stream=stream, low=1, seq=seqs, t=times, values=columns)
                topic = f"telemetry/v1/bench/back-{device}/backlog"
                payload = encode(message, compress_above=0).payload
                self._packets.append(publish_packet(topic, payload, len(self._packets) % 60_000 + 1))

    @property
    def samples(self) -> int:
        """How many it has."""
        return len(self._packets) * TICKS_A_MESSAGE * SERIES

    def send(self, broker: Mosquitto) -> None:
        """All of it, as fast as the broker takes it."""
        with connected(broker, b"bl") as connection:
            reader = threading.Thread(target=swallow, args=(connection,), daemon=True)
            reader.start()
            for at in range(0, len(self._packets), 50):
                connection.sendall(b"".join(self._packets[at : at + 50]))
            connection.sendall(b"\xe0\x00")
            reader.join(60)


def measure(server: Server, rate: float, seconds: float, *, with_backlog: bool, directory: Path) -> dict[str, Any]:
    """One run in a database of its own."""
    name = "backlog" if with_backlog else "live"
    fleet: Fleet | None = None
    broker = Mosquitto(directory / f"broker-{name}", extra_config="max_queued_messages 0\n")
    broker.start()
    try:
        with new_database(server) as url:
            migrate(url)
            ingest = role("ingest", directory / name, broker, url)
            ingest.start()
            try:
                until(lambda: "connected to the broker" in ingest.output(), 30, "the ingester's subscription")
                live = Live()
                live.send(broker, LIVE_DEVICES * SERIES, 1.0)
                wait_for(url, LIVE_DEVICES)
                if with_backlog:
                    fleet = Fleet()
                    fleet.send(broker)
                since = time.time()
                late = live.send(broker, rate, seconds)
                result = settled(url, since, late)
            finally:
                ingest.close()
            with psycopg.connect(url) as connection:
                [(ticks,)] = connection.execute("select sum(ticks)::bigint from telemetry.stream").fetchall()
    finally:
        broker.close()
    return {
        "mode": name,
        **result._asdict(),
        "backlog_samples_committed": (ticks - LIVE_DEVICES - result.readings) * SERIES,
        "backlog_samples": 0 if fleet is None else fleet.samples,
    }


def settled(url: str, since: float, late: list[float]) -> Freshness:
    """Waits until all live readings are there, and asks the database when those from `since` on came."""
    query = (
        "select count(*), percentile_disc(array[0.5, 0.99, 1.0]) within group"
        " (order by extract(epoch from pg_xact_commit_timestamp(reading.xmin) - reading.time)::float8)"
        " from telemetry.reading join telemetry.device using (device_id)"
        " where name like 'live-%%' and reading.time >= to_timestamp(%s)"
    )
    wait_for(url, LIVE_DEVICES + len(late))
    with psycopg.connect(url) as connection:
        [(readings, (p50, p99, largest))] = connection.execute(query, [since - 0.001]).fetchall()
    return Freshness(readings, p50, p99, largest, sorted(late)[int(len(late) * 0.99)])


def wait_for(url: str, live_readings: int) -> None:
    """Until so many are committed."""
    query = (
        "select coalesce(sum(ticks), 0)::bigint from telemetry.stream join telemetry.device using (device_id)"
        " where name like 'live-%'"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        until(lambda: connection.execute(query).fetchall() == [(live_readings,)], 600, f"{live_readings} live readings")


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
    parser.add_argument("--seconds", type=float, default=20)
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
            f"  sent late p99 {each['sent_late_p99']:.3f} s;"
            f" backlog {each['backlog_samples_committed']:,} of {each['backlog_samples']:,}"
            " samples meanwhile"
        )
    if options.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        date = datetime.now(UTC).isoformat(timespec="seconds")
        figures = {"date": date, "machine": machine, "server": options.server, "rate": rate, "results": results}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
