r"""A `.env` file: variables for the configuration beside it, where the environment does not set them.

A line is `NAME=value`, `NAME='as it stands'` or `NAME="with \n, \" and \\"`; `export ` before it, blank lines and
lines that begin with `#` are skipped, and so is ` # text` after a value. Nothing is expanded in it.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"

_LINE: Final = re.compile(rf"(?:export\s+)?({NAME})\s*=\s*(.*)")
_SINGLE: Final = re.compile(r"'([^']*)'")
_DOUBLE: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_AFTER: Final = re.compile(r"\s*(?:#.*)?")
_COMMENT: Final = re.compile(r"(?:^|\s+)#.*")
_ESCAPED: Final = re.compile(r"\\(.)")
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}


@dataclass
class DotEnv:
    """The variables, where each was said, and what could not be read."""

    values: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read(path: Path) -> DotEnv:
    """What the file says; nothing where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return DotEnv()
    except OSError as exc:
        return DotEnv(problems=[f"can't read {path}: {exc.strerror or exc}"])
    except UnicodeDecodeError as exc:
        return DotEnv(problems=[f"{path} is not UTF-8 text: byte {exc.start} is {exc.reason}"])
    return parse(text, str(path))


def parse(text: str, file: str) -> DotEnv:
    """The variables of a text; of one that is set twice the later. Messages never show a value: it may be a secret."""
    found = DotEnv()
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{file} line {number}"
        match = _LINE.fullmatch(line)
        if match is None:
            found.problems.append(f"{where}: must be NAME=value, with a name of A-Z a-z 0-9 _")
            continue
        value = _value(match[2])
        if value is None or "\0" in value:
            found.problems.append(f"{where}: the value of {match[1]} must end with the quote that it begins with")
            continue
        found.values[match[1]] = value
        found.origins[match[1]] = where
    return found


def _value(written: str) -> str | None:
    """The value; None where a quote has no end, or where something follows it."""
    if written[:1] not in {"'", '"'}:
        return _COMMENT.sub("", written)
    quoted = (_SINGLE if written[0] == "'" else _DOUBLE).match(written)
    if quoted is None or _AFTER.fullmatch(written, quoted.end()) is None:
        return None
    return quoted[1] if written[0] == "'" else _ESCAPED.sub(lambda it: _ESCAPES.get(it[1], it[1]), quoted[1])
