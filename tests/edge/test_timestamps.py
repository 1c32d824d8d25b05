"""When readings were taken, on machines whose clock can't be believed: simulated clocks, a real outbox and broker."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.broker import Mosquitto
from harness.committer import Committer
from harness.wait import until

from edge_agent.clock import EARLIEST_MS, Moment
from edge_agent.config import Config
from edge_agent.outbox import Outbox
from edge_agent.publisher import Identity, Publisher
from edge_agent.reading import Reading
from edge_agent.timestamps import ClockReport, Doubting, Trusting
from telemetry_contract.payload import Backlog, Tick

HOUR_MS = 3_600_000
TRUE_MS = EARLIEST_MS + 30 * 24 * HOUR_MS  # when the machine starts
NS_PER_MS = 1_000_000


@dataclass
class FakeClock:
    """A machine `since_boot_ms` after its start; its wall clock is wrong by `wrong_ms`."""

    wrong_ms: int = 0
    since_boot_ms: int = 0
    kernel: bool | None = False
    battery: bool = False

    @property
    def true_ms(self) -> int:
        return TRUE_MS + self.since_boot_ms

    def now(self) -> Moment:
        return Moment(self.true_ms + self.wrong_ms, self.since_boot_ms * NS_PER_MS)

    def synchronised(self) -> bool | None:
        return self.kernel

    def kept_while_off(self) -> bool:
        return self.battery

    def reading(self, value: float = 0.0) -> Reading:
        return Reading(*self.now(), {"value": value})


def doubting(clock: FakeClock, *, newest_ms: int = 0, max_wait_seconds: float = 300.0) -> Doubting:
    return Doubting("now", max_wait_seconds=max_wait_seconds, newest_ms=newest_ms, clock=clock)


IN_1970 = -TRUE_MS


@pytest.mark.parametrize("wrong_ms", [IN_1970, -2 * 24 * HOUR_MS, 14 * 24 * HOUR_MS])
def test_a_machine_without_a_battery_waits_for_the_kernel(wrong_ms: int) -> None:
    clock = FakeClock(wrong_ms)
    timestamps = doubting(clock)
    assert (timestamps.stamped(clock.reading()), timestamps.settled) == (None, False)
    assert timestamps.now_ms() is None
    early = clock.now()
    clock.since_boot_ms += 60_000
    clock.wrong_ms, clock.kernel = 0, True
    timestamps.look(0.0)
    assert timestamps.settled
    assert timestamps.stamped(reading := clock.reading()) is reading
    assert timestamps.now_ms() == clock.true_ms
    assert timestamps.report() == ClockReport(known=True, source="system")
    assert early.wall_ms == TRUE_MS + wrong_ms


def test_the_cloud_tells_the_time_to_whom_nobody_else_does() -> None:
    clock = FakeClock(IN_1970)
    timestamps = doubting(clock)
    timestamps.server_said(clock.true_ms - 100)
    corrected = timestamps.stamped(clock.reading())
    assert corrected is not None
    assert (corrected.t_ms, corrected.synchronised) == (clock.true_ms - 100, True)
    assert timestamps.report() == ClockReport(known=True, source="cloud", ahead_of_cloud_ms=0)


@pytest.mark.parametrize(
    "clock",
    [
        FakeClock(kernel=True),
        FakeClock(kernel=None),
        FakeClock(kernel=False, battery=True),
        FakeClock(kernel=False, since_boot_ms=HOUR_MS),
    ],
    ids=["synchronised", "kernel can't say", "a battery keeps its clock", "long up, and no service tells the kernel"],
)
def test_a_plain_server_waits_for_nobody(clock: FakeClock) -> None:
    timestamps = doubting(clock, newest_ms=TRUE_MS - HOUR_MS)
    for _ in range(3):
        assert timestamps.stamped(reading := clock.reading()) is reading
        clock.since_boot_ms += 5_000


def test_a_clock_that_shows_less_than_the_newest_reading_is_not_believed() -> None:
    clock = FakeClock(-HOUR_MS, since_boot_ms=HOUR_MS // 2, battery=True)
    assert doubting(clock, newest_ms=TRUE_MS).stamped(clock.reading()) is None


@pytest.mark.parametrize("step_ms", [-HOUR_MS, 14 * 24 * HOUR_MS])
def test_a_step_of_a_clock_that_nobody_vouches_for_is_corrected(step_ms: int) -> None:
    clock = FakeClock(since_boot_ms=HOUR_MS)
    timestamps = doubting(clock)
    timestamps.server_said(clock.true_ms)
    clock.wrong_ms = step_ms
    corrected = timestamps.stamped(clock.reading())
    assert corrected is not None
    assert abs(corrected.t_ms - clock.true_ms) <= 250


def test_after_the_wait_readings_say_that_their_time_is_not_known() -> None:
    clock = FakeClock(IN_1970)
    timestamps = doubting(clock, newest_ms=TRUE_MS - 5_000)
    timestamps.look(10_000.0)
    assert not timestamps.settled, "without a link nobody can tell"
    timestamps.connected(10_000.0)
    timestamps.look(10_299.0)
    assert timestamps.stamped(clock.reading()) is None
    timestamps.look(10_300.0)
    estimated = timestamps.stamped(clock.reading())
    assert estimated is not None
    assert (estimated.t_ms, estimated.synchronised) == (TRUE_MS - 5_000, False)
    timestamps.server_said(clock.true_ms)
    known = timestamps.stamped(clock.reading())
    assert known is not None
    assert (known.t_ms, known.synchronised) == (clock.true_ms, True)


def test_who_trusts_the_clock_takes_what_it_says() -> None:
    reading = FakeClock(IN_1970).reading()
    assert Trusting().stamped(reading) is reading


class Device:
    """A publisher of a machine with such a clock."""

    def __init__(self, directory: Path, broker: Mosquitto, boot: str, clock: FakeClock, wait_seconds: float) -> None:
        config = Config.of(
            {
                "device": "pump",
                "site": "plant",
                "broker": {"host": broker.host, "port": broker.port},
                "outbox": {"path": directory / "outbox.db"},
            }
        )
        self.clock = clock
        outbox = Outbox.open(config.outbox.path, max_bytes=1_000_000)
        newest_ms = outbox.newest_ms()
        times = Doubting(boot, max_wait_seconds=wait_seconds, newest_ms=newest_ms, clock=clock)
        self.publisher = Publisher(config, outbox, Identity(boot, "abc"), timestamps=times)
        self.publisher.start()

    def measure(self, value: float) -> None:
        self.publisher.append(self.clock.reading(value))

    def wait_held(self, count: int) -> None:
        until(lambda: self.publisher.report.untimed_readings == count, 10, f"{count} readings that wait")


MakeDevice = Callable[..., Device]


@pytest.fixture
def start(tmp_path: Path, broker: Mosquitto) -> Iterator[MakeDevice]:
    with ExitStack() as stack:

        def made(boot: str, clock: FakeClock, wait_seconds: float = 300.0) -> Device:
            device = Device(tmp_path, broker, boot, clock, wait_seconds)
            stack.callback(device.publisher.stop)
            return device

        yield made


@pytest.fixture
def cloud(broker: Mosquitto) -> Iterator[Committer]:
    with Committer(broker.host, broker.port) as committer:
        yield committer


def ticks(cloud: Committer) -> list[tuple[float | None, int, str | None]]:
    """Value, time and clock of each tick that arrived, by value."""
    found: list[tuple[float | None, int, str | None]] = []
    for arrival in list(cloud.arrivals):
        match arrival.message:
            case Tick(values=values, t=t, clock=clock):
                found.append((values["value"], t, clock))
            case Backlog(values=columns, t=times, clock=clock):
                found += [(value, t, clock) for value, t in zip(columns["value"], times, strict=True)]
    return sorted(set(found), key=str)


def test_what_was_measured_in_1970_arrives_with_true_times(start: MakeDevice, cloud: Committer) -> None:
    device = start("now", FakeClock(IN_1970))
    for value in range(3):
        device.measure(value)
        device.clock.since_boot_ms += 10_000
    device.wait_held(3)
    assert cloud.arrivals == []
    device.clock.wrong_ms, device.clock.kernel = 0, True
    device.measure(3)
    until(lambda: device.publisher.depth == 0, 10, "all delivered")
    device.publisher.stop()
    assert ticks(cloud) == [(value, TRUE_MS + value * 10_000, None) for value in range(4)]
    until(lambda: not cloud.statuses[-1][0].online, 5, "the goodbye")
    assert cloud.statuses[0][0].time, "a status without a time is the last will"
    assert cloud.statuses[-1][0].time == device.clock.true_ms


def test_the_cloud_tells_a_device_whose_kernel_never_knows(start: MakeDevice, cloud: Committer) -> None:
    device = start("now", FakeClock(IN_1970))
    device.measure(1)
    device.wait_held(1)
    cloud.time_ms = device.clock.true_ms
    cloud.acknowledge(device.publisher.report.stream, [])  # as a birth is answered
    until(lambda: device.publisher.depth == 0, 10, "all delivered")
    device.publisher.stop()
    assert ticks(cloud) == [(1.0, TRUE_MS, None)]


def test_what_is_never_known_is_sent_and_says_so(start: MakeDevice, cloud: Committer) -> None:
    device = start("now", FakeClock(IN_1970), 0.1)
    device.measure(1)
    until(lambda: device.publisher.depth == 0, 10, "all delivered")
    device.publisher.stop()
    assert ticks(cloud) == [(1.0, EARLIEST_MS, "unsynchronised")]


def test_readings_of_a_boot_that_ended_before_the_time_was_known(start: MakeDevice, cloud: Committer) -> None:
    first = start("first", FakeClock(IN_1970))
    for value in range(2):
        first.measure(value)
        first.clock.since_boot_ms += 10_000
    first.wait_held(2)
    first.publisher.stop()
    clock = FakeClock(IN_1970, since_boot_ms=1_000)
    second = start("second", clock)
    second.measure(2)
    second.wait_held(3)
    clock.wrong_ms, clock.kernel = 0, True
    until(lambda: second.publisher.depth == 0, 10, "all delivered")
    second.publisher.stop()
    [a, b, c] = ticks(cloud)
    assert c == (2.0, TRUE_MS + 1_000, None)
    assert (a[0], a[2], b[0], b[2]) == (0.0, "unsynchronised", 1.0, "unsynchronised")
    assert b[1] - a[1] == 10_000, "they keep their distance"
    assert b[1] <= TRUE_MS, "and end before the next boot began"
