"""Messages to receivers as text for a terminal."""

from collections.abc import Sequence
from typing import Final

from cloud_ingest.store.deliveries import DeliveryRow
from cloud_ingest.terminal import columns, printable

_MAX_ERROR_CHARACTERS: Final = 80


def table(rows: Sequence[DeliveryRow]) -> str:
    """One line a message, the newest first."""
    if not rows:
        return "no messages"
    heads = ("number", "receiver", "state", "made", "due or done", "attempts", "changes", "id", "last error")
    lines = [
        (
            str(row.number),
            row.receiver,
            row.state,
            f"{row.created_at:%Y-%m-%d %H:%M:%SZ}",
            f"{row.done_at or row.due_at:%Y-%m-%d %H:%M:%SZ}",
            str(row.attempts),
            str(row.changes),
            str(row.delivery_id),
            _shortened(printable(row.last_error or "")),
        )
        for row in rows
    ]
    return columns([heads, *lines])


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_ERROR_CHARACTERS else f"{text[: _MAX_ERROR_CHARACTERS - 3]}..."
