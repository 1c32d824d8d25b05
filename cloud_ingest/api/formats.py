"""In which format an answer is wanted: `format` says so, else the Accept header (RFC 9110, section 12.5.1)."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, Final

CSV_MEDIA_TYPE: Final = "text/csv"
_HEADER: Final = "time,device,metric,labels,unit,value,coverage"


class Format(StrEnum):
    """What a history can be written as."""

    JSON = "json"
    CSV = "csv"


def accepted(accept: str) -> Format:
    """CSV where the header prefers it to JSON; JSON in any other case."""
    weights = dict(map(_range, accept.lower().split(",")))
    as_json = max(weights.get(name, 0.0) for name in ("application/json", "application/*", "*/*"))
    return Format.CSV if weights.get(CSV_MEDIA_TYPE, 0.0) > as_json else Format.JSON


def csv_of(series: Iterable[dict[str, Any]]) -> bytes:
    """The series of a history, a line a point; a value or coverage that is missing is empty. Labels are JSON."""
    return "".join(_lines(series)).encode()


def _lines(series: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield f"{_HEADER}\r\n"
    for one in series:
        fields = [one["device"], one["metric"], bytes(one["labels"]).decode(), one["unit"]]
        middle = _quoted(fields)
        covered = one["coverage"] or [None] * len(one["time"])
        for time, value, coverage in zip(one["time"], one["value"], covered, strict=True):
            number = "" if math.isnan(value) else repr(value)
            yield f"{time},{middle},{number},{'' if coverage is None else coverage}\r\n"


def _quoted(fields: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _range(part: str) -> tuple[str, float]:
    """A media range and its weight; one that can't be read weighs nothing."""
    name, *parameters = (piece.strip() for piece in part.split(";"))
    weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
    try:
        return name, float(weight)
    except ValueError:
        return name, 0.0
