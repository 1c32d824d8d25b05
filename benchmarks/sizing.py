"""The sizing table of docs/scaling.md: what is computed, from the few figures that were measured.

    .venv/bin/python benchmarks/sizing.py

prints the rows; a test holds them against the document.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

# Measured, see docs/scaling.md for where and how.
LIVE_SAMPLES_A_SECOND: Final = 1_300_000  # of one ingester, 60 samples a message
BYTES_A_SAMPLE: Final = 10.5
BYTES_A_ROLLUP: Final = 34.8  # a series and bucket
# Chosen: half of what an ingester takes is left for a backlog and for growth.
SHARE: Final = 0.5
# One mosquitto delivered 88,000 messages a second to a client in C; a third of it is planned with.
BROKER_MESSAGES_A_SECOND: Final = 30_000

_DAY: Final = 86_400
# Buckets a day of each tier, and the days it is kept, its last piece included (docs/tiers.md).
_ROLLUPS: Final = ((288, 7 + 1), (24, 30 + 7), (1, 365 + 56))
_RAW_DAYS: Final = 30 / 24


class Fleet(NamedTuple):
    """So many devices, each with so many series every so many seconds, in one reading."""

    devices: int
    series: int
    interval_seconds: int


class Need(NamedTuple):
    """What a fleet takes: rates, ingest processes, new bytes of readings a day, and bytes kept in all."""

    samples_a_second: float
    messages_a_second: float
    ingesters: int
    bytes_a_day: float
    bytes_kept: float
    one_broker: bool


FLEETS: Final = (
    Fleet(10, 60, 5),
    Fleet(100, 60, 5),
    Fleet(1_000, 60, 5),
    Fleet(1_000, 60, 60),
    Fleet(10_000, 60, 5),
    Fleet(10_000, 60, 60),
    Fleet(10_000, 200, 10),
    Fleet(100_000, 60, 10),
    Fleet(100_000, 60, 60),
)


def need(fleet: Fleet) -> Need:
    """By the figures above."""
    messages = fleet.devices / fleet.interval_seconds
    samples = messages * fleet.series
    a_day = samples * _DAY * BYTES_A_SAMPLE
    rollups = fleet.devices * fleet.series * BYTES_A_ROLLUP * sum(buckets * days for buckets, days in _ROLLUPS)
    return Need(
        samples_a_second=samples,
        messages_a_second=messages,
        ingesters=max(1, -(-int(samples) // int(LIVE_SAMPLES_A_SECOND * SHARE))),
        bytes_a_day=a_day,
        bytes_kept=a_day * _RAW_DAYS + rollups,
        one_broker=messages <= BROKER_MESSAGES_A_SECOND,
    )


def rows() -> Iterator[str]:
    """The table as Markdown."""
    yield "| devices | series | every | samples/s | messages/s | ingesters | readings a day | kept in all | broker |"
    yield "|---:|---:|---:|---:|---:|---:|---:|---:|---|"
    for fleet in FLEETS:
        found = need(fleet)
        yield (
            f"| {fleet.devices:,} | {fleet.series} | {fleet.interval_seconds} s | {found.samples_a_second:,.0f}"
            f" | {found.messages_a_second:,.0f} | {found.ingesters} | {_size(found.bytes_a_day)}"
            f" | {_size(found.bytes_kept)} | {'one mosquitto' if found.one_broker else 'a cluster'} |"
        )


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1_000:  # noqa: PLR2004
            return f"{size:.3g} {unit}"
        size /= 1_000
    return f"{size:.3g} TB"


if __name__ == "__main__":
    print("\n".join(rows()))
