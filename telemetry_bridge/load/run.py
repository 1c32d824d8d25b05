"""The load: devices that send on time for a while, and what became of what they sent."""

import heapq
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from telemetry_bridge.errors import CannotStart
from telemetry_bridge.load.connections import BrokerAddress, Connections
from telemetry_bridge.load.device import LoadDevice, Outgoing, Profile
from telemetry_bridge.load.latency import Latency
from telemetry_contract.codec import decode_ack
from telemetry_contract.errors import PayloadError

_OTHER_FILES: Final = 64
_TURN_SECONDS: Final = 0.05
_REPORT_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Load:
    """How much is sent: `rate` is of live samples a second, all devices together.

    After `seconds` it waits for confirmations, for `settle_seconds` at most.
    """

    site: str
    name: str
    devices: int
    series: int
    rate: float
    seconds: float
    backlog_hours: float = 0.0
    settle_seconds: float = 60.0
    confirm_timeout_seconds: float = 30.0

    @property
    def interval_seconds(self) -> float:
        """Between two ticks of a device."""
        return self.devices * self.series / self.rate


@dataclass(frozen=True)
class LoadReport:
    """What was reached so far; rates are samples a second, `commit` is from the time of a live tick to its commit ack.

    `late_p99` is how much later than planned live ticks were sent: more than some 0.1 s says that this generator, and
    not the system, was the limit.
    """

    seconds: float
    sent_ticks: int
    committed_ticks: int
    committed_rate: float
    unconfirmed_ticks: int
    backlog_left_ticks: int
    commit_p50_seconds: float | None
    commit_p99_seconds: float | None
    late_p99_seconds: float | None
    broker_acknowledged_messages: int
    refused: dict[str, int]

    @property
    def complete(self) -> bool:
        """Whether all that was sent is in the database, by what the cloud says."""
        return self.unconfirmed_ticks == 0 and not self.refused


class Generator:
    """Runs a load once."""

    def __init__(self, load: Load, broker: BrokerAddress, *, stopped: Callable[[], bool]) -> None:
        self._load = load
        self._stopped = stopped
        profile = Profile(
            series=load.series,
            interval_seconds=load.interval_seconds,
            backlog_ticks=int(load.backlog_hours * 3600 / load.interval_seconds),
            confirm_timeout_seconds=load.confirm_timeout_seconds,
        )
        self._devices: Sequence[LoadDevice] = [
            LoadDevice(load.site, f"{load.name}-{number:05}", uuid4(), profile, phase=number / load.devices)
            for number in range(load.devices)
        ]
        self._connections = Connections(broker, self._devices, self._hear)
        self._moved: deque[LoadDevice] = deque()  # those that may have room for backlog in their window
        self._began = 0.0
        self._sent = 0
        self._committed = 0
        self._commit = Latency()
        self._late = Latency()

    def run(self, show: Callable[[LoadReport], None]) -> LoadReport:
        """Sends for the time that the load says, or until stopped, and tells about once a second how far it is.

        Raises CannotStart where the devices can't connect.
        """
        require_files(self._load.devices)
        try:
            self._connections.open()
            self._began = time.monotonic()
            for device in self._devices:
                device.begin(self._began, time.time_ns() // 1_000_000)
            self._send(self._began + self._load.seconds, show)
            self._settle(time.monotonic() + self._load.settle_seconds, show)
            return self._report()
        finally:
            self._connections.close()

    def _send(self, until: float, show: Callable[[LoadReport], None]) -> None:
        queue = [(device.live_due, number) for number, device in enumerate(self._devices)]
        heapq.heapify(queue)
        self._moved.extend(self._devices)
        show_due = resend_due = time.monotonic()
        while (now := time.monotonic()) < until and not self._stopped():
            while queue[0][0] <= now:
                number = queue[0][1]
                device = self._devices[number]
                self._late.add(now - device.live_due)
                self._publish(device, device.live(now))
                heapq.heapreplace(queue, (device.live_due, number))
            self._send_backlog(now)
            if now >= resend_due:
                resend_due = now + _REPORT_SECONDS
                self._resend(now)
            if now >= show_due:
                show_due = now + _REPORT_SECONDS
                show(self._report())
            self._connections.serve(0 if self._moved else min(_TURN_SECONDS, queue[0][0] - time.monotonic()))

    def _settle(self, until: float, show: Callable[[LoadReport], None]) -> None:
        """Waits for what was sent."""
        while (now := time.monotonic()) < until and not self._stopped():
            report = self._report()
            if report.unconfirmed_ticks == 0:
                return
            show(report)
            self._resend(now)
            self._connections.serve(_TURN_SECONDS)

    def _send_backlog(self, now: float) -> None:
        """One message, so that live ticks don't wait behind many."""
        if not self._moved:
            return
        device = self._moved.popleft()
        if device.may_send_backlog:
            self._publish(device, device.backlog(now))
            self._moved.append(device)

    def _publish(self, device: LoadDevice, message: Outgoing) -> None:
        self._connections.publish(device, message)
        self._sent += message.ticks

    def _resend(self, now: float) -> None:
        for device in self._devices:
            for message in device.overdue(now):
                self._connections.publish(device, message)

    def _hear(self, device: LoadDevice, payload: bytes) -> None:
        try:
            ack = decode_ack(payload)
        except PayloadError:
            return
        if ack.stream != device.stream:
            return
        confirmed = device.committed(ack.committed)
        self._committed += confirmed.ticks
        now = time.monotonic()
        for due in confirmed.live_due:
            self._commit.add(now - due)
        if device.backlog_left and device not in self._moved:
            self._moved.append(device)

    def _report(self) -> LoadReport:
        seconds = time.monotonic() - self._began
        return LoadReport(
            seconds=seconds,
            sent_ticks=self._sent,
            committed_ticks=self._committed,
            committed_rate=self._committed * self._load.series / seconds,
            unconfirmed_ticks=self._sent - self._committed,
            backlog_left_ticks=sum(device.backlog_left for device in self._devices),
            commit_p50_seconds=self._commit.quantile(0.5),
            commit_p99_seconds=self._commit.quantile(0.99),
            late_p99_seconds=self._late.quantile(0.99),
            broker_acknowledged_messages=self._connections.tally.acknowledged,
            refused=dict(self._connections.tally.refused),
        )


def require_files(connections: int) -> None:
    """Lets this process open so many connections. Raises CannotStart where the system does not."""
    try:
        import resource  # noqa: PLC0415 - Windows has no such limit, and no such module
    except ImportError:
        return
    needed = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise CannotStart(
            f"{connections} devices need {needed} open files, this process may have {hard}; raise `ulimit -n`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
