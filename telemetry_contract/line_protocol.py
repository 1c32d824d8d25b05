r"""InfluxDB line protocol, read: how programs and foreign publishers that speak it hand over what they measured.

    measurement,tag=value,tag=value field=1.5,field=2i,field="text",field=true 1763678400000000000

After https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/ and what InfluxDB itself accepts: a
backslash escapes a comma and a space (in keys and tag values `=` as well, in quoted text `"` and `\`) and is itself
anywhere else; `NaN` and infinities don't exist; a tag may not be empty or given twice. Blank lines and lines that begin
with `#` are skipped; lines may end with CR LF. A line feed within quoted text belongs to the text.
"""

import math
import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple, NoReturn

from telemetry_contract.errors import InvalidLine, InvalidSeriesKey
from telemetry_contract.series import SeriesKey

FieldValue = float | int | bool | str


class Precision(Enum):
    """The unit of the timestamps, as nanoseconds; names are those of InfluxDB's `precision` parameter."""

    ns = 1
    us = 1_000
    ms = 1_000_000
    s = 1_000_000_000


class Point(NamedTuple):
    """One line. `time_ns` is since the epoch, UTC; None where the line has no timestamp."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, FieldValue]
    time_ns: int | None = None


class Samples(NamedTuple):
    """The numbers of a point as series, and what is wrong with each field that can't be one."""

    values: dict[SeriesKey, float]
    unusable: list[str]


_INT64 = range(-(2**63), 2**63)
_UINT64 = range(2**64)
_MAX_DIGITS = 20  # of 2**64, and of -2**63 with its sign
_MAX_SHOWN_CHARACTERS = 40

_SPACE = re.compile(r"[ \t]*")
_MEASUREMENT = re.compile(r"(?:\\[, ]|[^, \n])+")
_KEY = re.compile(r"(?:\\[,= ]|[^,= \n])+")
_TEXT = re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL)
_NUMBER = re.compile(r"(?:(-?\d+)i|(\d+)u|(-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?))(?![^,\s])", re.ASCII)
_TRUTH = re.compile(r"(?:([tT]|true|True|TRUE)|[fF]|false|False|FALSE)(?![^,\s])")
_TIMESTAMP = re.compile(r"-?\d{1,19}(?!\S)", re.ASCII)
_END = re.compile(r"[ \t]*\r?(?:\n|\Z)")
_SKIPPED = re.compile(r"[ \t]*(?:#[^\n]*|\r?)(?:\n|\Z)")

_ESCAPED_IN_MEASUREMENT = re.compile(r"\\([, ])")
_ESCAPED_IN_KEY = re.compile(r"\\([,= ])")
_ESCAPED_IN_TEXT = re.compile(r'\\(["\\])')
_NOT_IN_METRIC = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_IN_LABEL = re.compile(r"[^a-zA-Z0-9_]")


def points(text: str, precision: Precision = Precision.ns) -> Iterator[Point | InvalidLine]:
    """Every point of `text`; for a line that is not one, what is wrong with it, so that its neighbours still count."""
    position, line = 0, 1
    while position < len(text):
        skipped = _SKIPPED.match(text, position)
        end = position
        if skipped is not None:
            end = skipped.end()
        else:
            try:
                point, end = _Line(text, position, line).read(precision)
                yield point
            except InvalidLine as exc:
                yield exc
                # From the beginning of the bad line: an unbalanced quote must not swallow the lines after it.
                end = text.find("\n", position) + 1 or len(text)
        line += text.count("\n", position, end)
        position = end


def samples(point: Point) -> Samples:
    """The series of a point: one for each field that is a number, or a truth value as 1 or 0.

    The metric is `measurement_field`, or the measurement alone for a field called `value`; tags become labels. A
    character that a name can't hold becomes `_`. Integers beyond 2^53 lose their last digits. Text is not a sample.
    """
    found = Samples({}, [])
    labels = {_name(tag, _NOT_IN_LABEL): text for tag, text in point.tags.items()}
    if len(labels) < len(point.tags):
        found.unusable.append(f"{point.measurement} has tags whose names become one label")
        return found
    for field, value in point.fields.items():
        metric = _name(point.measurement if field == "value" else f"{point.measurement}_{field}", _NOT_IN_METRIC)
        if isinstance(value, str):
            found.unusable.append(f"{metric} is text, not a number")
            continue
        try:
            key = SeriesKey.of(metric, labels)
        except InvalidSeriesKey as exc:
            found.unusable.append(str(exc))
            continue
        if key in found.values:
            found.unusable.append(f"{key} is given twice")
        else:
            found.values[key] = float(value)
    return found


