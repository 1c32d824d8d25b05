"""Desired configuration: the part of an agent's configuration that the cloud may set.

It is a whitelist: nothing here can change where an agent connects, which programs it runs or which files it reads. A
field that is not of it is refused and not ignored, because a configuration that is applied in part would be reported
as if it were whole.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from telemetry_contract.errors import InvalidSeriesKey, MalformedPayload
from telemetry_contract.payload import Sequence
from telemetry_contract.series import LABEL_PATTERN, SeriesKey

MIN_INTERVAL_SECONDS: Final = 0.05
MAX_INTERVAL_SECONDS: Final = 86_400
MAX_LABELS: Final = 16
MAX_LABEL_CHARACTERS: Final = 128
MAX_COLLECTORS: Final = 256

# A section of the configuration, or `exec.boiler` where a section holds several that have names.
COLLECTOR_PATTERN: Final = r"[a-z][a-z0-9_]{0,31}(\.[A-Za-z0-9_.-]{1,64})?"
_COLLECTOR: Final = re.compile(COLLECTOR_PATTERN)
_WHERE: Final = re.compile(r"(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)


class DesiredSampling(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, frozen=True):
    """What holds for every collector that does not say otherwise."""

    interval_seconds: float | None = None


class DesiredCollector(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, frozen=True):
    """What may be set of a collector."""

    enabled: bool | None = None
    interval_seconds: float | None = None


class DesiredSettings(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, frozen=True):
    """What the cloud wants; what it does not name (or null) is as the device's own configuration has it.

    `labels`, where they are given, are all constant labels of the device: its own ones are replaced.
    """

    sampling: DesiredSampling | None = None
    collectors: dict[str, DesiredCollector] | None = None
    labels: dict[str, str] | None = None


class DesiredConfig(DesiredSettings, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, frozen=True):
    """The payload of `config`, retained. `version` tells it from other ones; a later one has a higher number.

    An empty payload stands for none: the device's own configuration is to hold alone.
    """

    v: int
    version: Sequence


class DesiredVersion(Struct):
    """As much of a desired configuration as tells which one it is, whatever else is wrong with it."""

    version: Sequence


def settings_of(document: Any) -> DesiredSettings:
    """The settings in a decoded JSON document.

    Raises MalformedPayload, which names the key.
    """
    try:
        settings = msgspec.convert(document, DesiredSettings)
    except msgspec.ValidationError as exc:
        raise MalformedPayload(described(exc)) from exc
    check(settings)
    return settings


def check(settings: DesiredSettings) -> None:
    """Returns where the values are in their bounds.

    Raises MalformedPayload with a sentence for the first that is not.
    """
    for problem in _problems(settings):
        raise MalformedPayload(problem)


def described(exc: msgspec.ValidationError) -> str:
    """What msgspec says, with the key first: `sampling.interval_seconds must be float, got str`."""
    match = _WHERE.fullmatch(str(exc))
    assert match is not None  # noqa: S101 - it matches every text
    path = (match["path"] or "").replace("[...]", ".*")
    unknown = _UNKNOWN.fullmatch(match["what"])
    if unknown is not None:
        return f"{path}.{unknown['name']} is not a key that may be set".removeprefix(".")
    what = match["what"].replace("`", "").replace("Expected ", "must be ")
    return f"{path} {what}" if path else what


def _problems(settings: DesiredSettings) -> Iterator[str]:
    if settings.sampling is not None:
        yield from _interval_problems("sampling", settings.sampling.interval_seconds)
    collectors = settings.collectors or {}
    if len(collectors) > MAX_COLLECTORS:
        yield f"collectors must name at most {MAX_COLLECTORS}, got {len(collectors)}"
    for name, collector in collectors.items():
        if _COLLECTOR.fullmatch(name) is None:
            yield f"collectors.{name[:80]} is not the name of a collector"
        yield from _interval_problems(f"collectors.{name}", collector.interval_seconds)
    labels = settings.labels or {}
    if len(labels) > MAX_LABELS:
        yield f"labels must be at most {MAX_LABELS}, got {len(labels)}"
    for name, value in labels.items():
        if (problem := label_problem(name, value)) is not None:
            yield f"labels.{name[:80]} {problem}"


def _interval_problems(section: str, seconds: float | None) -> Iterator[str]:
    if seconds is None:
        return
    if not seconds >= MIN_INTERVAL_SECONDS:
        yield f"{section}.interval_seconds must be at least {MIN_INTERVAL_SECONDS}, got {seconds!r}"
    if seconds > MAX_INTERVAL_SECONDS:
        yield f"{section}.interval_seconds must be at most {MAX_INTERVAL_SECONDS}, got {seconds!r}"


def label_problem(name: str, value: str) -> str | None:
    """What is wrong with a constant label, as the rest of a sentence; None where it can be one."""
    if re.fullmatch(LABEL_PATTERN, name) is None:
        return f"is not the name of a label, which must match {LABEL_PATTERN}"
    if not 1 <= len(value) <= MAX_LABEL_CHARACTERS or not value.isprintable():
        return f"must be 1 to {MAX_LABEL_CHARACTERS} printable characters"
    try:
        SeriesKey.of("x", {name: value})
    except InvalidSeriesKey as exc:
        return f"can't be a label: {exc}"
    return None
