"""The connections that readings are written with: few, made when needed, each used by one request at a time."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

from cloud_ingest.config import Config
from cloud_ingest.errors import StoreUnavailable
from cloud_ingest.store.batch import BatchWriter
from cloud_ingest.writer import writer_of

MAX_WRITERS: Final = 4
WAIT_SECONDS: Final = 5.0


class Writers:
    """`writer()` may be called from any thread between entering and leaving."""

    def __init__(self, config: Config) -> None:
        self._idle: queue.LifoQueue[BatchWriter] = queue.LifoQueue()
        self._all = [writer_of(config) for _ in range(MAX_WRITERS)]

    def __enter__(self) -> Self:
        for writer in self._all:
            self._idle.put(writer)
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._all:
            writer.close()

    @contextmanager
    def writer(self) -> Iterator[BatchWriter]:
        """A writer of one's own. Raises StoreUnavailable where all are busy for WAIT_SECONDS."""
        try:
            writer = self._idle.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            raise StoreUnavailable(f"{MAX_WRITERS} other requests are being written") from None
        try:
            yield writer
        finally:
            self._idle.put(writer)
