"""Whether an outbox is sound: as an SQLite file, and in what its tables say of each other."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import apsw
import msgspec

from edge_agent.errors import OutboxCorrupt
from edge_agent.layout import Layout
from edge_agent.outbox_file import connect, lock, set_aside, translated
from edge_agent.outbox_view import open_to_read, require, require_version

_MAX_SHOWN: Final = 20

# Each finds rows that contradict the table above it in the schema; what they found is shown as text.
_CONTRADICTIONS: Final = {
    "a tick of a layout that is missing: {}": "select seq from tick where layout not in (select layout from layout)",
    "a waiting reading of a layout that is missing: {}": (
        "select number from waiting where layout not in (select layout from layout)"
    ),
    "a tick without values of 8 bytes each: {}": "select seq from tick where length(data) = 0 or length(data) % 8 <> 0",
    "a tick below the first number of the stream: {}": (
        "select seq from tick where seq <= (select sequence_offset from outbox)"
    ),
    "a tick above the last number that was given: {}": (
        "select seq from tick where seq > (select seq from sqlite_sequence where name = 'tick')"
    ),
    "a hole that ends before it begins or above the last number that was given: {} to {}": (
        "select first, last from hole where last < first"
        " or last > (select seq from sqlite_sequence where name = 'tick')"
    ),
    "a tick in a hole: {}": "select seq from tick join hole on seq between first and last",
}
_MISCOUNTS: Final = {
    "it counts {} ticks and holds {}": (
        "select depth + seq - depth_seq, (select count(*) from tick) from outbox, sqlite_sequence"
        " where name = 'tick' and depth + seq - depth_seq <> (select count(*) from tick)"
    ),
    "it counts {} ticks that are thinned out and holds {}": (
        "select thin_below, (select count(*) from tick where seq < thin_frontier) from outbox"
        " where thin_below <> (select count(*) from tick where seq < thin_frontier)"
    ),
}
_RECOUNT: Final = """
update outbox set depth = (select count(*) from tick),
  depth_seq = (select seq from sqlite_sequence where name = 'tick'),
  thin_frontier = 0, thin_below = 0, thin_cursor = 0, thin_quota = 0
"""


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong with an outbox, a sentence each: damage, and counts that can be counted anew."""

    damage: tuple[str, ...] = ()
    miscounts: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.damage or self.miscounts)


def check(path: Path) -> Findings:
    """Looks at all of the outbox, also beside a running agent. Raises OutboxError where it can't be read."""
    try:
        db = open_to_read(path)
    except OutboxCorrupt as exc:
        return Findings(damage=(str(exc),))
    try:
        with translated(path):
            require_version(path, db)
            db.execute("begin")
            try:
                damage = tuple(_damage(db))
                return Findings(damage, () if damage else tuple(_found(db, _MISCOUNTS)))
            except apsw.SQLError as exc:  # a table or a column is missing
                raise OutboxCorrupt(f"outbox {path} is damaged: {exc}") from exc
    except OutboxCorrupt as exc:
        return Findings(damage=(str(exc),))
    finally:
        db.close()


def repair(path: Path) -> tuple[Findings, Path | None]:
    """What was wrong, and the name that a damaged file has now; the agent begins a new one, with a new stream.

    What was only miscounted is counted anew in its place. Raises OutboxError, also while an agent holds the outbox.
    """
    require(path)
    held = lock(path)
    try:
        findings = check(path)
        if findings.damage:
            return findings, set_aside(path, OutboxCorrupt(findings.damage[0]))
        if findings.miscounts:
            with translated(path):
                db = connect(path, None)
                try:
                    db.execute(_RECOUNT)
                finally:
                    db.close()
        return findings, None
    finally:
        os.close(held)


def _damage(db: apsw.Connection) -> Iterator[str]:
    for (line,) in db.execute(f"pragma integrity_check({_MAX_SHOWN})"):
        if line != "ok":
            yield f"SQLite: {line}"
    for table, name in (("outbox", "outbox"), ("sqlite_sequence where name = 'tick'", "sequence")):
        [(rows,)] = db.execute(f"select count(*) from {table}")  # noqa: S608 - the texts above
        if rows != 1:
            yield f"{rows} rows say what its {name} is, and one should"
    for (stream,) in db.execute("select stream from outbox"):
        if not _is_uuid(stream):
            yield f"its stream is {stream!r:.60}, which is no UUID"
    yield from _found(db, _CONTRADICTIONS)
    yield from _wrong_layouts(db)


def _found(db: apsw.Connection, queries: dict[str, str]) -> Iterator[str]:
    for sentence, query in queries.items():
        for row in db.execute(f"{query} limit {_MAX_SHOWN}"):
            yield sentence.format(*row)


def _wrong_layouts(db: apsw.Connection) -> Iterator[str]:
    for layout, text in db.execute("select layout, keys from layout"):
        keys = _keys(text)
        if keys is None:
            yield f"layout {layout} is no list of series keys"
            continue
        wrong = db.execute("select seq from tick where layout = ? and length(data) <> ?", (layout, 8 * len(keys)))
        for (seq,) in wrong:
            yield f"tick {seq} has not as many values as its layout has keys, {len(keys)}"


def _keys(text: Any) -> tuple[str, ...] | None:
    try:
        return Layout.read(text).keys
    except (msgspec.MsgspecError, TypeError, AttributeError):
        return None


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
