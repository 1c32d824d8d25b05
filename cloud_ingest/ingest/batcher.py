"""When a batch is full: by ticks, by messages, or by the age of its first message."""

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

    def add(self, received: Received, content: Sequence[Block] | Rejection) -> None:
        """Takes in a message as it was decoded."""
        self.received.append(received)
        if isinstance(content, Rejection):
            self.rejections.append(content)
        else:
            self.blocks.extend(content)
            self.ticks += sum(len(block.seqs) for block in content)


@dataclass(frozen=True, slots=True)
class Cut:
    """The bounds of a batch.

    `max_messages` is what the broker sends without an acknowledgement: once a batch holds as many, waiting for more
    would wait for nothing.
    """

    max_ticks: int
    max_messages: int
    max_age_seconds: float

    def is_full(self, batch: Batch) -> bool:
        """Whether the batch should be written now, whatever its age."""
        return batch.ticks >= self.max_ticks or len(batch.received) >= self.max_messages

    def wait_seconds(self, batch: Batch, started: float, now: float) -> float:
        """How long to wait for another message before the batch is written; 0 once it is due.

        `started` is when its first message came. An empty batch is never due.
        """
        if self.is_full(batch):
            return 0.0
        return max(0.0, self.max_age_seconds - (now - started)) if batch.received else self.max_age_seconds
