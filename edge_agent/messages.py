"""Ticks of the outbox -> payloads of the wire."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from edge_agent.outbox import StoredTick, unpack
from telemetry_contract.codec import Encoded, encode
from telemetry_contract.payload import VERSION, Backlog, Gone, Tick

# Live ticks stay readable with any MQTT client unless they are large.
LIVE_COMPRESS_ABOVE: Final = 16_384
BACKLOG_COMPRESS_ABOVE: Final = 1_024

# The longest that JSON can make of them, each with its comma: a float64; a sequence number with a time in milliseconds
# and the range of what is gone below it.
_VALUE_BYTES: Final = 25
_SEQ_AND_TIME_BYTES: Final = 36 + 42
_ENVELOPE_BYTES: Final = 256
_KEY_EXTRA_BYTES: Final = 6


def live(
    stream: UUID,
    low: int,
    tick: StoredTick,
    keys: Sequence[str],
    gone: Gone | None = None,
    *,
    clock: str | None = None,
) -> Encoded:
    """The message of one tick."""
    values: dict[str, float | None] = dict(zip(keys, unpack(tick.data), strict=True))
    message = Tick(v=VERSION, stream=stream, seq=tick.seq, low=low, t=tick.t_ms, values=values, gone=gone, clock=clock)
    return encode(message, compress_above=LIVE_COMPRESS_ABOVE)


def backlog(
    stream: UUID,
    low: int,
    ticks: Sequence[StoredTick],
    keys: Sequence[str],
    gone: Gone | None = None,
    *,
    clock: str | None = None,
) -> Encoded:
    """The message of many ticks, all of the layout that has these keys."""
    width = len(keys)
    flat = unpack(b"".join(tick.data for tick in ticks))
    message = Backlog(
        v=VERSION,
        stream=stream,
        low=low,
        seq=[tick.seq for tick in ticks],
        t=[tick.t_ms for tick in ticks],
        values={key: list(flat[position::width]) for position, key in enumerate(keys)},
        gone=gone,
        clock=clock,
    )
    return encode(message, compress_above=BACKLOG_COMPRESS_ABOVE)


def fitting(keys: Sequence[str], max_bytes: int) -> int:
    """How many ticks with these keys certainly fit into a message of so many bytes; at least 1."""
    fixed = _ENVELOPE_BYTES + sum(
        len(key.encode()) + key.count('"') + key.count("\\") + _KEY_EXTRA_BYTES for key in keys
    )
    each = _SEQ_AND_TIME_BYTES + _VALUE_BYTES * len(keys)
    return max(1, (max_bytes - fixed) // each)
