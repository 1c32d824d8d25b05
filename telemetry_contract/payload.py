"""The payloads of `telemetry/v1`, as structs.

Times are milliseconds since the epoch, UTC. Sequence numbers are the outbox's: they start at 1, strictly increase
within a stream and are never reused. Fields that a program does not know are ignored, so that one may be added
without a new version.
"""

from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

VERSION = 1

MAX_SEQUENCE = 2**63 - 2  # an int8range's exclusive upper bound must still be a bigint
MAX_TIME_MS = 253_402_300_799_999  # the last millisecond of the year 9999

Sequence = Annotated[int, Meta(ge=1, le=MAX_SEQUENCE)]
TimeMs = Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]
Count = Annotated[int, Meta(ge=0, le=MAX_SEQUENCE)]
Text = Annotated[str, Meta(max_length=256)]
Gone = dict[Text, list[tuple[Sequence, Sequence]]]


class Tick(Struct, kw_only=True, omit_defaults=True):
    """One reading: the values that were measured together at `t`. The payload of a live message.

    `low`: nothing below it comes any more; it is the lowest sequence number that the outbox holds. `gone`: nor does
    anything in these inclusive ranges, which lie directly below ticks of this message, by why: "thinned" (given up so
    that their neighbours could stay) or "lost" (with the memory of an agent that was killed). What is below `low` or
    gone and never arrived is a gap.
    `clock` is "unsynchronised" while the device does not know the time. `device` is not needed (the topic names the
    device); where it is given it must agree with the topic.
    """

    v: int
    stream: UUID
    seq: Sequence
    low: Sequence
    t: TimeMs
    values: dict[str, float | None]
    gone: Gone | None = None
    clock: Text | None = None
    device: Text | None = None


class Backlog(Struct, kw_only=True, omit_defaults=True):
    """Many ticks with the same keys, column by column; `seq`, `t` and each list of `values` have one length.

    `low` and `gone` as in `Tick`.
    """

    v: int
    stream: UUID
    low: Sequence
    seq: list[Sequence]
    t: list[TimeMs]
    values: dict[str, list[float | None]]
    gone: Gone | None = None
    clock: Text | None = None
    device: Text | None = None


class OutboxState(Struct, kw_only=True):
    """What the outbox holds and what it had to give up."""

    depth: Count = 0
    bytes: Count = 0
    low: Sequence | None = None
    next_seq: Sequence | None = None
    oldest_time: TimeMs | None = None
    dropped: Count = 0
    thinned: Count = 0


class DesiredState(Struct, kw_only=True, omit_defaults=True):
    """What a device says in its status of the desired configuration that it heard of last, `version`.

    `state` is "trying" (in effect, and no sample measured since is confirmed), "applied", "refused" (it can't be
    applied here) or "reverted" (it was given up, see `reason`). `in_effect` is the version that holds now; without it
    the device's own configuration holds alone.
    """

    state: Annotated[str, Meta(max_length=32)]
    version: Sequence
    reason: Text | None = None
    in_effect: Sequence | None = None


class Status(Struct, kw_only=True, omit_defaults=True):
    """Birth, refresh, clean stop and last will of an agent; retained.

    `reason` says why it is offline: "stopped" (it said goodbye) or "lost" (the broker sent the last will).
    """

    v: int
    online: bool
    stream: UUID
    boot_id: Text
    agent_version: Text
    time: TimeMs | None = None
    reason: Text | None = None
    outbox: OutboxState | None = None
    config_hash: Text | None = None
    desired: DesiredState | None = None


class CommitAck(Struct, kw_only=True):
    """What the database has committed of a stream, as inclusive ranges in ascending order.

    Cumulative: it repeats what earlier acks said, so that a lost one is healed by the next. `server_time` is the
    ingester's clock when it sent this.
    """

    v: int
    stream: UUID
    committed: list[tuple[Sequence, Sequence]]
    server_time: TimeMs
