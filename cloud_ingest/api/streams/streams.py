"""All streams of a process: how many there may be, and how they end."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from cloud_ingest.api.streams.feeds import AlertFeed, LiveFeed
from cloud_ingest.api.streams.follower import Follower
from cloud_ingest.store.pool import ReadPool


class Streams:
    """The feeds, and their clients' number. Belongs to the event loop's thread."""

    def __init__(self, pool: ReadPool, *, limit: int, raw_kept: timedelta) -> None:
        self.alerts = Follower(AlertFeed(), pool)
        self.live = Follower(LiveFeed(raw_kept), pool)
        self.limit = limit
        self.count = 0

    @property
    def closed(self) -> bool:
        """Whether the process is about to stop."""
        return self.alerts.closed

    @property
    def is_full(self) -> bool:
        """Whether no more can be opened."""
        return self.count >= self.limit

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Counts a stream while it is open."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1

    def close(self) -> None:
        """Ends all streams as if nothing more happened; their clients come again, to whoever serves then."""
        self.alerts.close()
        self.live.close()
