"""Sections of a configuration, which are described by their annotations and made from values as they are written.

An annotation is `str`, `int`, `float`, `bool`, `Path`, a `Literal`, another section, `Any`, `tuple[X, ...]`,
`dict[str, X]`, or one of these `| None`. `Annotated` adds to it, in this order of their effect: `From`, which makes
something else of what is written; then what the type asks for; then rules: `Bounds`, or a function that answers with
the value to take and raises `Unfit` for one that can't serve.

Not pydantic: docs/decisions/0016-configuration-of-the-edge-without-pydantic.md says what that would cost a device.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin

from msgspec import Struct
from msgspec.structs import fields

from edge_agent import scalar
from edge_agent.config_source import KeyPath, Source, did_you_mean, dotted
from edge_agent.errors import ConfigError
from edge_agent.scalar import Unfit

S = TypeVar("S", bound="Section")
N = TypeVar("N", int, float)

_SCALARS: Final[dict[Any, Callable[[Any], Any]]] = {
    str: scalar.text,
    int: scalar.whole,
    float: scalar.number,
    bool: scalar.truth,
    Path: scalar.path,
    Any: lambda given: given,
}
_LONGEST_SHOWN: Final = 80  # a line of a terminal


@dataclass(frozen=True)
class From:
    """Makes of what is written what the type asks for, or raises Unfit."""

    converted: Callable[[Any], Any]


@dataclass(frozen=True)
class Bounds:
    """Of a number; both bounds belong to it, but for `above`."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None

    def __call__(self, number: N) -> N:
        """The number, if it is within."""
        if self.at_least is not None and number < self.at_least:
            raise Unfit(f"must be at least {self.at_least}")
        if self.above is not None and number <= self.above:
            raise Unfit(f"must be greater than {self.above}")
        if self.at_most is not None and number > self.at_most:
            raise Unfit(f"must be at most {self.at_most}")
        return number


class Section(Struct, frozen=True):
    """A section: named values, each with a default or required.

    A constructor trusts its caller; what comes from outside is for `of`.
    """

    # Null stands for the default of its key, unless a section says that it is a value.
    null_is_a_value: ClassVar[bool] = False

    @classmethod
    def of(cls, values: Any, source: Source | None = None) -> Self:
        """The section that these values describe; a source tells where each of them is written.

        Raises ConfigError with one line for each problem.
        """
        try:
            return _section(cls, values, ())
        except _Refused as refused:
            said = [_sentence(problem, source or Source()) for problem in refused.problems]
            # Not chained: what led to it repeats values, and one of them may be a secret in the wrong place.
            raise ConfigError("\n".join(said)) from None

    def contradictions(self) -> Iterator[str]:
        """What is wrong with values that are right each by itself, as what follows the name of the section."""
        yield from ()


def plain(value: Any, others: Callable[[Any], Any] = str) -> Any:
    """A section as what `of` makes it from; by default also what JSON and YAML have no name for is text there."""
    match value:
        case Section():
            return {name: plain(getattr(value, name), others) for name in value.__struct_fields__}
        case dict():
            return {key: plain(inner, others) for key, inner in value.items()}
        case str() | int() | float() | None:
            return value
    return [plain(inner, others) for inner in value] if type(value) in {tuple, list} else others(value)


