"""What the publisher tells of itself."""

from dataclasses import dataclass, field
from uuid import UUID

from edge_agent.timestamps import ClockReport
from telemetry_contract.payload import OutboxState


@dataclass(slots=True)
class DeliveryCounts:
    """Since the start."""

    messages_sent: int = 0
    ticks_sent: int = 0
    ticks_confirmed: int = 0
    commit_acks: int = 0
    ignored_acks: int = 0
    refused_messages: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """How delivery stands.

    `in_flight` messages are unconfirmed, and `stalled` says that nothing is confirmed any more. `in_memory` readings
    wait for a disk that refuses them, if `disk_fails`, and `untimed_readings` until it is known when they were taken.
    """

    stream: UUID
    connected: bool
    in_flight: int
    stalled: bool
    in_memory: int
    disk_fails: bool
    untimed_readings: int
    clock: ClockReport
    outbox: OutboxState
    counts: DeliveryCounts = field(default_factory=DeliveryCounts)
