"""Several ingesters at once: they join, die, hang, leave and stand by, and every tick is stored once."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from harness.broker import Mosquitto
from harness.cloud import role
from harness.device import Device
from harness.edge import Agent
from harness.processes import Process
from harness.wait import until

from cloud_ingest.store.migrate import migrate
from edge_agent.outbox import Outbox
from edge_agent.reading import Reading

BACKLOG_TICKS = 8_000
# The agents send again after a second, and the broker gives a silent member up after one and a half.
DELIVERY = {"confirm_timeout_seconds": 1, "backlog_ticks_per_message": 10}
IMPATIENT = {"BROKER__KEEPALIVE_SECONDS": "1"}
# What a device sends before the cloud has confirmed it; of all devices less than a broker keeps for a slow subscriber.
WINDOW_TICKS = 2_000
CONNECTED = "connected to the broker"

Row = tuple[int, float]


@pytest.fixture
def migrated(database_url: str) -> str:
    migrate(database_url)
    return database_url


@contextmanager
def members(
    count: int, directory: Path, broker: Mosquitto, url: str, settings: Mapping[str, str]
) -> Iterator[list[Process]]:
    """Processes of the ingest role, not started."""
    processes = [role("ingest", directory / f"ingest-{number}", broker, url, **settings) for number in range(count)]
    with ExitStack() as cleanup:
        for process in processes:
            cleanup.callback(process.close)
        yield processes


def start(process: Process) -> None:
    """Starts a member and waits until it is subscribed."""
    before = process.output().count(CONNECTED)
    process.start()
    until(lambda: process.output().count(CONNECTED) > before, 30, "a member to subscribe")


def stop(process: Process) -> None:
    """SIGTERM; it must end well."""
    process.terminate()
    assert process.wait(30) == 0, process.tail()


def fill(path: Path) -> set[Row]:
    """An outbox as an outage leaves it; times and values of its ticks."""
    begun = time.time_ns() // 1_000_000 - BACKLOG_TICKS * 1_000
    rows = [(begun + 1_000 * i, -1.0 - i) for i in range(BACKLOG_TICKS)]
    with closing(Outbox.open(path, max_bytes=10**9)) as outbox:
        outbox.append_many([Reading(time_ms, 0, {"count_up_total": value}) for time_ms, value in rows])
    return set(rows)


def stored_ticks(url: str) -> int:
    with psycopg.connect(url) as connection:
        ((ticks,),) = connection.execute("select coalesce(sum(ticks), 0)::bigint from telemetry.stream").fetchall()
    return int(ticks)


def stored_rows(url: str) -> dict[str, list[Row]]:
    """Time and value of every reading, by device."""
    found: dict[str, list[Row]] = {}
    with psycopg.connect(url) as connection:
        for device, time_ms, value in connection.execute(
            "select name, (extract(epoch from time) * 1000)::bigint, samples[1]"
            " from telemetry.reading join telemetry.device using (device_id)"
        ):
            found.setdefault(device, []).append((time_ms, value))
    return found


def ledger(url: str) -> dict[str, tuple[str, int]]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select name, received::text, ticks from telemetry.stream join telemetry.device using (device_id)"
        ).fetchall()
    return {name: (received, ticks) for name, received, ticks in rows}


def progress(url: str, what: str) -> None:
    """Waits until more is stored than is now."""
    before = stored_ticks(url)
    until(lambda: stored_ticks(url) > before + 200, 60, f"more ticks {what}")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_members_join_die_hang_and_return_and_every_tick_is_stored_once(
    migrated: str, broker: Mosquitto, tmp_path: Path
) -> None:
    agents = [
        Agent(tmp_path / f"edge-{name}", broker, interval=0.1, delivery=DELIVERY, device=name)
        for name in ("a", "b", "c")
    ]
    backlogs = {agent.device: fill(agent.outbox) for agent in agents}
    with members(3, tmp_path, broker, migrated, IMPATIENT) as (first, second, third), ExitStack() as running:
        start(first)
        start(second)
        for agent in agents:
            running.enter_context(agent.process)
        progress(migrated, "by two members")
        start(third)
        progress(migrated, "after one has joined")
        first.kill()
        progress(migrated, "after one was killed")
        hang(second, broker)
        progress(migrated, "while one hangs whom the broker has given up")
        returned = second.output().count(CONNECTED)
        second.signal(signal.SIGCONT)
        until(lambda: second.output().count(CONNECTED) > returned, 30, "the member that hung to return")
        start(first)
        stop(third)
        progress(migrated, "after one has left")
        for agent in agents:
            agent.stop()
            agent.drain(60)
        stop(first)
        stop(second)

    settled, rows = ledger(migrated), stored_rows(migrated)
    for agent in agents:
        last = agent.last_seq()
        assert last > BACKLOG_TICKS
        assert settled[agent.device] == (f"{{[1,{last + 1})}}", last)
        measured = [row for row in rows[agent.device] if row[1] > 0]
        assert len({value for _, value in measured}) == len(measured) == last - BACKLOG_TICKS
        late = [row for row in rows[agent.device] if row[1] < 0]
        assert len(late) == BACKLOG_TICKS
        assert set(late) == backlogs[agent.device]


def hang(process: Process, broker: Mosquitto) -> None:
    """SIGSTOP, until the broker has given the member up, which is later than the agents send again."""
    told = broker.output().count("exceeded timeout")
    process.signal(signal.SIGSTOP)
    until(lambda: broker.output().count("exceeded timeout") > told, 60, "the broker to give the member up")
    assert f"-{process.pid}-" in broker.output().rpartition("exceeded timeout")[0].rpartition("\n")[2]


class Stubborn:
    """A device that sends each tick once, whatever becomes of it, and no faster than they are committed."""

    def __init__(self, device: Device, chance: Callable[[], bool]) -> None:
        self.sent = 0
        self._device = device
        self._goes_on = chance
        self._start_ms = time.time_ns() // 1_000_000 - 1_000_000
        self.thread = threading.Thread(target=self._send)

    @property
    def stream(self) -> UUID:
        return self._device.stream

    @property
    def rows(self) -> list[Row]:
        """What it has sent."""
        return [(self._start_ms + seq, float(seq)) for seq in range(1, self.sent + 1)]

    def _send(self) -> None:
        while self._goes_on():
            seq = self.sent + 1
            until(self._may_go_on, 60, f"tick {seq - WINDOW_TICKS} to be committed")
            self._device.send_tick(seq, self._start_ms + seq, {"a": float(seq)})
            self.sent = seq

    def wait_settled(self, seq: int) -> None:
        """Until it knows that all up to this number are committed."""

        def is_settled() -> bool:
            return any(first == 1 and last >= seq for first, last in self._device.committed())

        until(is_settled, 60, f"ticks 1 to {seq} to be committed")

    def _may_go_on(self) -> bool:
        committed = self._device.committed()
        return self.sent - (committed[-1][1] if committed else 0) < WINDOW_TICKS or not self._goes_on()


@contextmanager
def sending(devices: list[Device]) -> Iterator[list[Stubborn]]:
    """The devices send as fast as the broker takes it, until the block ends."""
    ending = threading.Event()
    all_ = [Stubborn(device, lambda: not ending.is_set()) for device in devices]
    for each in all_:
        each.thread.start()
    try:
        yield all_
    finally:
        ending.set()
        for each in all_:
            each.thread.join()


@pytest.mark.slow
def test_members_that_leave_in_turn_lose_nothing_though_no_device_sends_again(
    migrated: str, broker: Mosquitto, tmp_path: Path
) -> None:
    names = ("a", "b", "c")
    with members(2, tmp_path, broker, migrated, {}) as processes, ExitStack() as devices:
        for process in processes:
            start(process)
        connected = [devices.enter_context(Device(broker, name)) for name in names]
        with sending(connected) as senders:
            progress(migrated, "by both members")
            for process in processes:
                stop(process)
                progress(migrated, "after one has left")
                start(process)
                progress(migrated, "after it is back")
        for device, sender in zip(connected, senders, strict=True):
            device.wait_told_committed(sender.sent, timeout=30)
        for process in processes:
            stop(process)
    assert {name: sorted(rows) for name, rows in stored_rows(migrated).items()} == {
        name: sender.rows for name, sender in zip(names, senders, strict=True)
    }


@pytest.mark.slow
def test_two_plain_subscribers_are_a_hot_standby_that_loses_and_doubles_nothing(
    migrated: str, broker: Mosquitto, tmp_path: Path
) -> None:
    names = ("a", "b")
    with members(2, tmp_path, broker, migrated, {"INGEST__GROUP": "null"}) as (one, other), ExitStack() as devices:
        start(one)
        start(other)
        connected = [devices.enter_context(Device(broker, name)) for name in names]
        # Each gets everything, so that what dies with one is with the other: no device sends again.
        with sending(connected) as senders:
            progress(migrated, "by both")
            one.kill()
            progress(migrated, "by the one that is left")
            start(one)
            # What was sent before it came back is with the other one alone
            for sender in senders:
                sender.wait_settled(sender.sent + 1)
            progress(migrated, "by both again")
            other.kill()
            progress(migrated, "by the one that came back")
        for device, sender in zip(connected, senders, strict=True):
            device.wait_told_committed(sender.sent, timeout=30)
        stop(one)
    assert {name: sorted(rows) for name, rows in stored_rows(migrated).items()} == {
        name: sender.rows for name, sender in zip(names, senders, strict=True)
    }
