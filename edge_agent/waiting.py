"""Readings in the outbox's file that wait until it is known when they were taken. They have no sequence number yet."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import apsw

from edge_agent.clock import Boot, Moment

_DROP_STEP: Final = 8


class Waiting(NamedTuple):
    """One reading as it is stored; `boot` and `boot_ns` say when it was taken, `t_ms` what the wall clock said then."""

    number: int
    boot: str
    boot_ns: int
    t_ms: int
    layout: int
    data: bytes

    @property
    def moment(self) -> Moment:
        """When it was taken, on both clocks."""
        return Moment(self.t_ms, self.boot_ns)


class WaitingRoom:
    """The readings that wait, in transactions of the outbox."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def count(self) -> int:
        """How many there are."""
        [(count,)] = self._db.execute("select count(*) from waiting")
        return int(count)

    def add(self, rows: Iterable[tuple[str, int, int, int, bytes]]) -> None:
        """Adds readings, without their numbers."""
        self._db.executemany("insert into waiting (boot, boot_ns, t, layout, data) values (?, ?, ?, ?, ?)", rows)

    def oldest(self, limit: int) -> list[Waiting]:
        """The oldest, in the order in which they came."""
        query = "select number, boot, boot_ns, t, layout, data from waiting order by number limit ?"
        return [Waiting(*row) for row in self._db.execute(query, (limit,))]

    def boots(self) -> list[Boot]:
        """The boots of which readings wait, in their order."""
        query = """
            select it.boot, a.t, a.boot_ns, z.t, z.boot_ns
            from (select boot, min(number) as first, max(number) as last from waiting group by boot) it
            join waiting a on a.number = it.first join waiting z on z.number = it.last order by it.first"""
        return [Boot(name, Moment(*rest[:2]), Moment(*rest[2:])) for name, *rest in self._db.execute(query)]

    def delete(self, last: int) -> int:
        """Deletes those up to this number; how many."""
        self._db.execute("delete from waiting where number <= ?", (last,))
        return self._db.changes()

    def drop(self) -> int:
        """Deletes some of the oldest; how many."""
        self._db.execute(
            "delete from waiting where number in (select number from waiting order by number limit ?)", (_DROP_STEP,)
        )
        return self._db.changes()
