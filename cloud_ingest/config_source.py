"""Where configuration comes from: a YAML file with `CLOUD_INGEST_*` variables laid over it.

Each value remembers its origin, so that a message can say which line or variable to change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cloud_ingest.errors import ConfigError

PREFIX = "CLOUD_INGEST_"
FILE_VARIABLE = "CLOUD_INGEST_CONFIG"

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """Nested values as written, not yet validated, and where each came from."""

    values: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str | None:
        """Where the value at `path`, or the nearest section around it that was written, came from."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return None


def read(file: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of `file`, or else of the file that CLOUD_INGEST_CONFIG names, under those of the environment.

    `CLOUD_INGEST_BROKER__HOST` is `broker.host`. A variable's value is text; `null` means null, and an empty variable
    counts as not set. Raises ConfigError where the file can't be read, is not YAML, or gives a key twice.
    """
    named = environ.get(FILE_VARIABLE)
    if file is None and named:
        file = Path(named)
    settings = Settings({}) if file is None else _read_file(file)
    for name in sorted(environ):
        if name.startswith(PREFIX) and name != FILE_VARIABLE and environ[name] != "":
            _overlay(settings, name, environ[name])
    return settings


def variable(path: KeyPath) -> str:
    """The environment variable that sets `path`."""
    return PREFIX + "__".join(path).upper()


def _overlay(settings: Settings, name: str, text: str) -> None:
    path = tuple(name.removeprefix(PREFIX).lower().split("__"))
    section = settings.values
    for part in path[:-1]:
        inner = section.get(part)
        if not isinstance(inner, dict):
            inner = section[part] = {}
        section = inner
    section[path[-1]] = None if text == "null" else text
    settings.origins[path] = name


def _read_file(file: Path) -> Settings:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot read the configuration file {file}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"the configuration file {file} is not UTF-8 text: {exc.reason}") from exc
    try:
        return _parse(text, file)
    except yaml.MarkedYAMLError as exc:
        line = "" if exc.problem_mark is None else f" line {exc.problem_mark.line + 1}"
        raise ConfigError(f"{file}{line}: not valid YAML: {exc.problem}") from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise ConfigError(f"{file}: not valid YAML: {exc}") from exc


def _parse(text: str, file: Path) -> Settings:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return Settings({})
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{file} line {root.start_mark.line + 1}: expected `key: value` lines")
        origins: dict[KeyPath, str] = {}
        _note_origins(root, (), file, origins, set())
        return Settings(loader.construct_document(root), origins)
    finally:
        loader.dispose()  # type: ignore[no-untyped-call,unused-ignore]


def _note_origins(node: yaml.Node, path: KeyPath, file: Path, origins: dict[KeyPath, str], open_: set[int]) -> None:
    """Record the line of each key below `node`; `open_` are the nodes around it, which an alias may lead back to."""
    if not isinstance(node, yaml.MappingNode) or id(node) in open_:
        return
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        line = key_node.start_mark.line + 1
        if key in seen:
            dotted = ".".join((*path, key))
            raise ConfigError(f"{dotted} is given twice ({file} line {seen[key]} and line {line})")
        seen[key] = line
        origins[*path, key] = f"{file} line {line}"
        _note_origins(value_node, (*path, key), file, origins, open_ | {id(node)})
