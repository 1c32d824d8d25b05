"""What the scheduler hands to the outbox."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """The values that were measured together: one tick.

    `t_ms` is the wall clock in milliseconds since the epoch, UTC, and `monotonic_ns` a clock of this boot that is never
    set and counts time asleep, both read when the measuring began. `values` maps series keys, in sorted order, to
    finite numbers; None stands for "no value". A reading has at least one key. The next of its kind is due after
    `interval_seconds`, as far as that is known. Without `synchronised` its time is an estimate.
    """

    t_ms: int
    monotonic_ns: int
    values: dict[str, float | None]
    interval_seconds: float = 0.0
    synchronised: bool = True
