"""What the scheduler hands to the outbox."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """The values that were measured together: one tick.

    `t_ms` is the wall clock in milliseconds since the epoch, UTC, and `monotonic_ns` the monotonic clock of this boot,
    both read when the measuring began. `values` maps series keys, in sorted order, to finite numbers; None stands
    for "no value". A reading has at least one key.
    """

    t_ms: int
    monotonic_ns: int
    values: dict[str, float | None]
