"""Which receivers are told of a change, and what goes into one message."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cloud_ingest.alerts.notify.change import Change
from cloud_ingest.alerts.notify.notification import Kind
from cloud_ingest.alerts.notify.settings import Match, Receiver
from cloud_ingest.alerts.precedence import glob

# Numbers rise with the severity; what has none, as a digest of the past, is of interest to all.
_SEVERITIES: Final = {"warning": 1, "critical": 2}


@dataclass(frozen=True, slots=True)
class Route:
    """One receiver is told of one change; together with what has the same key, alone where that is None."""

    receiver: str
    number: int
    group_key: str | None


def routes(
    receivers: Mapping[str, Receiver], changes: Sequence[Change], told: Collection[tuple[str, int]]
) -> list[Route]:
    """Who is told of these changes, in their order.

    An end is told to those alone who were told of the episode: `told` has receiver and number of the alert, and what
    stands earlier in `changes` counts too.
    """
    known = set(told)
    found = []
    for change in changes:
        for name, receiver in receivers.items():
            if not matches(receiver.match, change):
                continue
            if change.alert_id is not None:
                if change.kind is Kind.RESOLVED and (name, change.alert_id) not in known:
                    continue
                known.add((name, change.alert_id))
            found.append(Route(name, change.number, group_key(receiver.group_by, change)))
    return found


def matches(match: Match, change: Change) -> bool:
    """Whether a receiver wants to know of it. A pattern never fits what is not there."""
    severity = _SEVERITIES.get(change.severity or "", _SEVERITIES["critical"])
    patterns = (
        (match.site, change.site),
        (match.device, change.device),
        (match.location, change.location),
        (match.metric, change.metric),
        (match.threshold, change.threshold),
    )
    return severity >= _SEVERITIES[match.min_severity] and all(
        pattern is None or (value is not None and glob(pattern).fullmatch(value) is not None)
        for pattern, value in patterns
    )


def group_key(group_by: Sequence[str] | None, change: Change) -> str | None:
    """The same for changes that go into one message."""
    if group_by is None:
        return None
    return json.dumps([getattr(change, name) for name in group_by], ensure_ascii=False)
