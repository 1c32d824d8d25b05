"""The agent as a process: its start, its end, its death, and what systemd hears of it."""

import contextlib
import random
import resource
import shutil
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from harness.broker import Mosquitto
from harness.committer import Committer
from harness.ports import free_port
from harness.processes import NewProcess, Process
from harness.wait import until

from edge_agent import agent
from edge_agent.outbox import Outbox

PROGRAM = Path(sys.executable).with_name("edge-agent")


class Agent:
    """Measures memory every 50 ms, and nothing else."""

    def __init__(self, directory: Path, port: int, new_process: NewProcess) -> None:
        self.outbox = directory / "outbox.db"
        self._new_process = new_process
        self.environment = {
            "EDGE_AGENT_DEVICE": "pump",
            "EDGE_AGENT_SITE": "plant",
            "EDGE_AGENT_BROKER__HOST": "127.0.0.1",
            "EDGE_AGENT_BROKER__PORT": str(port),
            "EDGE_AGENT_OUTBOX__PATH": str(self.outbox),
            "EDGE_AGENT_STATUS__LISTEN": "null",
            "EDGE_AGENT_SAMPLING__INTERVAL_SECONDS": "0.05",
            **{
                f"EDGE_AGENT_COLLECTORS__{name}__ENABLED": "false"
                for name in ("CPU", "DISK", "NETWORK", "TEMPERATURE", "HOST")
            },
        }

    def start(self, *arguments: str, **more: str) -> Process:
        process = self._new_process([PROGRAM, "run", *arguments], {**self.environment, **more})
        process.start()
        return process

    def last_seq(self) -> int:
        return self._ask("select max(seq) from sqlite_sequence where name = 'tick'")

    def depth(self) -> int:
        return self._ask("select count(*) from tick")

    def _ask(self, query: str) -> int:
        if not self.outbox.exists():
            return 0
        with closing(sqlite3.connect(f"file:{self.outbox}?mode=ro", uri=True)) as database:
            try:
                return int(database.execute(query).fetchone()[0] or 0)
            except sqlite3.OperationalError:  # just being made
                return 0


@pytest.fixture
def make(tmp_path: Path, new_process: NewProcess) -> Callable[[int], Agent]:
    return lambda port: Agent(tmp_path, port, new_process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_well_when_told_to(broker: Mosquitto, make: Callable[[int], Agent], number: signal.Signals) -> None:
    with Committer(broker.host, broker.port) as cloud:
        process = make(broker.port).start()
        cloud.wait_for(3)
        process.signal(number)
        assert process.wait(10) == 0
        until(lambda: not cloud.statuses[-1][0].online, 5, "the goodbye")
        assert cloud.statuses[-1][0].reason == "stopped"
    assert "Traceback" not in process.output()


def test_a_kill_publishes_the_last_will(broker: Mosquitto, make: Callable[[int], Agent]) -> None:
    with Committer(broker.host, broker.port) as cloud:
        process = make(broker.port).start()
        cloud.wait_for(1)
        process.kill()
        until(lambda: not cloud.statuses[-1][0].online, 10, "the last will")
        will, _ = cloud.statuses[-1]
        assert (will.reason, will.time, will.stream) == ("lost", None, cloud.statuses[0][0].stream)


def test_it_measures_without_a_broker_and_delivers_when_there_is_one(
    tmp_path: Path, make: Callable[[int], Agent]
) -> None:
    port = free_port()
    edge = make(port)
    process = edge.start()
    until(lambda: edge.depth() >= 20, 20, "ticks in the outbox")
    late = Mosquitto(tmp_path / "late", port)
    try:
        late.start()
        with Committer(late.host, late.port) as cloud:
            until(lambda: set(range(1, 21)) <= set(cloud.seqs), 30, "all of them in the cloud")
    finally:
        late.close()
    assert process.running


@pytest.mark.slow
def test_no_kill_loses_a_committed_tick(broker: Mosquitto, make: Callable[[int], Agent]) -> None:
    edge = make(broker.port)
    luck = random.Random(1)  # noqa: S311 - not for secrets
    with Committer(broker.host, broker.port) as cloud:
        for life in range(8):
            cloud.acknowledging = life % 3 > 0
            before = len(cloud.arrivals)
            process = edge.start()
            cloud.wait_for(before + luck.randint(1, 40))
            process.kill()
        cloud.acknowledging = True
        committed = edge.last_seq()
        process = edge.start()
        until(lambda: set(range(1, committed + 1)) <= set(cloud.seqs), 30, "every committed tick")
        until(lambda: edge.last_seq() - edge.depth() >= committed, 30, "their confirmation")
        assert len({arrival.message.stream for arrival in cloud.arrivals}) == 1
        times: dict[int, object] = {}
        for arrival in cloud.arrivals:
            stamps = arrival.message.t if isinstance(arrival.message.t, list) else [arrival.message.t]
            for seq, stamp in zip(arrival.seqs, stamps, strict=True):
                assert times.setdefault(seq, stamp) == stamp, "a number means one tick, however often it is sent"


def test_once_delivers_one_tick_of_each_group(broker: Mosquitto, make: Callable[[int], Agent]) -> None:
    edge = make(broker.port)
    with Committer(broker.host, broker.port) as cloud:
        process = edge.start("--once")
        assert process.wait(20) == 0
        assert cloud.seqs == [1]
        assert edge.depth() == 0


def test_once_without_a_broker_says_what_waits_and_keeps_it(make: Callable[[int], Agent]) -> None:
    edge = make(free_port())
    process = edge.start("--once", "--timeout", "0.5")
    assert process.wait(20) == 1
    assert "1 ticks are not confirmed; they wait in" in process.output()
    assert edge.depth() == 1


def test_a_second_agent_on_the_same_outbox_is_refused(make: Callable[[int], Agent]) -> None:
    edge = make(free_port())
    edge.start()
    until(lambda: edge.depth() > 0, 20, "the first agent to measure")
    second = edge.start()
    assert second.wait(20) == 1
    assert "in use by another agent" in second.output()
    assert "Traceback" not in second.output()


@pytest.mark.slow
def test_a_full_disk_stops_neither_measuring_nor_sending(broker: Mosquitto, make: Callable[[int], Agent]) -> None:
    edge = make(broker.port)
    with Committer(broker.host, broker.port) as cloud:
        process = edge.start()
        cloud.wait_for(10)
        [on_disk] = {arrival.message.stream for arrival in cloud.arrivals}
        unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        # Above what the log has, below where the write-ahead log is.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16_384, unlimited[1]))
        until(lambda: "readings wait in memory" in process.output(), 20, "the disk to refuse")
        until(lambda: cloud.arrivals[-1].message.stream != on_disk, 30, "readings from memory")
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
        until(lambda: "the outbox is on disk again" in process.output(), 30, "the return to the disk")
        until(lambda: cloud.arrivals[-1].message.stream == on_disk, 30, "readings from the disk")
    assert process.output().count("readings wait in memory") == 1
    assert "Traceback" not in process.output()


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_start_stops_nothing(
    broker: Mosquitto, make: Callable[[int], Agent], new_process: NewProcess
) -> None:
    program = shutil.which("prlimit")
    if program is None:
        pytest.skip("prlimit is not installed (Debian: util-linux)")
    edge = make(broker.port)
    with Committer(broker.host, broker.port) as cloud:
        process = new_process([program, "--fsize=8192:unlimited", PROGRAM, "run"], edge.environment)
        process.start()
        cloud.wait_for(5)
        [in_memory] = {arrival.message.stream for arrival in cloud.arrivals}
        assert "sent from memory until the disk takes them" in process.output()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: cloud.arrivals[-1].message.stream != in_memory, 30, "readings from the disk")
    assert edge.last_seq() > 0
    assert "Traceback" not in process.output()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which systemd listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(20)
        yield listener


