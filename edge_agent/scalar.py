"""Single values of the configuration, as YAML or the environment gives them, made what a key needs.

The environment knows text alone, so a number or a truth value may be written as text; text is never made of anything
else, because who writes `device: 2024-01-01` means something else than what YAML makes of it.
"""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_TRUE: Final = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE: Final = frozenset({"false", "f", "no", "n", "off", "0"})


class Unfit(Exception):
    """A value can't serve; `what` says what would be right, as what follows the name of its key."""

    def __init__(self, what: str, *, shown: bool = True) -> None:
        """`shown` is whether a message may repeat the value: one in the wrong place can be a secret."""
        super().__init__(what)
        self.what = what
        self.shown = shown


def text(given: Any) -> str:
    """Text as it is."""
    if not isinstance(given, str):
        raise Unfit("must be text (in quotes where it looks like a number or a date)")
    return given


def number(given: Any) -> float:
    """A finite number; YAML's `on` and `yes`, which Python counts as 1, are none."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise Unfit("must be a number")
    try:
        read = float(given)
    except ValueError:
        raise Unfit("must be a number") from None
    except OverflowError:
        read = math.inf
    if not math.isfinite(read):
        raise Unfit("must be a finite number")
    return read


def whole(given: Any) -> int:
    """A whole number, also one that is written as 5.0."""
    if isinstance(given, bool):
        raise Unfit("must be a number")
    if isinstance(given, int):
        return given
    if isinstance(given, str):
        with suppress(ValueError):  # not by way of a float, which is not exact above 2**53
            return int(given)
    try:
        read = number(given)
    except Unfit:
        read = math.nan
    if not read.is_integer():
        raise Unfit("must be a whole number")
    return int(read)


def truth(given: Any) -> bool:
    """True or false in the words of YAML."""
    word = str(given).lower() if isinstance(given, int | str) else ""
    if word not in _TRUE | _FALSE:
        raise Unfit("must be true or false")
    return word in _TRUE


def path(given: Any) -> Path:
    """Where a file may be."""
    if not isinstance(given, str | Path) or given == "" or "\0" in str(given):
        raise Unfit("must be the path of a file")
    return Path(given)


def one_of(options: tuple[Any, ...], given: Any) -> Any:
    """The option that is given, in its own type: 1 is not true."""
    if not any(given == option and type(given) is type(option) for option in options):
        *others, last = map(repr, options)
        raise Unfit(f"must be {', '.join(others)} or {last}" if others else f"must be {last}")
    return given
