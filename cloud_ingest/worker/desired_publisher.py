"""Publishes what is wanted of devices' configurations: what changes, soon; all of it, to each broker it meets anew.

So a broker that forgot its retained messages is told again, and nothing has to remember what was published. Every
worker does the same, which does no harm. What still goes wrong, as when a worker that lags behind publishes an earlier
version last, a device's next status shows.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from cloud_ingest.store.database import Connection
from cloud_ingest.store.desired import Wanted, wanted_of, wanted_since
from telemetry_contract.codec import CONTENT_TYPE, encode
from telemetry_contract.desired import DesiredConfig
from telemetry_contract.payload import VERSION, DesiredState
from telemetry_contract.topics import Kind, Topic

_LOOK_SECONDS: Final = 0.5

Publish = Callable[[str, bytes, str], None]


class DesiredPublisher:
    """For one thread, but `begin_anew`."""

    def __init__(self, publish: Publish) -> None:
        """`publish` is given topic, payload and content type of what is to be retained; it may drop it."""
        self._publish = publish
        self._published = 0
        self._look_due = 0.0
        self._anew = threading.Event()

    def begin_anew(self) -> None:
        """Publish all again: the broker may be one that knows nothing. From any thread."""
        self._anew.set()

    def work(self, connection: Connection) -> None:
        """Publishes what has changed, where it did not look just before.

        Raises StoreUnavailable, and then goes on where it was.
        """
        now = time.monotonic()
        if self._anew.is_set():
            self._anew.clear()
            self._published = 0
        elif now < self._look_due:
            return
        self._look_due = now + _LOOK_SECONDS
        for wanted in wanted_since(connection, self._published):
            self._send(wanted)
            self._published = wanted.version

    def answer(self, connection: Connection, device: str, reported: DesiredState | None) -> None:
        """To a status: publishes what is wanted of the device where it does not know that.

        Raises StoreUnavailable.
        """
        wanted = wanted_of(connection, device)
        if wanted is not None and is_unknown(wanted, reported):
            self._send(wanted)

    def _send(self, wanted: Wanted) -> None:
        self._publish(str(Topic(wanted.site, wanted.device, Kind.CONFIG)), payload(wanted), CONTENT_TYPE)


def is_unknown(wanted: Wanted, reported: DesiredState | None) -> bool:
    """Whether a device that reports this has not heard of what is wanted."""
    if wanted.settings is None:
        return reported is not None
    return reported is None or reported.version != wanted.version


def payload(wanted: Wanted) -> bytes:
    """What goes to the device."""
    if wanted.settings is None:
        return b""
    document = {**wanted.settings, "v": VERSION, "version": wanted.version}
    return encode(msgspec.convert(document, DesiredConfig)).payload
