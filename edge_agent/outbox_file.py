"""The outbox's file: who may open it, what is in it, and what becomes of it when it is damaged."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

import apsw

from edge_agent.errors import DiskRefuses, OutboxCorrupt, OutboxError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

APPLICATION_ID: Final = 0x54425F4F  # "TB_O"
SCHEMA_VERSION: Final = 3
_REFUSALS: Final = frozenset({errno.ENOSPC, errno.EROFS, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)})

# A reading's keys are stored once (`layout`), its values as packed little-endian float64 with NaN for "no value".
# `outbox` has one row. `sequence_offset`: sequence number on the wire = tick.seq - sequence_offset, so that a new
# stream starts at 1 without moving a row. `depth` is the number of ticks when `tick`'s sequence stood at `depth_seq`;
# every later number was appended and not deleted, so the depth is known without reading a whole file at start.
# `dropped` and `thinned` count what this stream gave up; `thin_...` is how far that got, see `room`.
# `unflushed_from`: numbers from it on may have been used without being stored; a crash made a `hole` of them.
# `waiting` are readings without a sequence number yet, see `waiting`; none that came later is older than `newest_ms`.
_SCHEMA: Final = """
create table outbox (
  stream text not null, machine text, sequence_offset integer not null, dropped integer not null,
  depth integer not null, depth_seq integer not null
) strict;
create table layout (layout integer primary key autoincrement, keys text not null unique) strict;
create table tick (
  seq integer primary key autoincrement, t integer not null, layout integer not null, data blob not null
) strict;
insert into sqlite_sequence (name, seq) values ('tick', 0);
"""
# The statements that bring a file of the version before to each version.
_UPGRADES: Final = {
    2: """
alter table outbox add column thinned integer not null default 0;
alter table outbox add column thin_frontier integer not null default 0;
alter table outbox add column thin_below integer not null default 0;
alter table outbox add column thin_cursor integer not null default 0;
alter table outbox add column thin_quota integer not null default 0;
alter table outbox add column unflushed_from integer;
create table hole (first integer primary key, last integer not null) strict;
""",
    3: """
alter table outbox add column newest_ms integer not null default 0;
create table waiting (
  number integer primary key autoincrement, boot text not null, boot_ns integer not null, t integer not null,
  layout integer not null, data blob not null
) strict;
""",
}

log = logging.getLogger(__name__)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """What SQLite raises, as OutboxCorrupt, DiskRefuses or OutboxError."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError) as exc:
        raise OutboxCorrupt(f"outbox {path} is damaged: {exc}") from exc
    except (apsw.FullError, apsw.ReadOnlyError, apsw.IOError) as exc:
        raise DiskRefuses(f"outbox {path}: {exc}") from exc
    except apsw.Error as exc:
        raise OutboxError(f"outbox {path}: {exc}") from exc


def lock(path: Path) -> int:
    """A descriptor that holds the lock of the outbox; the system frees it when the process ends, however it ends.

    In a file of its own: to close another descriptor of the database would drop SQLite's own locks (POSIX
    `close`, and https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    name = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not name.exists()
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o640)
    except OSError as exc:
        kind = DiskRefuses if exc.errno in _REFUSALS else OutboxError
        raise kind(f"outbox {path}: {exc.strerror}: {exc.filename}") from exc
    try:
        if is_new:
            _give_to_owner_of(path.parent, descriptor)
        _take(descriptor)
    except OSError as exc:
        os.close(descriptor)
        raise OutboxError(f"outbox {path} is in use by another agent (lock {name}): {exc.strerror}") from exc
    return descriptor


def _take(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Whether an agent holds the lock of the outbox. It asks by taking it for an instant, beside others that ask."""
    try:
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    except OSError:
        return False
    try:
        if sys.platform == "win32":
            _take(descriptor)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _give_to_owner_of(directory: Path, descriptor: int) -> None:
    """Else the agent, which runs as that user, could not take a lock that root's commands had made."""
    if sys.platform != "win32" and os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def connect(path: Path, vfs: str | None) -> apsw.Connection:
    """The one connection that writes, to an outbox of this version: made or upgraded where it is not."""
    with translated(path):
        db = apsw.Connection(str(path), vfs=vfs)
        try:
            db.set_busy_timeout(5_000)  # for people who look into the file while the agent runs
            version = check_identity(path, db)
            db.pragma("journal_mode", "wal")
            db.pragma("journal_size_limit", 4_194_304)
            db.pragma("synchronous", "full")
            if version < SCHEMA_VERSION:
                _upgrade(db, version)
        except BaseException:
            db.close()
            raise
        return db


def check_identity(path: Path, db: apsw.Connection) -> int:
    """The version of the outbox's schema; 0 for an empty file. Raises OutboxError where it is something else."""
    with translated(path):
        if db.pragma("schema_version") == 0:
            return 0
        if db.pragma("application_id") != APPLICATION_ID:
            raise OutboxError(f"{path} is a database, but not an outbox of this agent")
        version: int = db.pragma("user_version")
    if version > SCHEMA_VERSION:
        raise OutboxError(f"outbox {path} was written by a newer version of this agent (schema {version})")
    return version


def set_aside(path: Path, cause: OutboxCorrupt) -> Path:
    """Renames a damaged file, with its log, to a name that no other has.

    The file goes first, and for certain: without its log it might be sound, and be an older state of its stream.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    kept = Path(f"{path}.damaged-{stamp}")
    try:
        for suffix in ("", "-wal", "-shm"):
            file = Path(f"{path}{suffix}")
            if file.exists():
                file.rename(Path(f"{kept}{suffix}"))
                synchronise_directory(path.parent)
    except OSError as exc:
        raise OutboxError(f"outbox {path} is damaged and can't be renamed: {exc.strerror}") from exc
    log.error("%s; it was kept as %s and a new stream begins", cause, kept)
    return kept


def synchronise_directory(directory: Path) -> None:
    """What was renamed in it stays so after a power failure, as far as this system can say so."""
    if sys.platform != "win32":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _upgrade(db: apsw.Connection, version: int) -> None:
    db.execute("begin immediate")
    if version == 0:
        db.execute(_SCHEMA)
        db.pragma("application_id", APPLICATION_ID)
        db.execute("insert into outbox values (?, null, 0, 0, 0, 0)", (str(uuid4()),))
    for step in range(max(version, 1) + 1, SCHEMA_VERSION + 1):
        db.execute(_UPGRADES[step])
    db.pragma("user_version", SCHEMA_VERSION)
    db.execute("commit")
