"""What the agent costs the machine that it measures, and node_exporter beside it.

    PYTHONPATH=tests .venv/bin/python benchmarks/agent_overhead.py [--seconds 120] [--interval 5] [--directory DIR]
        [--program edge-agent]

At the same time, on the same machine, for the same span and at the same interval: an agent with the default collectors
that stores each tick before it is sent; one that keeps ticks in memory for 30 s (`outbox.flush_after_seconds`); and
node_exporter (Debian's package, unpacked), asked for its metrics. Each agent has a mosquitto of its own and something
that commits what arrives, as the cloud does. What is counted comes from the kernel: resident memory at the end, and
over the span without its first 15 s, CPU time of the process, how often its threads went to sleep (voluntary context
switches), and bytes that it caused to be written to the disk.

`--program` is the agent of another environment: one with `requirements/edge.txt` alone is what a device has, and takes
less memory than one with everything that development needs.

DIR holds the outboxes, and must not be in memory. Bytes a sample are those of payloads: live as they arrived, backlog
as the agent would encode all ticks of the span in one message. These are the same readings, as far apart as they were
taken. A message of 1,000 of them would take over an hour, so beside it stands what each tick of its second half added,
which is what any number of further ones would take.
"""

import argparse
import os
import platform
import re
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

import psutil
import yaml
from harness.absence import Absent
from harness.broker import Mosquitto
from harness.committer import Committer
from harness.debian_program import unpacked
from harness.ports import free_port
from harness.processes import Process
from harness.wait import until

from edge_agent import messages
from edge_agent.outbox import Outbox
from edge_agent.reading import Reading
from telemetry_contract.codec import encode
from telemetry_contract.payload import Tick

WARM_UP_SECONDS: Final = 15.0
DAY_SECONDS: Final = 86_400.0


class Used(NamedTuple):
    """What a process has used so far."""

    at: float
    cpu_seconds: float
    written_bytes: int
    sleeps: int
    rounds: int


class Agent:
    """An agent with the default collectors, its broker and its cloud."""

    def __init__(self, program: Path, directory: Path, interval_seconds: float, flush_after_seconds: float) -> None:
        directory.mkdir()
        self.port = free_port()
        self.broker = Mosquitto(directory)
        self.broker.start()
        self.cloud = Committer("127.0.0.1", self.broker.port)
        self.cloud.time_ms = time.time_ns() // 1_000_000
        config = {
            "device": "pump",
            "site": "plant",
            "broker": {"port": self.broker.port},
            "sampling": {"interval_seconds": interval_seconds},
            "outbox": {"path": str(directory / "outbox.db"), "flush_after_seconds": flush_after_seconds},
            "status": {"listen": f"127.0.0.1:{self.port}"},
        }
        (directory / "edge.yaml").write_text(yaml.safe_dump(config))
        self.process = Process([program, "run", "--config", directory / "edge.yaml"], log=directory / "log")

    @contextmanager
    def running(self) -> Iterator[None]:
        """From the first tick that arrives on."""
        with self.cloud:
            self.process.start()
            try:
                until(lambda: self.cloud.arrivals, 30, "the first tick")
                yield
            finally:
                self.process.close()
                self.broker.close()

    def used(self) -> Used:
        """So far."""
        return used(self.process.pid, len(self.cloud.arrivals))

    def ticks(self) -> list[Tick]:
        """Those that arrived live."""
        return [arrival.message for arrival in self.cloud.arrivals if isinstance(arrival.message, Tick)]

    def live_bytes_a_sample(self) -> float:
        """Of all that arrived."""
        arrived = self.ticks()
        samples = sum(len(message.values) for message in arrived)
        compress_above = messages.LIVE_COMPRESS_ABOVE
        return sum(len(encode(message, compress_above=compress_above).payload) for message in arrived) / samples


class NodeExporter:
    """node_exporter, and how often it was asked."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.address = f"127.0.0.1:{free_port()}"
        self.asked = 0
        self.samples = 0
        self.bytes = 0
        program = unpacked("prometheus-node-exporter", "prometheus-node-exporter")
        self.process = Process([program, f"--web.listen-address={self.address}"], log=directory / "log")

    @contextmanager
    def running(self) -> Iterator[None]:
        """From its first answer on."""
        self.process.start()
        try:
            until(self._answers, 30, "node_exporter to answer")
            yield
        finally:
            self.process.close()

    def ask(self) -> None:
        """As Prometheus does, compressed."""
        asked = urllib.request.Request(f"http://{self.address}/metrics", headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310 - the address above
            self.bytes = len(answer.read())
        self.asked += 1

    def count(self) -> None:
        """How many samples an answer has."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=30) as answer:
            self.samples = len(re.findall(rb"(?m)^[^#\n]", answer.read()))

    def used(self) -> Used:
        """So far."""
        return used(self.process.pid, self.asked)

    def _answers(self) -> bool:
        try:
            self.count()
        except OSError:
            return False
        return True


