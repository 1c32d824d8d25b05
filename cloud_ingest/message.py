"""A message as it came off the wire, before anyone has looked inside."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One published message.

    `content_type` is MQTT 5's; None where there was none. `retained` where it was kept by the broker since some
    earlier time, and came because somebody subscribed. `source` names the configured source that it came from; None for
    an agent of ours. `received_ms` is when it came; None where nobody noted it.
    """

    topic: str
    payload: bytes
    content_type: str | None = None
    retained: bool = False
    source: str | None = None
    received_ms: int | None = None
