"""MQTT topics of which some levels are labels: `zigbee2mqtt/{sensor}/state`."""

import re
from typing import NamedTuple, Self

from telemetry_contract.series import LABEL_PATTERN

_LABEL = re.compile(rf"\{{({LABEL_PATTERN})\}}")
_MAX_BYTES = 65_535  # MQTT 5, section 1.5.4


class TopicPattern(NamedTuple):
    """A topic filter (MQTT 5, section 4.7) with `{label}` where a level becomes a label, else `+` for any level."""

    levels: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, whose message goes on after "must"."""
        levels = tuple(text.split("/"))
        if not text or "\0" in text or len(text.encode(errors="replace")) > _MAX_BYTES:
            raise ValueError("be a topic like sensors/+/temperature")
        labels: set[str] = set()
        for position, level in enumerate(levels):
            match = _LABEL.fullmatch(level)
            if match is not None:
                if match[1] in labels:
                    raise ValueError(f"name each label once: {match[1]} is repeated")
                labels.add(match[1])
            elif set(level) & set("{}"):
                raise ValueError(f"have {{label}} as a whole level, with a name of A-Z a-z 0-9 _, not {level}")
            elif ("+" in level and level != "+") or ("#" in level and (level != "#" or position != len(levels) - 1)):
                raise ValueError("have + as a whole level, and # as the last one alone")
        return cls(levels)

    @property
    def filter(self) -> str:
        """What to subscribe to."""
        return "/".join("+" if _LABEL.fullmatch(level) else level for level in self.levels)

    def labels(self, topic: str) -> dict[str, str] | None:
        """The labels that a topic gives; None where it does not match."""
        given = topic.split("/")
        open_end = self.levels[-1] == "#"
        fixed = self.levels[:-1] if open_end else self.levels
        if len(given) < len(fixed) or (len(given) > len(fixed) and not open_end):
            return None
        if topic.startswith("$") and (not fixed or fixed[0] == "+" or _LABEL.fullmatch(fixed[0])):
            return None  # section 4.7.2
        found: dict[str, str] = {}
        for wanted, level in zip(fixed, given, strict=False):
            match = _LABEL.fullmatch(wanted)
            if match is not None:
                found[match[1]] = level
            elif wanted not in {"+", level}:
                return None
        return found
