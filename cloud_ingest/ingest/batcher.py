"""When a batch is full: by ticks, by messages, by bytes, or by the age of its first message."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cloud_ingest.ingest.source import Received
from cloud_ingest.store.batch import Block
from cloud_ingest.store.rejected import Rejection


@dataclass(slots=True)
class Batch:
    """Messages that will be committed and acknowledged together, in the order of receipt."""

    received: list[Received] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    ticks: int = 0
    bytes: int = 0

    def add(self, received: Received, content: Sequence[Block | Rejection] | Rejection) -> None:
        """Takes in a message as it was decoded."""
        self.received.append(received)
        self.bytes += len(received.message.payload)
        if isinstance(content, Rejection):
            self.rejections.append(content)
        else:
            for part in content:
                if isinstance(part, Rejection):
                    self.rejections.append(part)
                else:
                    self.blocks.append(part)
                    self.ticks += len(part.seqs)


@dataclass(frozen=True, slots=True)
class Cut:
    """The bounds of a batch.

    `max_messages` is at most half of what the broker sends without an acknowledgement, so that the next batch arrives
    while one is committed. `max_bytes` is of payloads: what bounds memory when messages are large.
    """

    max_ticks: int
    max_messages: int
    max_bytes: int
    max_age_seconds: float

    def is_full(self, batch: Batch) -> bool:
        """Whether the batch should be written now, whatever its age."""
        return (
            batch.ticks >= self.max_ticks or len(batch.received) >= self.max_messages or batch.bytes >= self.max_bytes
        )
