"""Rejected messages once more through the decoder and the transaction of today."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cloud_ingest.errors import DataRejected, MessageGone, StoreUnavailable
from cloud_ingest.ingest.pipeline import Decoder
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.rejected import RejectedRow, Rejection

_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one message. `problem` says why it, or a part of it, is still rejected; None where nothing is.

    With a dry run `stored_ticks` are those that would be tried.
    """

    number: int
    stored_ticks: int = 0
    duplicate_ticks: int = 0
    problem: str | None = None
    is_gone: bool = False


class Replay:
    """Replays messages one by one, each in a transaction of its own: stopped anywhere, it can be begun again.

    `decode` is by the source of a message, None for our own agents.
    """

    def __init__(self, writer: BatchWriter, decode: Mapping[str | None, Decoder]) -> None:
        self._writer = writer
        self._decode = decode

    def one(self, row: RejectedRow, *, dry_run: bool = False) -> Replayed:
        """Stores what of the message can be stored now.

        Raises StoreUnavailable where the database is away for more than a moment.
        """
        message = row.message
        if message is None:
            return Replayed(row.rejected_id, problem=f"only its first {len(row.payload)} bytes were kept")
        decode = self._decode.get(row.source)
        if decode is None:
            return Replayed(row.rejected_id, problem=f"the configuration has no source {row.source}")
        content = decode(message, time.time_ns() // 1_000_000)
        parts: Sequence[Block | Rejection] = [content] if isinstance(content, Rejection) else content
        if not parts:
            return Replayed(row.rejected_id, problem="by itself, long after it came, it says nothing")
        blocks = [part for part in parts if isinstance(part, Block)]
        rejections = [part for part in parts if isinstance(part, Rejection)]
        if dry_run:
            refused = [*rejections, *(it.rejection for it in blocks if it.rejection is not None)]
            ticks = sum(len(block.seqs) for block in blocks if block.rejection is None)
            return Replayed(row.rejected_id, ticks, problem=_problem(refused))
        return self._stored(row.rejected_id, blocks, rejections)

    def _stored(self, number: int, blocks: list[Block], rejections: list[Rejection]) -> Replayed:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                outcome = self._writer.replay(number, blocks, rejections)
            except MessageGone:
                return Replayed(number, is_gone=True)
            except DataRejected as exc:
                blocks = [it if it.rejection else it.refused("refused_by_database", str(exc)) for it in blocks]
            except StoreUnavailable:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                return Replayed(
                    number, outcome.stored_ticks, outcome.duplicate_ticks, problem=_problem(outcome.rejections)
                )
        return Replayed(number, problem="the database refuses even to keep it")


def _problem(rejections: Sequence[Rejection]) -> str | None:
    return f"{rejections[0].reason}: {rejections[0].detail}" if rejections else None
