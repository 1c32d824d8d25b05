"""Readings without sequence numbers: which of them are stored already, told by what they say.

The identity of such a reading is its device, its layout, its time in milliseconds and its values. All raw readings are
kept with these, so they are their own ledger as far back as raw readings go, and what is older can't be told from
a redelivery and is refused. Both happen in the batch's transaction, under the lock on the device's stream.
See `docs/decisions/0012-readings-without-sequence-numbers.md`.
"""

from typing import Final

import numpy as np

from cloud_ingest.store.database import Connection
from cloud_ingest.store.readings import Floats, Integers

_Identity = tuple[int, int, int, bytes]


class Candidates:
    """Readings of one batch, gathered block by block, and what `stored` of them the database holds."""

    def __init__(self) -> None:
        self._devices: list[int] = []
        self._layouts: list[int] = []
        self._times_ms: list[int] = []
        self._known: set[_Identity] = set()

    def add(self, device_id: int, layout_id: int, times_ms: Integers) -> None:
        """Readings of a device and layout at these times."""
        self._times_ms += times_ms.tolist()
        self._devices += [device_id] * len(times_ms)
        self._layouts += [layout_id] * len(times_ms)

    def look_up(self, connection: Connection) -> None:
        """Asks the database, within the transaction that will store the others."""
        if not self._times_ms:
            return
        rows = connection.execute(_STORED, self._parameters(), prepare=False).fetchall()
        self._known = {
            (device_id, layout_id, time_ms, _bytes(np.array(samples, np.float64)))
            for device_id, layout_id, time_ms, samples in rows
        }

    def fresh(self, device_id: int, layout_id: int, times_ms: Integers, samples: Floats) -> list[int]:
        """The rows that are not stored and were not asked about before; each is given once."""
        indices = []
        for index, time_ms in enumerate(times_ms.tolist()):
            identity = (device_id, layout_id, time_ms, _bytes(samples[index]))
            if identity not in self._known:
                self._known.add(identity)
                indices.append(index)
        return indices

    def _parameters(self) -> dict[str, object]:
        return {
            "devices": self._devices,
            "layouts": self._layouts,
            "times": self._times_ms,
            "first": min(self._times_ms),
            "last": max(self._times_ms),
        }


# Bound to the range of the times, so that only chunks and partitions of that time are looked into
_STORED: Final = (
    "select device_id, layout_id, wanted.time_ms, reading.samples"
    " from (select distinct * from unnest(%(devices)s::integer[], %(layouts)s::integer[], %(times)s::bigint[])"
    "  as each (device_id, layout_id, time_ms)) as wanted"
    " join telemetry.reading using (device_id, layout_id)"
    " where reading.time = to_timestamp(wanted.time_ms / 1000.0)"
    " and reading.time between to_timestamp(%(first)s / 1000.0) and to_timestamp(%(last)s / 1000.0)"
)


def _bytes(samples: Floats) -> bytes:
    """Equal for equal values; every NaN, which stands for no value, is the same."""
    return np.where(np.isnan(samples), np.nan, samples).tobytes()
