"""The formats in which programs and devices tell what they measured.

A reader gives the values by canonical series key, None where there is none, and what is wrong with each entry that it
leaves out. It raises CollectorError, which begins with the `verb` of who told it, where the whole is not of its format.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Protocol

from edge_agent.errors import CollectorError
from telemetry_contract.errors import InvalidLine, InvalidSeriesKey
from telemetry_contract.line_protocol import points, samples
from telemetry_contract.series import SeriesKey

Found = tuple[dict[str, float | None], list[str]]


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its keys as often as they were given."""


def json_object(output: bytes, verb: str = "printed") -> Found:
    """The values of a JSON object of series key -> number or null."""
    if not output.strip():
        raise CollectorError(f"{verb} nothing; expected a JSON object of series key -> number")
    try:
        printed = json.loads(output, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as exc:
        raise CollectorError(f"{verb} what is not JSON ({exc}): {_shown(output)}") from exc
    if not isinstance(printed, _Pairs):
        raise CollectorError(f"{verb} JSON that is not an object of series key -> number: {_shown(output)}")
    found: dict[str, float | None] = {}
    unusable: list[str] = []
    for written, value in printed:
        try:
            key = str(SeriesKey.parse(written))
            key.encode()
        except (InvalidSeriesKey, UnicodeEncodeError) as exc:
            unusable.append(str(exc))
            continue
        if key in found:
            unusable.append(f"{key} is given twice")
        elif isinstance(value, bool) or not isinstance(value, int | float | None):
            unusable.append(f"{key} must be a number or null, got {json.dumps(value)[:60]}")
        else:
            found[key] = _finite(value)
    return found, unusable


def _finite(value: float | None) -> float | None:
    try:
        return None if value is None or not math.isfinite(value) else float(value)
    except OverflowError:  # an integer beyond what a double can hold, as good as infinite
        return None


def influx_points(output: bytes, verb: str = "printed") -> Found:
    """The values of points in InfluxDB line protocol; their timestamps are not used."""
    if not output.strip():
        raise CollectorError(f"{verb} nothing; expected points in InfluxDB line protocol")
    try:
        text = output.decode()
    except UnicodeDecodeError as exc:
        raise CollectorError(f"{verb} what is not UTF-8 text: {_shown(output)}") from exc
    found: dict[str, float | None] = {}
    unusable: list[str] = []
    for point in points(text):
        if isinstance(point, InvalidLine):
            unusable.append(str(point))
            continue
        numbers = samples(point)
        unusable += numbers.unusable
        for series, value in numbers.values.items():
            key = str(series)
            if key in found:
                unusable.append(f"{key} is given twice")
            else:
                found[key] = value
    return found, unusable


class Reader(Protocol):
    """Reads one format."""

    def __call__(self, output: bytes, verb: str = "printed") -> Found:
        """See the module."""
        ...


READERS: Mapping[str, Reader] = {"json": json_object, "influx": influx_points}


def _shown(output: bytes) -> str:
    return f"it begins with {output[:60].decode(errors='replace')!r}"
