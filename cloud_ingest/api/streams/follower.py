"""Reads a feed for all clients of the process that follow it.

Clients have no queues. The newest events are kept once for all, and each client knows how far it has come: one that
falls behind what is kept reads from the database itself. So however many there are and however slow, memory is bounded.
"""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from operator import attrgetter
from typing import Final

from cloud_ingest.api.streams.event import Event
from cloud_ingest.api.streams.feeds import Feed
from cloud_ingest.errors import StoreError
from cloud_ingest.store.feed import Position, is_ahead, present
from cloud_ingest.store.pool import ReadPool

_AWAY_SECONDS: Final = 1.0  # between two tries while the database is away
_READERS: Final = 2  # clients that read from the database at once, of all connections of the pool
_position = attrgetter("position")


class Follower:
    """One feed. Everything here belongs to the event loop's thread; only the database is asked from others."""

    def __init__(self, feed: Feed, pool: ReadPool) -> None:
        self._feed = feed
        self._pool = pool
        self._clients = 0
        self._task: asyncio.Task[None] | None = None
        # All events behind `_floor` and up to the last one kept are in `_kept`. Without a floor nothing is known yet.
        self._floor: Position | None = None
        self._kept: deque[Event] = deque()
        self._changed = asyncio.Event()  # set, and replaced by another, whenever there is something new
        self._readers = asyncio.Semaphore(_READERS)
        self.closed = False

    async def start(self, after: Position | None) -> tuple[Position, bool]:
        """Where a client begins that has come to `after`, and whether that had to be given up for the present.

        Raises StoreError.
        """
        return await asyncio.to_thread(self._start, after)

    @contextmanager
    def following(self) -> Iterator[None]:
        """The feed is read for as long as anyone is in here."""
        self._clients += 1
        if self._task is None:
            self._task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            self._clients -= 1

    async def after(self, position: Position, wait_seconds: float) -> tuple[list[Event], Position]:
        """What is behind a position, and the position to go on from; nothing after so long, and where it is closed."""
        changed = self._changed
        if self._floor is not None and position >= self._floor:
            start = bisect_right(self._kept, position, key=_position)
            if start < len(self._kept) or self.closed:
                events = list(islice(self._kept, start, start + self._feed.page))
                return events, events[-1].position if events else position
        elif self._floor is not None and not self.closed:
            return await self._from_database(position, self._floor)
        with suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), 0 if self.closed else wait_seconds)
        return [], position

    def close(self) -> None:
        """Ends the reading, and lets all who wait go."""
        self.closed = True
        self._notify()

    async def _from_database(self, position: Position, floor: Position) -> tuple[list[Event], Position]:
        try:
            async with self._readers:
                events = await asyncio.to_thread(self._read, position)
        except StoreError:
            await self._sleep(_AWAY_SECONDS)
            return [], position
        last = events[-1].position if events else position
        # A page that is not full holds all there was, and so all up to the floor, which is older
        return events, last if len(events) == self._feed.page else max(last, floor)

    async def _follow(self) -> None:
        try:
            while self._clients and not self.closed:
                await self._look()
        finally:
            self._task = None
            self._floor = None
            self._kept.clear()

    async def _look(self) -> None:
        try:
            if self._floor is None:
                self._floor, _ = await self.start(None)
                self._notify()
            events = await asyncio.to_thread(self._read, self._kept[-1].position if self._kept else self._floor)
        except StoreError:  # which the pool has logged
            await self._sleep(_AWAY_SECONDS)
            return
        for event in events:
            if len(self._kept) == self._feed.kept:
                self._floor = self._kept.popleft().position
            self._kept.append(event)
        if events:
            self._notify()
        if len(events) < self._feed.page:
            await self._sleep(self._feed.interval_seconds)

    async def _sleep(self, seconds: float) -> None:
        """At most so long; nobody sleeps once it is closed."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not self.closed and (left := deadline - asyncio.get_running_loop().time()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _start(self, after: Position | None) -> tuple[Position, bool]:
        with self._pool.connection() as connection:
            if after is not None and not is_ahead(connection, after):
                return after, False
            return present(connection), after is not None

    def _read(self, after: Position) -> list[Event]:
        with self._pool.connection() as connection:
            return self._feed.read(connection, after)