def _name(text: str, forbidden: re.Pattern[str]) -> str:
    name = forbidden.sub("_", text)
    return f"_{name}" if name[:1].isdigit() else name


class _Line:
    """Reads one line of a text from its start."""

    def __init__(self, text: str, start: int, number: int) -> None:
        self._text = text
        self._start = start
        self._at = start
        self._number = number

    def read(self, precision: Precision) -> tuple[Point, int]:
        """The point, and where the next line begins. Raises InvalidLine."""
        self._pass(_SPACE)
        measurement = _ESCAPED_IN_MEASUREMENT.sub(r"\1", self._token(_MEASUREMENT, "a measurement"))
        tags: dict[str, str] = {}
        while self._literal(","):
            name = self._key("a tag")
            if name in tags:
                self._fail(f"another tag: {name!r} is given twice")
            tags[name] = self._key_text("the value of a tag")
        self._separator("fields")
        fields: dict[str, FieldValue] = {}
        while not fields or self._literal(","):
            name = self._key("a field")
            if name in fields:
                self._fail(f"another field: {name!r} is given twice")
            fields[name] = self._value()
        time_ns = self._timestamp(precision)
        if (end := _END.match(self._text, self._at)) is None:
            self._fail("the end of the line" if time_ns is not None else "a timestamp or the end of the line")
        return Point(measurement, tags, fields, time_ns), end.end()

    def _key(self, what: str) -> str:
        key = self._key_text(what)
        if not self._literal("="):
            self._fail("=")
        return key

    def _key_text(self, what: str) -> str:
        return _ESCAPED_IN_KEY.sub(r"\1", self._token(_KEY, what))

    def _value(self) -> FieldValue:
        if (match := self._pass(_NUMBER)) is not None:
            number = _number(match)
            if number is None:
                self._at = match.start()
                self._fail("a number within the range of its type")
            return number
        if (match := self._pass(_TRUTH)) is not None:
            return match[1] is not None
        if (match := self._pass(_TEXT)) is not None:
            return _ESCAPED_IN_TEXT.sub(r"\1", match[1])
        return self._fail('a number like 1.5, 2i or 3u, true, false or "text"')

    def _timestamp(self, precision: Precision) -> int | None:
        if self._text[self._at : self._at + 1] not in {" ", "\t"}:
            return None
        self._pass(_SPACE)
        match = self._pass(_TIMESTAMP)
        if match is None:
            return None  # trailing space, or what `read` then finds is not the end of the line
        time_ns = int(match[0]) * precision.value
        if time_ns not in _INT64:
            self._at = match.start()
            self._fail("a timestamp between the years 1677 and 2262, in the unit agreed on")
        return time_ns

    def _separator(self, before: str) -> None:
        start = self._at
        self._pass(_SPACE)
        if self._at == start or _END.match(self._text, self._at):
            self._fail(f"a space and {before}")

    def _token(self, pattern: re.Pattern[str], what: str) -> str:
        match = self._pass(pattern)
        if match is None:
            self._fail(what)
        return match[0]

    def _literal(self, character: str) -> bool:
        if not self._text.startswith(character, self._at):
            return False
        self._at += 1
        return True

    def _pass(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return match

    def _fail(self, expected: str) -> NoReturn:
        column = self._at - self._start + 1
        rest = self._text[self._at : self._at + _MAX_SHOWN_CHARACTERS].partition("\n")[0]
        raise InvalidLine(f"line {self._number} column {column}: expected {expected}, got {rest!r}")


def _number(match: re.Match[str]) -> float | int | None:
    """The number that _NUMBER found; None where it is beyond what its type holds."""
    integer, unsigned, decimal = match.groups()
    if decimal is not None:
        value = float(decimal)
        return None if math.isinf(value) else value
    digits, possible = (unsigned, _UINT64) if integer is None else (integer, _INT64)
    # Zeros in front count: int() itself would take no more than a few thousand digits.
    return whole if len(digits) <= _MAX_DIGITS and (whole := int(digits)) in possible else None
