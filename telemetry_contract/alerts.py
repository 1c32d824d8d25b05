"""What is published, retained, of a device's open alerts: one message for each rule, empty once none is open."""

from msgspec import Struct

from telemetry_contract.errors import InvalidTopic
from telemetry_contract.topics import PREFIX, is_identifier

FILTER = f"{PREFIX}/+/+/alerts/+"


class OpenAlert(Struct, kw_only=True, frozen=True):
    """One series of the device, in Prometheus notation; `since` is the first sample beyond the level, in ms."""

    series: str
    severity: str
    state: str
    since: int


class RuleAlerts(Struct, kw_only=True, frozen=True):
    """All that one rule (a threshold, by its name) has open for a device; `severity` and `since` are of the worst."""

    v: int
    rule: str
    severity: str
    since: int
    alerts: list[OpenAlert]


def alert_topic(site: str, device: str, rule: str) -> str:
    """Where it is published. Raises InvalidTopic for names that can't be part of a topic."""
    if not is_identifier(site) or not is_identifier(device) or not rule or any(it in rule for it in "/+#\0"):
        raise InvalidTopic(f"site {site!r}, device {device!r} and rule {rule!r} make no topic")
    return f"{PREFIX}/{site}/{device}/alerts/{rule}"
