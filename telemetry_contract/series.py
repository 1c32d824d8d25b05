"""Series keys: a metric name and its labels as one text, in Prometheus notation.

`disk_used_bytes{mount="/"}`: labels sorted by name, values quoted, with backslash, double quote and line feed escaped
as in the Prometheus text format (https://prometheus.io/docs/instrumenting/exposition_formats/, "Line format").
"""

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

from telemetry_contract.errors import InvalidSeriesKey

MAX_KEY_CHARACTERS = 1024
METRIC_PATTERN = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL_PATTERN = r"[a-zA-Z_][a-zA-Z0-9_]*"

_METRIC = re.compile(METRIC_PATTERN)
_LABEL_NAME = re.compile(LABEL_PATTERN)
_LABEL = re.compile(rf'({LABEL_PATTERN})="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_ESCAPE = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_ESCAPED = re.compile(r"\\(.)")
# Characters that a database text can't hold (NUL) or that no name of a thing holds.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


class SeriesKey(NamedTuple):
    """A metric and its labels, sorted by name. `str(key)` is the canonical text."""

    metric: str
    labels: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        if not self.labels:
            return self.metric
        pairs = ",".join(f'{name}="{value.translate(_ESCAPE)}"' for name, value in self.labels)
        return f"{self.metric}{{{pairs}}}"

    @classmethod
    def of(cls, metric: str, labels: Mapping[str, str] | None = None) -> Self:
        """The key of a metric with these labels.

        Raises InvalidSeriesKey where a name is not allowed, a value holds a control character, or the whole is
        longer than MAX_KEY_CHARACTERS.
        """
        if _METRIC.fullmatch(metric) is None:
            raise InvalidSeriesKey(f"metric name {metric!r} does not match {METRIC_PATTERN}")
        pairs = tuple(sorted((labels or {}).items()))
        for name, value in pairs:
            if _LABEL_NAME.fullmatch(name) is None:
                raise InvalidSeriesKey(f"label name {name!r} does not match {LABEL_PATTERN}")
            if _CONTROL.search(value):
                raise InvalidSeriesKey(f"label {name}={value!r} holds a control character")
        key = cls(metric, pairs)
        if len(str(key)) > MAX_KEY_CHARACTERS:
            raise InvalidSeriesKey(f"series key is longer than {MAX_KEY_CHARACTERS} characters: {str(key)[:60]}...")
        return key

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key that `text` writes, its labels in any order.

        Raises InvalidSeriesKey as `of` does, and for a syntax error or a label given twice.
        """
        if len(text) > MAX_KEY_CHARACTERS:
            raise InvalidSeriesKey(f"series key is longer than {MAX_KEY_CHARACTERS} characters: {text[:60]}...")
        metric, brace, rest = text.partition("{")
        if not brace:
            return cls.of(metric)
        if not rest.endswith("}"):
            raise InvalidSeriesKey(f"series key {text!r} does not end with a closing brace")
        body = rest[:-1]
        labels: dict[str, str] = {}
        position = 0
        while position < len(body):
            match = _LABEL.match(body, position)
            if match is None:
                raise InvalidSeriesKey(f'series key {text!r}: expected NAME="VALUE" at {body[position:]!r}')
            name, escaped = match.groups()
            if name in labels:
                raise InvalidSeriesKey(f"series key {text!r} gives label {name!r} twice")
            labels[name] = _ESCAPED.sub(_unescape, escaped)
            position = match.end()
        return cls.of(metric, labels)


def _unescape(match: re.Match[str]) -> str:
    character = match[1]
    return "\n" if character == "n" else character
