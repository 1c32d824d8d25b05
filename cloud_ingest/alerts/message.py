"""The text of an alert, from a template that people write: names in braces, and nothing that a template could run."""

import re
from collections.abc import Mapping
from string import Formatter
from typing import Final

FIELDS: Final = ("threshold", "severity", "device", "site", "location", "metric", "labels", "value", "level", "unit")
DEFAULT_TEMPLATE: Final = "{device}: {metric}{labels} is {value} {unit} ({severity}, {threshold})"

_NUMBERS: Final = frozenset({"value", "level"})
_FORMAT = re.compile(r"\.\d{1,2}f")


def problem_of(template: str) -> str | None:
    """What is wrong with a template, for the one who wrote it; None where nothing is."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as exc:
        return f"is not a template: {exc}; write {{{{ for a brace"
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if name not in FIELDS:
            return f"knows no {{{name}}}; there are {', '.join(FIELDS)}"
        if conversion:
            return f"must not convert {{{name}}}"
        if form and (name not in _NUMBERS or _FORMAT.fullmatch(form) is None):
            return f"can't write {{{name}:{form}}}; value and level take a number of digits, as in {{value:.1f}}"
    return None


def render(template: str, fields: Mapping[str, str | float]) -> str:
    """The text of a template that has no problem. `fields` holds all of FIELDS; values are inserted as they are."""
    parts = []
    for literal, name, form, _ in Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            field = fields[name]
            parts.append(format(field, form or "g") if isinstance(field, float) else str(field))
    return "".join(parts)
