"""The seam to whatever delivers messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cloud_ingest.message import Message


@dataclass(frozen=True, slots=True)
class Received:
    """A message and what its acknowledgement needs: `token` means something to the source alone."""

    message: Message
    token: object


class Source(Protocol):
    """Messages that stay the broker's until they are acknowledged.

    Used by one thread. A message that was received and not acknowledged may come again, also with its connection
    still up; an acknowledgement whose connection is gone has no effect, and never one on another message.
    """

    def start(self) -> None:
        """Connects and subscribes, and keeps trying to, in the background; returns at once."""

    def receive(self, max_messages: int, timeout: float) -> list[Received]:
        """Messages in the order of arrival; waits up to `timeout` seconds for the first one, then takes what is there.

        Empty when none came. Never raises for a connection that is away: that only means no messages.
        """

    def acknowledge(self, received: Sequence[Received]) -> None:
        """Lets the broker forget the messages: they are the database's now. In the order they were received."""

    def publish(self, topic: str, payload: bytes, content_type: str) -> None:
        """Sends at most once (QoS 0); dropped where there is no connection."""

    def leave(self, timeout: float) -> None:
        """Unsubscribes, so that no more messages come; those that came are still to be received and acknowledged.

        Returns once the broker confirmed it, or after `timeout` seconds.
        """

    def close(self) -> None:
        """Sends the acknowledgements that wait and disconnects."""
