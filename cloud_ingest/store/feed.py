"""What happened, in the order of commits, to be followed from any point on.

Numbers are given before a transaction commits, so that of two that are read the larger may be there first: who goes by
the largest number seen would miss the other for ever. The order here is that of the transactions' own numbers, and only
transactions older than all that still run are shown: then nothing can come before what was shown. So a transaction
that writes for long holds up what is shown, and nothing is ever missed or shown twice.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple, Self

from cloud_ingest.store.current import CurrentRow, current_values
from cloud_ingest.store.database import Connection

_MAX_NUMBER: Final = 2**63 - 1


class Position(NamedTuple):
    """Behind what to go on; ordered. `number` tells apart what one transaction wrote."""

    transaction: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` wrote. Raises ValueError."""
        transaction, dash, number = text.partition("-")
        if not (dash and text.isascii() and transaction.isdigit() and number.isdigit()):
            raise ValueError("must be the id of an event")
        position = cls(int(transaction), int(number))
        if max(position) > _MAX_NUMBER:
            raise ValueError("must be the id of an event")
        return position

    def __str__(self) -> str:
        return f"{self.transaction}-{self.number}"


class AlertEvent(NamedTuple):
    """A change of an alert; `content` as `alert_episodes` writes it."""

    position: Position
    kind: str
    alert_id: int | None
    created_at: datetime
    content: dict[str, Any]


class LiveEvent(NamedTuple):
    """A device of which something new is stored, and the newest values of all its series."""

    position: Position
    device: str
    site: str
    values: list[CurrentRow]


def present(connection: Connection) -> Position:
    """Behind all that is shown now."""
    ((transaction,),) = connection.execute("select pg_snapshot_xmin(pg_current_snapshot())::text").fetchall()
    return Position(int(transaction), 0)


def is_ahead(connection: Connection, position: Position) -> bool:
    """Whether the position is one that this database has not come to: it is another's, or an older copy."""
    ((transaction,),) = connection.execute("select pg_snapshot_xmax(pg_current_snapshot())::text").fetchall()
    return position.transaction > int(transaction)


def alert_events(connection: Connection, after: Position, limit: int) -> list[AlertEvent]:
    """What happened to alerts behind a position, at most so much of it."""
    rows = connection.execute(
        "select transaction_id::text as shown, notification_id, kind, alert_id, created_at, content"
        " from telemetry.notification"
        " where (transaction_id, notification_id) > (%(transaction)s::text::xid8, %(number)s)"
        "  and transaction_id < pg_snapshot_xmin(pg_current_snapshot())"
        " order by transaction_id, notification_id limit %(limit)s",
        {"transaction": str(after.transaction), "number": after.number, "limit": limit},
    ).fetchall()
    return [AlertEvent(Position(int(transaction), number), *rest) for transaction, number, *rest in rows]


def live_events(connection: Connection, after: Position, limit: int, since: datetime) -> list[LiveEvent]:
    """Each device that has sent something new behind a position, once, as it is now; at most so many.

    Values that were last measured before `since` are left out. Reads every row of the ledger, of which a device has
    one.
    """
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        rows = connection.execute(
            "select transaction_id::text as shown, device_id, name, site from ("
            " select distinct on (device_id) newest_xid as transaction_id, device_id from telemetry.stream"
            " where newest_xid is not null order by device_id, newest_xid desc) as newest"
            " join telemetry.device using (device_id)"
            " where (transaction_id, device_id) > (%(transaction)s::text::xid8, %(number)s)"
            "  and transaction_id < pg_snapshot_xmin(pg_current_snapshot())"
            " order by transaction_id, device_id limit %(limit)s",
            {"transaction": str(after.transaction), "number": after.number, "limit": limit},
        ).fetchall()
        values: dict[str, list[CurrentRow]] = {}
        if rows:
            for value in current_values(
                connection,
                devices=[row[2] for row in rows],
                metric=None,
                site=None,
                since=since,
                after=None,
                limit=None,
            ):
                values.setdefault(value.device, []).append(value)
    return [
        LiveEvent(Position(int(transaction), number), device, site, values.get(device, []))
        for transaction, number, device, site in rows
    ]
