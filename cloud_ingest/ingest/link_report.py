"""What people are told of the connections to the broker: one line a change of state, however many there are."""

import logging
import threading
from typing import Final

log: Final = logging.getLogger(__name__)


class LinkReport:
    """Says once that all `connections` are subscribed, and once that one of them is not. From any thread."""

    def __init__(self, address: str, connections: int = 1) -> None:
        self._address = address
        self._connections = connections
        self._lock = threading.Lock()
        self._up: set[object] = set()
        self._complained = False

    def up(self, connection: object) -> None:
        """It is subscribed."""
        with self._lock:
            self._up.add(connection)
            if len(self._up) == self._connections:
                self._complained = False
                log.info("connected to the broker at %s", self._address)

    def down(self, connection: object, why: str) -> None:
        """It is not, or still not."""
        with self._lock:
            self._up.discard(connection)
            if not self._complained:
                self._complained = True
                log.warning("no broker at %s: %s; trying again", self._address, why)
