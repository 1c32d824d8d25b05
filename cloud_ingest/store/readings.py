"""Readings -> the bytes of `COPY telemetry.reading FROM STDIN (FORMAT BINARY)`, packed by numpy.

Formats: PostgreSQL documentation, COPY, "Binary Format" (a signature, then a field count and length-prefixed fields a
row, big endian), and the array representation of `array_send`: dimensions, null flag, element type, then length and
lower bound a dimension, then length-prefixed elements.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

COPY_STATEMENT: Final = "copy telemetry.reading (time, device_id, layout_id, samples) from stdin (format binary)"
COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)  # no flags, no header extension
COPY_TRAILER: Final = b"\xff\xff"

_FLOAT8_OID: Final = 701
_POSTGRES_EPOCH_MS: Final = 946_684_800_000  # 2000-01-01; a timestamptz is microseconds since then

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@lru_cache(maxsize=256)
def _template(width: int) -> npt.NDArray[np.void]:
    """One row of `width` samples with all that is the same in each row filled in."""
    row_type = np.dtype(
        [
            ("fields", ">i2"),
            ("time_length", ">i4"),
            ("time", ">i8"),
            ("device_length", ">i4"),
            ("device_id", ">i4"),
            ("layout_length", ">i4"),
            ("layout_id", ">i4"),
            ("array_length", ">i4"),
            ("dimensions", ">i4"),
            ("has_null", ">i4"),
            ("element_type", ">u4"),
            ("length", ">i4"),
            ("lower_bound", ">i4"),
            ("samples", [("size", ">i4"), ("value", ">f8")], (width,)),
        ]
    )
    row = np.zeros(1, row_type)
    row["fields"] = 4
    row["time_length"] = 8
    row["device_length"] = 4
    row["layout_length"] = 4
    row["array_length"] = 20 + 12 * width
    row["dimensions"] = 1
    row["element_type"] = _FLOAT8_OID
    row["length"] = width
    row["lower_bound"] = 1
    row["samples"]["size"] = 8
    return row


def pack(times_ms: Integers, device_ids: Integers, layout_id: int, samples: Floats) -> bytes:
    """Rows of one layout as COPY rows, without header and trailer.

    `times_ms` and `device_ids` have shape (n,), `samples` (n, width) with width >= 1; NaN means "no value".
    """
    rows = np.repeat(_template(samples.shape[1]), samples.shape[0])
    rows["time"] = (times_ms - _POSTGRES_EPOCH_MS) * 1000
    rows["device_id"] = device_ids
    rows["layout_id"] = layout_id
    rows["samples"]["value"] = samples
    return rows.tobytes()


def copy_stream(parts: Iterable[bytes]) -> bytes:
    """A whole COPY stream of packed parts."""
    return b"".join((COPY_HEADER, *parts, COPY_TRAILER))
