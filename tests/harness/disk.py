"""A disk that remembers everything SQLite did to its files, and what a power failure at any moment would leave of it.

The files are real. What was synchronised is kept; of the rest each sector is kept or not, as luck has it, so that
writes are dropped, torn and as if reordered. A deletion counts for certain once the directory was synchronised, as
SQLite does with the first synchronisation of a new journal or log (`unixSync` in os_unix.c).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

import apsw

SECTOR: Final = 512


class Event(NamedTuple):
    """One thing that happened; `of` is a file's name, and for a mark what the test wanted to remember."""

    kind: Literal["write", "truncate", "sync", "delete", "rename", "sync_directory", "mark"]
    of: str = ""
    offset: int = 0
    data: bytes = b""


class Disk(apsw.VFS):
    """Hands on to the system, and records. `failure` is raised by every write while it is set."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.events: list[Event] = []
        self.failure: Exception | None = None

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802 - apsw's
        super().xDelete(filename, syncdir)
        self.events.append(Event("delete", Path(filename).name))
        if syncdir:
            self.events.append(Event("sync_directory"))

    def mark(self, what: str) -> None:
        """Remembers that this is where something began or ended."""
        self.events.append(Event("mark", what))


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else str(name)).name
        journal = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
        self._is_new_journal = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & journal)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's
        if self._disk.failure is not None:
            raise self._disk.failure
        super().xWrite(data, offset)
        self._disk.events.append(Event("write", self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - apsw's
        super().xTruncate(newsize)
        self._disk.events.append(Event("truncate", self._name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's
        super().xSync(flags)
        self._disk.events.append(Event("sync", self._name))
        if self._is_new_journal:
            self._disk.events.append(Event("sync_directory"))
            self._is_new_journal = False


@dataclass
class _Entry:
    """A file: what is on the disk for certain, what may be, and whether the file itself is certainly there."""

    certain: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)
    is_certain: bool = False

    def settle(self) -> None:
        for event in self.pending:
            _apply(self.certain, event)
        self.pending.clear()
        self.is_certain = True

    def after_a_failure(self, luck: random.Random) -> bytes | None:
        if not self.is_certain and luck.random() < 0.5:
            return None
        left = bytearray(self.certain)
        for event in self.pending:
            if event.kind == "truncate":
                if luck.random() < 0.5:
                    _apply(left, event)
                continue
            for start in range(0, len(event.data), SECTOR):
                if luck.random() < 0.5:
                    part = event.data[start : start + SECTOR]
                    _apply(left, event._replace(offset=event.offset + start, data=part))
        return bytes(left)


class Platter:
    """What is certain and what is not, as the events go by."""

    def __init__(self) -> None:
        self._files: dict[str, _Entry] = {}
        self._leaving: dict[str, _Entry] = {}  # deleted, or renamed: under the old name until the directory is settled

    def follow(self, event: Event) -> None:
        """Takes the next event in."""
        if event.kind == "delete":
            self._leaving.setdefault(event.of, self._files.pop(event.of))
        elif event.kind == "rename" and event.of in self._files:  # SQLite maps its shared memory, and needs none after
            moved = self._files.pop(event.of)
            self._leaving.setdefault(event.of, moved)
            self._files[event.data.decode()] = _Entry(moved.certain, list(moved.pending))
        elif event.kind == "sync":
            self._files[event.of].settle()
        elif event.kind == "sync_directory":
            self._leaving.clear()
            for entry in self._files.values():
                entry.is_certain = True
        elif event.kind in ("write", "truncate"):
            self._files.setdefault(event.of, _Entry()).pending.append(event)

    def lose_power(self, directory: Path, luck: random.Random) -> None:
        """Writes what the disk holds after a power failure into another directory."""
        directory.mkdir()
        contents = {name: entry.after_a_failure(luck) for name, entry in self._files.items()}
        for name, entry in self._leaving.items():
            # An old entry of the directory is there as long as no newer one has certainly taken its name.
            if contents.get(name) is None and luck.random() < 0.5:
                contents[name] = entry.after_a_failure(luck)
        for name, content in contents.items():
            if content is not None:
                (directory / name).write_bytes(content)


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.offset :]
        content.extend(bytes(event.offset - len(content)))
    else:
        content.extend(bytes(max(0, event.offset - len(content))))
        content[event.offset : event.offset + len(event.data)] = event.data


def moments(events: list[Event], wanted: int, luck: random.Random) -> Iterator[int]:
    """So many places among the events, ascending: half of them just after what happens rarely."""
    rare = [
        place
        for place, event in enumerate(events)
        if event.kind not in ("write", "mark") or not event.of.endswith("-wal")
    ]
    rarest = [place for place in rare if events[place].kind in ("delete", "truncate", "rename", "sync_directory")]
    near = [place + luck.randint(-2, 3) for place in luck.choices([*rare, *rarest * 8], k=wanted // 2)]
    anywhere = [luck.randrange(len(events)) for _ in range(wanted - len(near))]
    yield from sorted(min(max(place, 0), len(events) - 1) for place in near + anywhere)
