"""Where configuration comes from: a YAML file with `EDGE_AGENT_*` variables laid over it.

Variables are those of the environment and, below them, of the file `.env` beside the configuration. Each value
remembers its origin, so that a message can name the line or the variable to change.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edge_agent import dotenv
from edge_agent.errors import ConfigError
from edge_agent.expansion import expand

PREFIX = "EDGE_AGENT_"
FILE_VARIABLE = "EDGE_AGENT_CONFIG"

KeyPath = tuple[str | int, ...]


@dataclass
class Source:
    """Nested values as written, not yet validated, where each came from, and what could not be read."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def where(self, path: KeyPath) -> str:
        """` (edge.yaml line 12)` for the value at `path` or the nearest section around it; else ""."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return f" ({self.origins[path[:length]]})"
        return ""


def dotted(path: KeyPath) -> str:
    """A path as a person writes it: `collectors.exec[0].command`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def parsed(text: str) -> KeyPath:
    """The path that `dotted` writes so."""
    parts = re.findall(r"\[(\d+)\]|([^.\[]+)", text)
    return tuple(int(index) if index else name for index, name in parts)


def variable(path: KeyPath) -> str:
    """The environment variable that sets the key at `path`."""
    return PREFIX + "__".join(str(part).upper() for part in path)


def read(
    file: Path | None, environment: Mapping[str, str], known: Iterable[KeyPath], structured: Mapping[KeyPath, str]
) -> Source:
    """The values of a YAML file (None: nothing) and of the variables over it, see `overlay`."""
    if file is None:
        source = Source()
        overlay(source, environment, known, structured)
        return source
    beside = dotenv.read(file.with_name(".env"))
    variables = {**beside.values, **environment}
    source = read_file(file, variables)
    source.problems += beside.problems
    if FILE_VARIABLE in beside.values:
        source.problems.append(f"{FILE_VARIABLE} can't be set here ({beside.origins[FILE_VARIABLE]})")
    origins = {name: where for name, where in beside.origins.items() if name not in environment}
    overlay(source, variables, known, structured, origins)
    return source


def read_file(path: Path, variables: Mapping[str, str]) -> Source:
    """The values of a YAML file, with `${NAME}` in them replaced by the variables.

    What is wrong with the file, a key given twice included, is in `problems`.
    """
    source = Source()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        source.problems.append(f"can't read the configuration file {path}: {exc.strerror or exc}")
        return source
    except UnicodeDecodeError as exc:
        source.problems.append(f"the configuration file {path} is not UTF-8 text: byte {exc.start} is {exc.reason}")
        return source
    try:
        _YamlReader(source, str(path), variables).read(text)
    except yaml.MarkedYAMLError as exc:
        line, hint = "", ""
        if exc.problem_mark is not None:
            line = f" line {exc.problem_mark.line + 1}"
            if "${" in "".join(text.split("\n")[exc.problem_mark.line : exc.problem_mark.line + 1]):
                hint = " (within { } or [ ] a value with ${NAME} needs quotes)"
        source.problems.append(f"{path}{line}: not valid YAML: {exc.problem or exc.context}{hint}")
    except (yaml.YAMLError, RecursionError) as exc:
        source.problems.append(f"{path}: not valid YAML: {exc}")
    return source


def overlay(
    source: Source,
    environment: Mapping[str, str],
    known: Iterable[KeyPath],
    structured: Mapping[KeyPath, str],
    origins: Mapping[str, str] | None = None,
) -> None:
    """Lay `EDGE_AGENT_*` variables over `source`; each must set one of the `known` paths.

    A value is text as it stands, but for `structured` paths, which are written in YAML's flow style: `[a, b]`; each of
    these comes with what it must be. An empty variable counts as not set, and `null` means null. `origins` says where
    variables come from that are not of the environment.
    """
    origins = origins or {}
    names = {variable(path): path for path in known}
    for name in sorted(environment):
        text = environment[name]
        if not name.startswith(PREFIX) or name == FILE_VARIABLE or text == "":
            continue
        path = names.get(name)
        if path is None:
            # Their common beginning would make all of them look alike.
            where = f" ({origins[name]})" if name in origins else ""
            close = did_you_mean(name.removeprefix(PREFIX), [it.removeprefix(PREFIX) for it in names], before=PREFIX)
            source.problems.append(f"{name} is not a known variable{close}{where}")
            continue
        origin = f"{name}, {origins[name]}" if name in origins else name
        value: Any = None if text == "null" else text
        if path in structured:
            try:
                value = yaml.safe_load(text)
            except (yaml.YAMLError, ValueError, RecursionError):
                source.problems.append(f"{dotted(path)} must be {structured[path]} ({origin})")
                continue
        if _put(source.values, path, value):
            source.origins = {at: said for at, said in source.origins.items() if at[: len(path)] != path}
            source.origins[path] = origin


