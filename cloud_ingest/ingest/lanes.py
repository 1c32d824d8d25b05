"""Two connections, so that the present does not queue behind the past.

A broker hands a connection its messages in the order in which they came. Hundreds of devices that come back from an
outage put millions of readings into that queue within seconds, and what is measured now would wait behind them for a
minute. So the backlog has a connection of its own, of which only few messages are taken at a time.
"""

import threading
from collections.abc import Sequence
from itertools import count
from typing import Final

from cloud_ingest.config import Config
from cloud_ingest.ingest.link_report import LinkReport
from cloud_ingest.ingest.mqtt5_source import Mqtt5Source, address
from cloud_ingest.ingest.source import Received
from telemetry_contract.topics import Kind

# Backlog messages taken at a time: about a third of a batch, as agents make them (100 ticks). What is live and arrives
# meanwhile waits for no more than these.
_BACKLOG_MESSAGES: Final = 16


class Lanes:
    """A source of live messages first, and of backlog for the rest of the time."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError where a password or certificate file can't be read."""
        self._arrival = threading.Event()
        connections = count(1)
        report = LinkReport(address(config), connections=2)
        self._live = Mqtt5Source(
            config, [Kind.SAMPLES], connections=connections, announce=self._arrival.set, report=report
        )
        self._backlog = Mqtt5Source(
            config,
            [Kind.BACKLOG],
            receive_maximum=min(config.ingest.receive_maximum, config.ingest.backlog_receive_maximum),
            connections=connections,
            announce=self._arrival.set,
            report=report,
        )

    @property
    def is_connected(self) -> bool:
        """Whether both are subscribed now."""
        return self._live.is_connected and self._backlog.is_connected

    def start(self) -> None:
        """See Source."""
        self._live.start()
        self._backlog.start()

    def receive(self, max_messages: int, timeout: float) -> list[Received]:
        """See Source; in the order of arrival within each lane, and the live lane first."""
        self._arrival.clear()  # before looking: what comes after the look sets it again
        received = self._take(max_messages)
        if not received and self._arrival.wait(max(timeout, 0.0)):
            received = self._take(max_messages)
        return received

    def acknowledge(self, received: Sequence[Received]) -> None:
        """See Source. Each acknowledges what is its own."""
        self._live.acknowledge(received)
        self._backlog.acknowledge(received)

    def publish(self, topic: str, payload: bytes, content_type: str) -> None:
        """See Source."""
        self._live.publish(topic, payload, content_type)

    def leave(self, timeout: float) -> None:
        """See Source."""
        self._backlog.leave(timeout)
        self._live.leave(timeout)

    def close(self) -> None:
        """See Source."""
        self._backlog.close()
        self._live.close()

    def _take(self, max_messages: int) -> list[Received]:
        received = self._live.receive(max_messages, 0.0)
        room = min(max_messages - len(received), _BACKLOG_MESSAGES)
        return received + self._backlog.receive(room, 0.0) if room else received
