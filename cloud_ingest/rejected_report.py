"""Rejected messages as text for a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cloud_ingest.replay import Replayed
from cloud_ingest.store.rejected import RejectedRow
from cloud_ingest.terminal import columns, printable
from telemetry_contract import compression
from telemetry_contract.errors import PayloadError

_MAX_DETAIL_CHARACTERS: Final = 60
_MAX_SHOWN_BYTES: Final = 64 * 1024
_HEXADECIMAL_BYTES: Final = 512


def table(rows: Sequence[RejectedRow]) -> str:
    """One line a message, the newest first."""
    if not rows:
        return "no rejected messages"
    heads = ("number", "last received", "times", "bytes", "reason", "topic", "detail")
    lines = [
        (
            str(row.rejected_id),
            f"{row.last_received_at:%Y-%m-%d %H:%M:%SZ}",
            str(row.received_count),
            str(row.payload_bytes),
            printable(row.reason),
            printable(row.topic),
            _shortened(printable(row.detail)),
        )
        for row in rows
    ]
    return columns([heads, *lines])


def details(row: RejectedRow) -> str:
    """Everything about one message, its payload uncompressed."""
    facts = {
        "number": str(row.rejected_id),
        "topic": printable(row.topic),
        "device": printable(row.device or "unknown"),
        "source": printable(row.source or "agents"),
        "content type": printable(row.content_type or "none"),
        "reason": printable(row.reason),
        "detail": printable(row.detail),
        "first received": f"{row.first_received_at:%Y-%m-%d %H:%M:%SZ}",
        "last received": f"{row.last_received_at:%Y-%m-%d %H:%M:%SZ}",
        "times": str(row.received_count),
        "bytes": str(row.payload_bytes)
        + ("" if len(row.payload) == row.payload_bytes else f" ({len(row.payload)} kept)"),
    }
    width = max(map(len, facts)) + 1
    head = "\n".join(f"{name + ':':<{width}} {text}" for name, text in facts.items())
    return f"{head}\n\n{_payload(row.payload)}"


@dataclass(slots=True)
class ReplayTotal:
    """What became of all messages; `str()` is a line for people."""

    dry_run: bool
    messages: int = 0
    stored_ticks: int = 0
    duplicate_ticks: int = 0
    rejected: int = 0
    gone: int = 0

    def add(self, replayed: Replayed) -> None:
        """One more."""
        self.messages += 1
        self.stored_ticks += replayed.stored_ticks
        self.duplicate_ticks += replayed.duplicate_ticks
        self.rejected += replayed.problem is not None
        self.gone += replayed.is_gone

    def __str__(self) -> str:
        if self.dry_run:
            return (
                f"{self.messages} messages: {self.stored_ticks} readings would be tried;"
                f" {self.rejected} messages would be rejected again, at least in part"
            )
        gone = f"; {self.gone} messages were gone" if self.gone else ""
        return (
            f"{self.messages} messages: {self.stored_ticks} readings stored, {self.duplicate_ticks} were there already;"
            f" {self.rejected} messages rejected again, at least in part{gone}"
        )


def _payload(payload: bytes) -> str:
    try:
        data = compression.decompress(payload, max_bytes=_MAX_SHOWN_BYTES * 256)
    except PayloadError:
        data = payload
    try:
        text = printable(data.decode())
    except UnicodeDecodeError:
        return data[:_HEXADECIMAL_BYTES].hex(" ") + (" ..." if len(data) > _HEXADECIMAL_BYTES else "")
    return text if len(text) <= _MAX_SHOWN_BYTES else f"{text[:_MAX_SHOWN_BYTES]} ..."


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_DETAIL_CHARACTERS else f"{text[: _MAX_DETAIL_CHARACTERS - 3]}..."
