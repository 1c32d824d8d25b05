"""Log lines that say the same again and again, as when a link is down for days: a few of them, and how many more."""

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_agent.budget import Budget

AT_ONCE: Final = 5
PER_SECOND: Final = AT_ONCE / 600
MAX_KINDS: Final = 500

_NUMBER: Final = re.compile(r"\d+")


@dataclass
class _Kind:
    budget: Budget
    left_out: int = 0


class Repetition:
    """Says which lines to leave out. Lines are of one kind when they differ in numbers only. For one thread at a time.

    Of each kind some pass at once, then as many in ten minutes; DEBUG and CRITICAL pass always.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: OrderedDict[tuple[str, str], _Kind] = OrderedDict()

    def left_out_before(self, record: logging.LogRecord) -> int | None:
        """How many lines of its kind were left out since the last that passed; None: leave this one out as well."""
        if record.levelno <= logging.DEBUG or record.levelno >= logging.CRITICAL:
            return 0
        kind = self._kind(record.name, _NUMBER.sub("0", record.getMessage()))
        if not kind.budget.spend(1):
            kind.left_out += 1
            return None
        left_out, kind.left_out = kind.left_out, 0
        return left_out

    def left_out(self) -> int:
        """How many lines were left out that no later line has told of; asked once, at the end."""
        return sum(kind.left_out for kind in self._kinds.values())

    def _kind(self, logger: str, said: str) -> _Kind:
        key = (logger, said)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(Budget(AT_ONCE, PER_SECOND, clock=self._clock))
            if len(self._kinds) > MAX_KINDS:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(key)
        return kind