def hear(systemd: socket.socket, wanted: str) -> None:
    while wanted not in systemd.recv(1_000).decode():
        pass


def drain(systemd: socket.socket) -> None:
    systemd.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            systemd.recv(1_000)


def test_systemd_hears_of_start_life_and_stop(make: Callable[[int], Agent], systemd: socket.socket) -> None:
    edge = make(free_port())
    process = edge.start(NOTIFY_SOCKET=systemd.getsockname(), WATCHDOG_USEC="400000")
    assert systemd.recv(1_000) == b"READY=1\nSTATUS=device pump of site plant"
    for _ in range(5):
        assert systemd.recv(1_000) == b"WATCHDOG=1"
    process.terminate()
    hear(systemd, "STOPPING=1")
    assert process.wait(10) == 0


def test_the_watchdog_is_not_fed_while_the_publisher_hangs(
    make: Callable[[int], Agent], systemd: socket.socket
) -> None:
    edge = make(free_port())
    process = edge.start(NOTIFY_SOCKET=systemd.getsockname(), WATCHDOG_USEC="800000")
    until(lambda: edge.depth() > 0, 20, "the agent to measure")
    with closing(sqlite3.connect(edge.outbox, isolation_level=None)) as intruder:
        intruder.execute("begin immediate")  # the agent waits for it, for seconds
        until(lambda: "publisher has been busy" in process.output(), 20, "the hang to be noticed")
        drain(systemd)
        systemd.settimeout(1.0)
        with pytest.raises(TimeoutError):
            systemd.recv(1_000)
        intruder.execute("rollback")
    systemd.settimeout(20)
    hear(systemd, "WATCHDOG=1")
    until(lambda: "works again" in process.output(), 20, "the recovery to be told")


def test_what_tells_boots_and_machines_apart(tmp_path: Path) -> None:
    file = tmp_path / "id"
    assert agent.machine_id(file) is None
    for text, expected in (("", None), ("uninitialized\n", None), ("abc\n", "abc")):
        file.write_text(text)
        assert agent.machine_id(file) == expected
    assert agent.boot_id(file) == "abc"
    assert int(agent.boot_id(tmp_path / "missing")) > 1_000_000_000
    file.write_bytes(b"\xff")
    assert agent.machine_id(file) is None


def test_the_outbox_of_a_killed_agent_is_whole(make: Callable[[int], Agent]) -> None:
    edge = make(free_port())
    process = edge.start()
    until(lambda: edge.depth() >= 5, 20, "ticks in the outbox")
    process.kill()
    with closing(Outbox.open(edge.outbox, max_bytes=10_000_000)) as outbox:
        assert [seq for seq, _ in outbox.index(1)] == list(range(1, outbox.next_seq))
