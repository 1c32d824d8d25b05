"""A publisher whose disk refuses, on a real broker: what was measured is sent, once, and counted nowhere twice."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import UUID

import apsw
import pytest
from harness.broker import Mosquitto
from harness.committer import Committer
from harness.disk import Disk
from harness.ports import free_port
from harness.wait import until

from edge_agent.config import Config
from edge_agent.errors import DiskRefuses
from edge_agent.outbox import Outbox
from edge_agent.publisher import Identity, Publisher
from edge_agent.reading import Reading
from edge_agent.write_behind import WriteBehindOutbox
from telemetry_contract.payload import Tick


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk("refusing disk")
    yield made
    made.unregister()


@pytest.fixture
def cloud(broker: Mosquitto) -> Iterator[Committer]:
    with Committer(broker.host, broker.port) as committer:
        yield committer


@pytest.fixture(params=[Outbox, WriteBehindOutbox])
def kind(request: pytest.FixtureRequest) -> type[Outbox]:
    found: type[Outbox] = request.param
    return found


class Device:
    """Measures ever larger values."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.measured = 0
        publisher.start()

    def measure(self, count: int) -> None:
        for _ in range(count):
            self.measured += 1
            self.publisher.append(Reading(1_790_000_000_000 + self.measured, 0, {"value": float(self.measured)}))

    def wait_sheltered(self) -> None:
        until(lambda: self.publisher.report.disk_fails, 20, "the disk to refuse")

    def wait_on_disk(self) -> None:
        until(lambda: not self.publisher.report.disk_fails, 20, "the disk to work again")

    def wait_delivered(self) -> None:
        until(lambda: self.publisher.depth == 0, 20, "all to be confirmed")


Start = Callable[..., Device]


@pytest.fixture
def start(tmp_path: Path, disk: Disk, kind: type[Outbox], monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr("edge_agent.publisher._REFUSAL_SECONDS", 0.1)
    with ExitStack() as stack:

        def started(port: int, open_disk: Callable[[], Outbox] | None = None) -> Device:
            config = Config.of(
                {
                    "device": "pump",
                    "site": "plant",
                    "broker": {"host": "127.0.0.1", "port": port},
                    "outbox": {"path": tmp_path / "outbox.db"},
                    "delivery": {"confirm_timeout_seconds": 1},
                }
            )
            outbox = opened(tmp_path, kind, disk) if open_disk is None else Outbox.in_memory(max_bytes=1_000_000)
            publisher = Publisher(config, outbox, Identity("boot", "abc"), open_disk=open_disk)
            stack.callback(publisher.stop, 0.0)
            return Device(publisher)

        yield started


def opened(directory: Path, kind: type[Outbox], disk: Disk | None = None) -> Outbox:
    return kind.open(directory / "outbox.db", max_bytes=1_000_000, vfs=None if disk is None else disk.name)


def refuse(disk: Disk, device: Device) -> None:
    """From now on; what a write-behind outbox may still number without the disk is used up."""
    disk.failure = apsw.FullError("no space")
    device.measure(300)


def arrived(cloud: Committer) -> dict[float, set[tuple[UUID, int]]]:
    """Each value with the numbers under which it came."""
    found: dict[float, set[tuple[UUID, int]]] = {}
    for arrival in list(cloud.arrivals):
        message = arrival.message
        values = [message.values["value"]] if isinstance(message, Tick) else message.values["value"]
        for value, seq in zip(values, arrival.seqs, strict=True):
            assert value is not None
            found.setdefault(value, set()).add((message.stream, seq))
    return found


def all_once(device: Device, cloud: Committer) -> None:
    """Every reading came, under one number, and no number stands for two."""
    found = arrived(cloud)
    assert sorted(found) == list(range(1, device.measured + 1))
    numbers = [number for each in found.values() for number in each]
    assert len(numbers) == len(set(numbers)) == device.measured


@pytest.mark.parametrize("failure", [apsw.FullError("no space"), apsw.IOError("dead sector"), apsw.ReadOnlyError("ro")])
def test_while_the_disk_refuses_readings_are_sent_from_memory(
    start: Start, disk: Disk, broker: Mosquitto, cloud: Committer, failure: Exception
) -> None:
    device = start(broker.port)
    device.measure(5)
    device.wait_delivered()
    refuse(disk, device)
    disk.failure = failure
    device.wait_sheltered()
    until(lambda: len(arrived(cloud)) >= 305, 20, "what was measured since")
    assert device.publisher.report.disk_fails
    disk.failure = None
    device.wait_on_disk()
    device.measure(5)
    device.wait_delivered()
    all_once(device, cloud)
    assert len({arrival.message.stream for arrival in cloud.arrivals}) == 2


def test_what_was_not_sent_moves_to_the_disk(start: Start, disk: Disk, tmp_path: Path, kind: type[Outbox]) -> None:
    device = start(free_port())
    on_disk = device.publisher.report.stream
    device.measure(5)
    refuse(disk, device)
    device.wait_sheltered()
    until(lambda: device.publisher.report.stream != on_disk, 20, "an outbox in memory")
    disk.failure = None
    device.wait_on_disk()
    device.publisher.stop(0.0)
    with closing(opened(tmp_path, kind)) as outbox:
        assert outbox.depth == device.measured


def test_what_was_sent_and_not_confirmed_keeps_its_number(
    start: Start, disk: Disk, broker: Mosquitto, cloud: Committer
) -> None:
    device = start(broker.port)
    on_disk = device.publisher.report.stream
    cloud.acknowledging = False
    refuse(disk, device)
    device.wait_sheltered()
    until(lambda: any(it.message.stream != on_disk for it in list(cloud.arrivals)), 20, "readings from memory")
    disk.failure = None
    device.measure(5)
    cloud.acknowledging = True
    device.wait_on_disk()
    device.wait_delivered()
    all_once(device, cloud)


def test_an_outbox_that_can_not_be_opened_is_opened_later(
    start: Start, kind: type[Outbox], broker: Mosquitto, cloud: Committer, tmp_path: Path
) -> None:
    refusing = True

    def open_disk() -> Outbox:
        if refusing:
            raise DiskRefuses("full")
        return opened(tmp_path, kind)

    device = start(broker.port, open_disk)
    device.measure(5)
    device.wait_delivered()
    assert device.publisher.report.disk_fails
    refusing = False
    device.wait_on_disk()
    device.measure(5)
    device.wait_delivered()
    all_once(device, cloud)


def test_what_memory_can_not_hold_is_thinned_and_counted(
    monkeypatch: pytest.MonkeyPatch, start: Start, disk: Disk
) -> None:
    monkeypatch.setattr("edge_agent.publisher.SHELTER_BYTES", 100_000)
    device = start(free_port())
    refuse(disk, device)
    device.wait_sheltered()
    device.measure(20_000)
    until(lambda: device.publisher.report.outbox.thinned + device.publisher.report.outbox.dropped > 0, 20, "the count")
    assert device.publisher.report.outbox.bytes <= 100_000
