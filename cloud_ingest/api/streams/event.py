"""One event as it goes over the wire (WHATWG HTML, section 9.2, "Server-sent events")."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from cloud_ingest.store.feed import Position


@dataclass(frozen=True)
class Event:
    """Something that happened; `content` becomes JSON."""

    position: Position
    kind: str
    content: dict[str, Any]

    @cached_property
    def encoded(self) -> bytes:
        """The event with its id, made once for all clients."""
        data = msgspec.json.encode(self.content)  # which holds no line break
        return b"id: %s\nevent: %s\ndata: %s\n\n" % (str(self.position).encode(), self.kind.encode(), data)
