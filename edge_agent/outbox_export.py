"""The ticks of an outbox as text for people and other programs."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from telemetry_contract.codec import encode
from telemetry_contract.payload import Tick

CSV_COLUMNS = ("time", "seq", "series", "value")


def as_json_lines(ticks: Iterable[Tick]) -> Iterator[str]:
    """A tick a line, exactly as a live message carries it."""
    for tick in ticks:
        yield encode(tick).payload.decode() + "\n"


def as_csv(ticks: Iterable[Tick]) -> Iterator[str]:
    """A value a line, below a line of column names; one that is missing is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for tick in ticks:
        time = as_time(tick.t)
        for series, value in tick.values.items():
            known = value is not None and math.isfinite(value)
            writer.writerow((time, tick.seq, series, repr(value) if known else ""))
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def as_time(t_ms: int) -> str:
    """RFC 3339, UTC, with milliseconds."""
    return datetime.fromtimestamp(t_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
