"""The seam between what measures and what schedules."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

from telemetry_contract.series import SeriesKey

# A key may have 1,024 characters in all; mount points of containers are the longest labels there are.
_MAX_LABEL_CHARACTERS = 240
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Collector(Protocol):
    """Something that measures.

    `collect` answers with series keys (as `series` writes them) and their values; None, NaN and infinities mean "no
    value", an empty answer means "nothing to report", which is no error. The keys should be the same each time, as
    the store keeps one layout for each set of keys.

    It is called from a thread that is not the one that built it, always the same where it is alone in its group, and
    never again before it has returned; it may take as long as it needs, but is left out of the ticks that it is late
    for. It may raise CollectorError to say why it can't measure; whatever it raises costs its own values of this tick
    and nothing else.
    """

    def collect(self) -> Mapping[str, float | None]:
        """Measure now."""
        ...


@runtime_checkable
class Closeable(Protocol):
    """A collector that holds something which must not outlive the agent."""

    def close(self) -> None:
        """Let go of it; called once, from any thread, also while `collect` is running, which should then end soon."""
        ...


@dataclass(frozen=True)
class Member:
    """A collector and the name that the configuration, logs and metrics give it."""

    name: str
    collector: Collector


@dataclass(frozen=True)
class Group:
    """Collectors that run together and whose values make one tick.

    A member that has not returned `deadline_seconds` after the start is left out of the tick. A deadline longer than
    the interval costs ticks while a member is slow.
    """

    interval_seconds: float
    deadline_seconds: float
    members: tuple[Member, ...]


@lru_cache(maxsize=4096)
def series(metric: str, **labels: str) -> str:
    """The key of a series, as `spelled`; the last few thousand are remembered."""
    return spelled(metric, labels)


def spelled(metric: str, labels: Mapping[str, str]) -> str:
    """The key of a series, whatever the machine calls its parts: what a label can't hold is replaced or cut off."""
    safe = {name: _UNPRINTABLE.sub("?", value)[:_MAX_LABEL_CHARACTERS] for name, value in labels.items()}
    return str(SeriesKey.of(metric, safe))