def used(pid: int, rounds: int) -> Used:
    """What the kernel counts of a process, beside its rounds."""
    process = psutil.Process(pid)
    cpu = process.cpu_times()
    tasks = Path(f"/proc/{pid}/task").glob("*/status")
    sleeps = sum(int(task.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for task in tasks)
    return Used(time.monotonic(), cpu.user + cpu.system, process.io_counters().write_bytes, sleeps, rounds)


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident, and its share alone (PSS: pages that processes share are divided among them)."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    rss, pss = (int(re.search(rf"^{name}:\s+(\d+)", told, re.MULTILINE)[1]) / 1024 for name in ("Rss", "Pss"))  # type: ignore[index]
    return rss, pss


def backlog(directory: Path, arrived: Sequence[Tick]) -> str:
    """What the ticks with the keys that most have take in one message."""
    keys, _ = Counter(tuple(tick.values) for tick in arrived).most_common(1)[0]
    alike = [tick for tick in arrived if tuple(tick.values) == keys]
    outbox = Outbox.open(directory / "backlog.db", max_bytes=1_000_000_000)
    ticks = outbox.ticks(outbox.append_many([Reading(tick.t, 0, tick.values) for tick in alike]))
    outbox.close()
    half = len(ticks) // 2
    whole = messages.backlog(uuid4(), 1, ticks, keys)
    first_half = messages.backlog(uuid4(), 1, ticks[:half], keys)
    added = (len(whole.payload) - len(first_half.payload)) / (len(ticks) - half)
    return (
        f"backlog of {len(ticks)} ticks of {len(keys)} samples: {len(whole.payload) / len(ticks) / len(keys):.2f}"
        f" bytes/sample ({whole.content_type}); {added / len(keys):.2f} in its second half"
    )


def row(name: str, pid: int, before: Used, after: Used, bytes_a_sample: str) -> str:
    """A line of the table."""
    span, rounds = after.at - before.at, after.rounds - before.rounds
    rss, pss = memory_mb(pid)
    cpu_ms = 1_000 * (after.cpu_seconds - before.cpu_seconds) / rounds
    written_mb = (after.written_bytes - before.written_bytes) * DAY_SECONDS / span / 1e6
    sleeps = (after.sleeps - before.sleeps) / rounds
    return (
        f"{name:<24} {rss:>7.1f} {pss:>7.1f} {cpu_ms:>11.1f} {sleeps:>11.1f} {written_mb:>14.1f} {bytes_a_sample:>14}"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--interval", type=float, default=5.0)
    parser.add_argument("--program", type=Path, default=Path(sys.executable).with_name("edge-agent"))
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))  # noqa: S108 - a disk, unlike /tmp
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as made, ExitStack() as running:
        directory = Path(made)
        agents = {
            "agent, strict": Agent(options.program, directory / "strict", options.interval, 0.0),
            "agent, 30 s in memory": Agent(options.program, directory / "flush", options.interval, 30.0),
        }
        parts: dict[str, Any] = dict(agents)
        try:
            parts["node_exporter"] = NodeExporter(directory / "peer")
        except Absent as absent:
            print(f"without a peer: {absent}", file=sys.stderr)
        for part in parts.values():
            running.enter_context(part.running())
        measure(parts, WARM_UP_SECONDS, options.interval)
        before = {name: part.used() for name, part in parts.items()}
        measure(parts, options.seconds, options.interval)
        after = {name: part.used() for name, part in parts.items()}
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {platform.platform()}, {os.cpu_count()} cores,", end=" ")
        load = "/".join(f"{one:.1f}" for one in os.getloadavg())
        print(f"Python {platform.python_version()}, {options.seconds:g} s at {options.interval:g} s, load {load}")
        print(
            f"{'':<24} {'RSS MB':>7} {'PSS MB':>7} {'CPU ms/tick':>11} {'sleeps/tick':>11} {'written MB/day':>14}"
            f" {'bytes/sample':>14}"
        )
        for name, part in parts.items():
            wire = (
                f"{part.live_bytes_a_sample():.1f} live"
                if isinstance(part, Agent)
                else f"{part.bytes / part.samples:.1f} scrape"
            )
            print(row(name, part.process.pid, before[name], after[name], wire))
        print(backlog(directory, agents["agent, strict"].ticks()))


def measure(parts: dict[str, Any], seconds: float, interval_seconds: float) -> None:
    """Asks the peer in its interval; the agents work by themselves."""
    begun = time.monotonic()
    for number in range(round(seconds / interval_seconds)):
        time.sleep(max(0.0, begun + number * interval_seconds - time.monotonic()))
        if "node_exporter" in parts:
            parts["node_exporter"].ask()
    time.sleep(max(0.0, begun + seconds - time.monotonic()))


if __name__ == "__main__":
    main()
