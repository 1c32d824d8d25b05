"""Who a message is from, by the rule of its source."""

from telemetry_contract.topics import IDENTIFIER_PATTERN, is_identifier


class NoIdentity(ValueError):
    """The rule does not lead to a device that can have this name."""


def topic_level(topic: str, level: int) -> str:
    """The level of a topic, the first being 1. Raises NoIdentity where there are not so many."""
    levels = topic.split("/")
    if level > len(levels):
        raise NoIdentity(f"topic {topic!r} has no level {level} to tell the device")
    return levels[level - 1]


def device_of(text: object, origin: str) -> str:
    """`text`, found at `origin`, as a device id. Raises NoIdentity."""
    if not isinstance(text, str) or not is_identifier(text):
        raise NoIdentity(f"{origin} is {text!r:.80}, which does not match {IDENTIFIER_PATTERN} as a device must")
    return text
