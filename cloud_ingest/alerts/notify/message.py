"""One message made of several changes: a group, or a digest of what a limit held back."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from cloud_ingest.alerts.notify.change import Change
from cloud_ingest.alerts.notify.notification import Kind, Notification

# So many are told one by one; a receiver that wants all of them asks the API.
_SHOWN: Final = 100
# The kind of a group: the worst news that it has.
_NEWS: Final = (Kind.ESCALATED, Kind.FIRING, Kind.OFFLINE, Kind.UNKNOWN, Kind.RESOLVED, Kind.ONLINE, Kind.DIGEST)


def message_of(id_: UUID, changes: Sequence[Change], *, digest: bool) -> Notification:
    """The message that tells all of these, of which there is at least one."""
    if len(changes) == 1 and not digest:
        return changes[0].notification(id_)
    kinds = Counter(it.kind for it in changes)
    counts = ", ".join(f"{kinds[kind]} {kind.value}" for kind in Kind if kinds[kind])
    about = [common for name in ("threshold", "site") if (common := _common(changes, name)) is not None]
    kind = Kind.DIGEST if digest else next(it for it in _NEWS if kinds[it])
    head = "digest" if digest else _severity(changes) or kind.value
    lines = [it.text.partition("\n")[0] for it in changes[:_SHOWN]]
    if len(changes) > _SHOWN:
        lines.append(f"and {len(changes) - _SHOWN} more")
    details: dict[str, Any] = {
        "count": len(changes),
        "kinds": {kind.value: number for kind, number in kinds.items()},
        "changes": [it.notification(id_).document() | {"id": str(it.number)} for it in changes[:_SHOWN]],
    }
    return Notification(
        id=id_,
        kind=kind,
        at=max(it.at for it in changes),
        title=f"[{head}] {' at '.join(about) or 'alerts'}: {counts}",
        text="\n".join(lines),
        details=details,
    )


def _common(changes: Sequence[Change], name: str) -> str | None:
    """What all of them have, if they have the same."""
    values = {getattr(it, name) for it in changes}
    return values.pop() if len(values) == 1 else None


def _severity(changes: Sequence[Change]) -> str | None:
    """The worst of what is not over; None where that has none."""
    severities = {it.severity for it in changes if it.kind is not Kind.RESOLVED}
    return next((it for it in ("critical", "warning") if it in severities), None)
