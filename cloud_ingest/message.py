"""A message as it came off the wire, before anyone has looked inside."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One published message. `content_type` is MQTT 5's; None where there was none."""

    topic: str
    payload: bytes
    content_type: str | None = None
