"""Topics of the wire contract: `telemetry/v1/{site}/{device}/{kind}`."""

import re
from enum import StrEnum
from typing import NamedTuple, Self

from telemetry_contract.errors import InvalidTopic

PREFIX = "telemetry/v1"

# Sites and device ids; the characters that mean something in a topic (`/`, `+`, `#`, `$`) are not among them.
IDENTIFIER_PATTERN = r"[A-Za-z0-9_.-]{1,64}"
_IDENTIFIER = re.compile(IDENTIFIER_PATTERN)


class Kind(StrEnum):
    """The last level of a device's topic: what the message is."""

    SAMPLES = "samples"
    BACKLOG = "backlog"
    STATUS = "status"
    ACK = "ack"
    CONFIG = "config"


class Topic(NamedTuple):
    """One topic of a device. `str(topic)` is what goes to the broker."""

    site: str
    device: str
    kind: Kind

    def __str__(self) -> str:
        return f"{PREFIX}/{self.site}/{self.device}/{self.kind}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The parts of a concrete topic.

        Raises InvalidTopic where it is not of the contract.
        """
        parts = text.split("/")
        if len(parts) != 5 or parts[0] != "telemetry" or parts[1] != "v1":  # noqa: PLR2004 - the levels of PREFIX/site/device/kind
            raise InvalidTopic(f"topic {text!r} is not {PREFIX}/SITE/DEVICE/KIND")
        _, _, site, device, kind = parts
        if not is_identifier(site) or not is_identifier(device):
            raise InvalidTopic(f"topic {text!r}: site and device must match {IDENTIFIER_PATTERN}")
        try:
            return cls(site, device, Kind(kind))
        except ValueError as exc:
            raise InvalidTopic(f"topic {text!r}: {kind!r} is not one of {', '.join(Kind)}") from exc


def is_identifier(text: str) -> bool:
    """Whether `text` can name a site or a device."""
    return _IDENTIFIER.fullmatch(text) is not None


def topic_filter(kind: Kind, *, group: str | None = None) -> str:
    """The filter that matches this kind of topic of every device.

    With `group` it is a shared subscription (MQTT 5, section 4.8.2): the broker gives each message to one member.
    """
    plain = f"{PREFIX}/+/+/{kind}"
    return plain if group is None else f"$share/{group}/{plain}"
