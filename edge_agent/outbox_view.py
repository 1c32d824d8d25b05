"""An outbox as people look into it: read only, whether an agent holds it at that time or not.

Beside a running agent this is a second connection to a file in WAL mode. It never writes, so it never checkpoints, and
the driver's SQLite is free of the defect that two connections could meet (docs/decisions/0008). It reads in short
steps, so that the agent's log does not grow meanwhile.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

import apsw
import msgspec

from edge_agent.errors import OutboxCorrupt, OutboxError
from edge_agent.layout import Layout
from edge_agent.outbox import unpack
from edge_agent.outbox_file import SCHEMA_VERSION, check_identity, is_held, translated
from telemetry_contract.payload import VERSION, Tick

_STEP: Final = 256
_WHO: Final = "try it as root or as the user of the agent"


class Contents(msgspec.Struct, kw_only=True):
    """What an outbox holds and what its stream had to give up; numbers and times as on the wire.

    `in_use`: an agent holds it; what that has in memory only is not counted. `next_seq`: no tick after a restart gets a
    lower number. `lost`: inclusive ranges of numbers that may have been used by ticks that went with the memory of an
    agent that was killed. `waiting` readings have no number yet: it is not known when they were taken.
    """

    path: str
    in_use: bool
    stream: UUID
    depth: int
    waiting: int
    bytes: int
    low: int | None
    next_seq: int
    oldest_time: int | None
    newest_time: int | None
    thinned: int
    dropped: int
    lost: list[tuple[int, int]]


class OutboxView:
    """The outbox at `path`. Raises OutboxError where it can't be read, OutboxCorrupt where it is damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_to_read(path)
        try:
            require_version(path, self._db)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def contents(self) -> Contents:
        """What it holds now."""
        with self._snapshot():
            stream, offset, depth, depth_seq, thinned, dropped, last = self._row(
                "select stream, sequence_offset, depth, depth_seq, thinned, dropped,"
                " (select seq from sqlite_sequence where name = 'tick') from outbox"
            )
            oldest = self._rows("select seq, t from tick order by seq limit 1")
            newest = self._rows("select t from tick order by seq desc limit 1")
            holes = self._rows("select first, last from hole order by first")
            [waiting] = self._row("select count(*) from waiting")
            pages = self._db.pragma("page_count") - self._db.pragma("freelist_count")
            return Contents(
                path=str(self._path),
                in_use=is_held(self._path),
                stream=self._stream(stream),
                depth=depth + last - depth_seq,
                waiting=waiting,
                bytes=pages * self._db.pragma("page_size"),
                low=oldest[0][0] - offset if oldest else None,
                next_seq=last + 1 - offset,
                oldest_time=oldest[0][1] if oldest else None,
                newest_time=newest[0][0] if newest else None,
                thinned=thinned,
                dropped=dropped,
                lost=[(max(1, first - offset), end - offset) for first, end in holes if end > offset],
            )

    def ticks(self) -> Iterator[Tick]:
        """The ticks, ascending, each as a live message says it. What an agent delivers meanwhile may be missing."""
        beyond = -1
        layouts: dict[int, Layout] = {}
        while True:
            with self._snapshot():
                stream, offset, low = self._row(
                    "select stream, sequence_offset, (select min(seq) from tick) from outbox"
                )
                rows = self._rows(
                    "select seq, t, layout, data from tick where seq > ? order by seq limit ?", beyond, _STEP
                )
                for layout in {row[2] for row in rows} - layouts.keys():
                    layouts[layout] = self._layout(layout)
            if not rows:
                return
            named = self._stream(stream)
            for seq, t_ms, layout, data in rows:
                keys = layouts[layout].keys
                if len(data) != 8 * len(keys):
                    raise OutboxCorrupt(
                        f"outbox {self._path} is damaged: tick {seq - offset} has {len(data)} bytes for"
                        f" {len(keys)} values"
                    )
                values: dict[str, float | None] = dict(zip(keys, unpack(data), strict=True))
                yield Tick(
                    v=VERSION,
                    stream=named,
                    seq=seq - offset,
                    low=low - offset,
                    t=t_ms,
                    values=values,
                    clock=layouts[layout].clock,
                )
            beyond = rows[-1][0]

    def _layout(self, layout: int) -> Layout:
        [text] = self._row("select keys from layout where layout = ?", layout)
        try:
            return Layout.read(text)
        except msgspec.MsgspecError as exc:
            raise OutboxCorrupt(f"outbox {self._path} is damaged: layout {layout} is no list of keys: {exc}") from exc

    def _stream(self, text: str) -> UUID:
        try:
            return UUID(text)
        except ValueError as exc:
            raise OutboxCorrupt(f"outbox {self._path} is damaged: its stream is {text!r:.60}") from exc

    def _row(self, query: str, *bindings: int) -> tuple[Any, ...]:
        rows = self._rows(query, *bindings)
        if len(rows) != 1:
            raise OutboxCorrupt(f"outbox {self._path} is damaged: {len(rows)} rows where one belongs ({query})")
        return rows[0]

    def _rows(self, query: str, *bindings: int) -> list[tuple[Any, ...]]:
        return list(self._db.execute(query, bindings))

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """All that is read within belongs to one commit."""
        with translated(self._path):
            self._db.execute("begin")
            try:
                yield
            finally:
                if self._db.in_transaction:
                    self._db.execute("rollback")


def require(path: Path) -> None:
    """Raises OutboxError where there is no file, or none that this user may read."""
    try:
        path.stat()
    except FileNotFoundError as exc:
        raise OutboxError(f"there is no outbox {path}") from exc
    except OSError as exc:
        raise OutboxError(f"outbox {path}: {exc.strerror}; {_WHO}") from exc
    if not os.access(path, os.R_OK):
        raise OutboxError(f"outbox {path}: this user may not read it; {_WHO}")


def require_version(path: Path, db: apsw.Connection) -> None:
    """Raises OutboxError where the file is no outbox of this version."""
    if check_identity(path, db) < SCHEMA_VERSION:
        raise OutboxError(f"outbox {path} is as an older version left it; the agent upgrades it as it starts")


def open_to_read(path: Path) -> apsw.Connection:
    """A connection that can't write. Raises OutboxError where there is no file, or not for this user."""
    require(path)
    try:
        with translated(path):
            db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            db.set_busy_timeout(5_000)
            db.pragma("schema_version")  # SQLite opens the file, and its log, only now
    except OutboxCorrupt:
        raise
    except OutboxError as exc:
        raise OutboxError(f"{exc}; {_WHO}") from exc
    return db
