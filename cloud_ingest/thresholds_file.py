"""A file of thresholds, and the difference that applying it makes, for people."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.errors import ConfigError
from cloud_ingest.store.thresholds import Change


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    thresholds: list[Definition]


def load(file: Path) -> list[Definition]:
    """The thresholds of a YAML file, below the key `thresholds`.

    Raises ConfigError with one line for each problem.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{file}: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file} is not YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must hold a list below the key thresholds")
    try:
        definitions = _File.model_validate(content).thresholds
    except ValidationError as exc:
        raise ConfigError("\n".join(_problem(file, error, content) for error in exc.errors())) from None
    names = [it.name for it in definitions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{file}: given twice: {', '.join(twice)}")
    return definitions


def difference(changes: Iterable[Change]) -> list[str]:
    """One line for each threshold that is made (+), changed (~) or deleted (-), with what changes."""
    return [_line(change) for change in changes]


def _line(change: Change) -> str:
    before, after = (None if it is None else _flat(it.model_dump(mode="json")) for it in (change.before, change.after))
    if change.after is not None and before is None:
        return f"+ {change.after.name}"
    if change.before is not None and after is None:
        return f"- {change.before.name}"
    before, after = before or {}, after or {}
    changed = [
        f"{key} {_text(before.get(key))} -> {_text(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    return f"~ {after['name']}: {', '.join(changed)}"


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _text(value: object) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _problem(file: Path, error: Any, content: dict[str, Any]) -> str:
    """One line: the file, the threshold by its name where it has one, the key, and what would be right."""
    parts = [str(part) for part in error["loc"]]
    where = ".".join(parts)
    if len(parts) > 1 and parts[0] == "thresholds":
        item = content["thresholds"][int(parts[1])]
        name = item.get("name") if isinstance(item, dict) else None
        where = " ".join([f"threshold {name or int(parts[1]) + 1}", ".".join(parts[2:])]).rstrip()
    message = (
        "is not known" if error["type"] == "extra_forbidden" else error["msg"].replace("Input should be", "must be")
    )
    return f"{file}: {where}: {message}"