def did_you_mean(wrong: str, known: Iterable[str], before: str = "") -> str:
    """`; did you mean X?` with `before` written before X, where one of the known names is close, else "".

    The search is imported here because a correct configuration never needs it.
    """
    from difflib import get_close_matches  # noqa: PLC0415

    close = get_close_matches(wrong, list(known), n=1)
    return f"; did you mean {before}{close[0]}?" if close else ""


def _put(values: dict[str, Any], path: KeyPath, value: Any) -> bool:
    """Set `value` at `path`; False where the file has something there that is not a section, which is then reported."""
    for part in path[:-1]:
        inner = values.get(str(part))
        if inner is None:
            inner = values[str(part)] = {}
        if not isinstance(inner, dict):
            return False
        values = inner
    values[str(path[-1])] = value
    return True


class _YamlReader:
    """Fills a source from the nodes of one document. Keys are taken as text: `on` is a name here, not a truth value."""

    def __init__(self, source: Source, file: str, variables: Mapping[str, str]) -> None:
        self._source = source
        self._file = file
        self._variables = variables
        self._open: set[int] = set()  # the nodes around the present one, which an alias may lead back to

    def read(self, text: str) -> None:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            if root is None or root.tag == "tag:yaml.org,2002:null":
                return
            if not isinstance(root, yaml.MappingNode):
                self._complain("the file must hold `key: value` lines", root)
                return
            self._source.values = self._mapping(loader, root, ())
        finally:
            loader.dispose()  # type: ignore[no-untyped-call,unused-ignore]

    def _value(self, loader: yaml.SafeLoader, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.ScalarNode):
            try:
                value = loader.construct_object(node)  # type: ignore[no-untyped-call,unused-ignore]
                return self._expanded(value, node, path) if isinstance(value, str) else value
            except (yaml.YAMLError, ValueError) as exc:
                problem = exc.problem if isinstance(exc, yaml.MarkedYAMLError) else exc
                self._complain(f"{dotted(path)} can't be read: {problem}", node)
                return None
        if id(node) in self._open:
            self._complain(f"{dotted(path)} contains itself", node)
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(loader, node, path)
            return [self._noted(loader, child, (*path, index)) for index, child in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def _expanded(self, text: str, node: yaml.Node, path: KeyPath) -> str | None:
        """The text with variables in place; null where nothing is left of it, so that the default holds."""
        try:
            expanded = expand(text, self._variables)
        except ConfigError as exc:
            self._complain(f"{dotted(path)} {exc}", node)
            return None
        return expanded if expanded or not text else None

    def _mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._complain(f"{dotted(path) or 'the file'} has a key that is not a word", key_node)
                continue
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in values:
                both = f"{self._file} lines {lines[key]} and {line}"
                self._source.problems.append(f"{dotted((*path, key))} is given twice ({both})")
                continue
            lines[key] = line
            self._source.origins[*path, key] = f"{self._file} line {line}"
            values[key] = self._value(loader, value_node, (*path, key))
        return values

    def _noted(self, loader: yaml.SafeLoader, node: yaml.Node, path: KeyPath) -> Any:
        self._source.origins[path] = f"{self._file} line {node.start_mark.line + 1}"
        return self._value(loader, node, path)

    def _complain(self, what: str, node: yaml.Node) -> None:
        self._source.problems.append(f"{what} ({self._file} line {node.start_mark.line + 1})")
