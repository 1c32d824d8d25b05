"""What ticks have in common that travel in one message, and how the outbox's file says it."""

from typing import Final, Self

import msgspec

from edge_agent.reading import Reading

UNSYNCHRONISED: Final = "unsynchronised"


class Layout(msgspec.Struct, frozen=True):
    """The series keys, in the order of the values, and what is to be said of the times; None where they are true."""

    keys: tuple[str, ...]
    clock: str | None = None

    @classmethod
    def of(cls, reading: Reading) -> Self:
        """That of the reading's tick."""
        return cls(tuple(reading.values), None if reading.synchronised else UNSYNCHRONISED)

    @classmethod
    def read(cls, text: str) -> Self:
        """What `text` wrote; raises msgspec.MsgspecError where that is something else."""
        if text.startswith("["):
            return cls(msgspec.json.decode(text, type=tuple[str, ...]))
        return msgspec.json.decode(text, type=cls)

    def text(self) -> str:
        """As JSON: a list of the keys; where there is more to say, an object."""
        return msgspec.json.encode(self.keys if self.clock is None else self).decode()