def leaves(section: type[Section], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every key that is not a section, with its type."""
    for known in fields(section):
        inner = section_in(known.type)
        if inner is None:
            yield (*path, known.name), _bare(known.type)
        else:
            yield from leaves(inner, (*path, known.name))


def section_in(hint: Any, *, inside_lists: bool = False) -> type[Section] | None:
    """The section that a key of this type holds, if it holds one."""
    hint = _bare(hint)
    if get_origin(hint) is tuple and not inside_lists:
        return None
    candidates = (hint, *get_args(hint))
    return next((it for it in candidates if isinstance(it, type) and issubclass(it, Section)), None)


class _Problem(NamedTuple):
    path: KeyPath
    what: str  # what follows the name of the key
    given: Any = None
    shown: bool = False


class _Refused(Exception):
    def __init__(self, problems: list[_Problem]) -> None:
        super().__init__()
        self.problems = problems


class _Reader:
    """Values read so far, and what is wrong with the others."""

    def __init__(self) -> None:
        self.problems: list[_Problem] = []

    def read(self, hint: Any, given: Any, path: KeyPath) -> Any:
        """The value of this type; where it can't serve that is noted, and None stands in for it."""
        try:
            return _value(hint, given, path)
        except _Refused as refused:
            self.problems += refused.problems
            return None

    def complain(self, path: KeyPath, what: str) -> None:
        """Note what is wrong; the value is not shown."""
        self.problems.append(_Problem(path, what))

    def end(self) -> None:
        """Raises what was noted."""
        if self.problems:
            raise _Refused(self.problems)


def _value(hint: Any, given: Any, path: KeyPath) -> Any:
    """What is given at this path, as a value of this type; raises _Refused."""
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    value = given
    try:
        for extra in extras:
            if isinstance(extra, From):
                value = extra.converted(value)
        value = _typed(kind, value, path)
        for extra in extras:
            if not isinstance(extra, From):
                value = extra(value)
    except Unfit as unfit:
        raise _Refused([_Problem(path, unfit.what, given, unfit.shown)]) from None
    return value


def _typed(kind: Any, given: Any, path: KeyPath) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _SCALARS:
        return _SCALARS[kind](given)
    if origin in {Union, UnionType}:
        (other_than_null,) = (hint for hint in inner if hint is not type(None))
        return None if given is None else _value(other_than_null, given, path)
    if origin is Literal:
        return scalar.one_of(inner, given)
    if origin is tuple:
        return _list(inner[0], given, path)
    if origin is dict:
        return _names(inner, given, path)
    return _section(kind, given, path) if issubclass(kind, Section) else given


def _list(inner: Any, given: Any, path: KeyPath) -> tuple[Any, ...]:
    if not isinstance(given, list | tuple):
        raise Unfit("must be a list like [a, b]")
    reader = _Reader()
    values = tuple(reader.read(inner, one, (*path, index)) for index, one in enumerate(given))
    reader.end()
    return values


def _names(inner: tuple[Any, ...], given: Any, path: KeyPath) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Unfit("must be names with values, like {a: b}")
    reader = _Reader()
    name, held = inner
    values = {
        reader.read(name, key, (*path, str(key))): reader.read(held, value, (*path, str(key)))
        for key, value in given.items()
    }
    reader.end()
    return values


def _section(section: type[S], given: Any, path: KeyPath) -> S:
    reader = _Reader()
    if not isinstance(given, dict):
        # Not shown: what stands where a section belongs may be anything, a URL with a password too.
        reader.complain(path, "must be a section: keys and values below it")
        reader.end()
    known = {field.name: field for field in fields(section)}
    values: dict[str, Any] = {}
    for name, field in known.items():
        value = given.get(name)
        if name in given and (value is not None or section.null_is_a_value):
            values[name] = reader.read(field.type, value, (*path, name))
        elif field.required:
            reader.complain((*path, name), "is required")
    for key in given:
        if key not in known:
            reader.complain((*path, str(key)), f"is not a known key{did_you_mean(str(key), known)}")
    reader.end()
    made = section(**values)
    for what in made.contradictions():
        reader.complain(path, what)
    reader.end()
    return made


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _sentence(problem: _Problem, source: Source) -> str:
    """One line for a person: key, what would be right, what was given, where."""
    got = f", got {_shown(problem.given)}" if problem.shown else ""
    return f"{dotted(problem.path) or 'the configuration'} {problem.what}{got}{source.where(problem.path)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict | list | tuple) and value:
        return "a section" if isinstance(value, dict) else "a list"
    text = re.sub(r"//[^/@\s]*@", "//***@", repr(value))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
