"""The seam between formats and the rest: what a message says, in readings."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from cloud_ingest.message import Message


class Reading(NamedTuple):
    """Values of one device at one time. `keys` are series keys, `values` may hold NaN for none.

    `time_ms` is None where the publisher gave no time: then it is that of arrival. `publisher` is who must speak for
    the device: the source, and where that alone does not tell who it is, more.
    """

    publisher: str
    site: str
    device: str
    time_ms: int | None
    keys: tuple[str, ...]
    values: tuple[float, ...]


class Problem(NamedTuple):
    """Why a message, or a part of it, can't be used. `reason` is a short stable word."""

    reason: str
    detail: str


@dataclass(slots=True)
class Interpretation:
    """What was understood of a message, and what was not. `texts`: how many values are text, which is never stored."""

    readings: list[Reading] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    texts: int = 0


class Interpreter(Protocol):
    """Understands the messages of one source. Used by one thread, in the order of arrival."""

    def interpret(self, message: Message, data: bytes, now_ms: int) -> Interpretation:
        """What the message says, `data` being its payload. Never raises, whatever the bytes."""
