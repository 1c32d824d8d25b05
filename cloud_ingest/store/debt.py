"""What a rejected message owes: ticks that are settled in the ledger because of it, and were not stored.

A row of `rejected` says so itself. Of rows from before it did, the raw readings tell, as far back as they go: a tick
of whose device there is no reading of that time was not stored, and one that is there with the same values was.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import numpy as np

from cloud_ingest.store.database import Connection
from cloud_ingest.store.ranges import Range, contains, from_multirange, runs
from cloud_ingest.store.readings import Floats


class Tick(NamedTuple):
    """One of the ticks of a message; `samples` has shape (keys,)."""

    seq: int
    time_ms: int
    samples: Floats


class Estimate(NamedTuple):
    """Which settled ticks were not stored, and of which nobody knows."""

    owed: list[Range]
    doubtful: list[Range]


def estimate(
    connection: Connection, stream: UUID, device_id: int, settled: Iterable[Tick], raw_from_ms: int
) -> Estimate:
    """Tells of settled ticks of a stream, whose row is locked, which of them were not stored.

    Those that other rejected messages own are none of these. `raw_from_ms` is from when all raw readings are there.
    """
    elsewhere = _owned(connection, stream)
    ticks = [tick for tick in settled if not contains(elsewhere, tick.seq)]
    stored = _stored(connection, device_id, [tick.time_ms for tick in ticks if tick.time_ms >= raw_from_ms])
    owed, doubtful = [], []
    for tick in ticks:
        if tick.time_ms < raw_from_ms:
            doubtful.append(tick.seq)
        elif tick.time_ms not in stored:
            owed.append(tick.seq)
        elif _bytes(tick.samples) not in stored[tick.time_ms]:
            doubtful.append(tick.seq)
    return Estimate(runs(owed), runs(doubtful))


def _owned(connection: Connection, stream: UUID) -> list[Range]:
    ((text,),) = connection.execute(
        "select range_agg(seqs)::text from telemetry.rejected where stream_id = %s", [stream]
    ).fetchall()
    return [] if text is None else from_multirange(text)


def _stored(connection: Connection, device_id: int, times_ms: Sequence[int]) -> dict[int, set[bytes]]:
    """What the device's readings of these times hold."""
    found: dict[int, set[bytes]] = {}
    if not times_ms:
        return found
    times = [datetime.fromtimestamp(time_ms / 1000, UTC) for time_ms in times_ms]
    # Bound to the range of the times, so that only chunks and partitions of that time are looked into
    rows = connection.execute(
        "select (extract(epoch from time) * 1000)::bigint, samples from telemetry.reading"
        " where device_id = %(device)s and time = any(%(times)s) and time between %(first)s and %(last)s",
        {"device": device_id, "times": times, "first": min(times), "last": max(times)},
        prepare=False,
    ).fetchall()
    for time_ms, samples in rows:
        found.setdefault(time_ms, set()).add(_bytes(np.array(samples, np.float64)))
    return found


def _bytes(samples: Floats) -> bytes:
    """Equal for equal values; every NaN, which stands for no value, is the same."""
    return np.where(np.isnan(samples), np.nan, samples).tobytes()
