"""Messages to receivers: made of what is to be told, claimed by one worker at a time, tried until taken or given up.

A worker claims a message, sends it and records what became of it. One that ends in between leaves a claim that runs
out, after which another sends the message again under the same id. Nothing else is ever sent twice.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg import sql
from psycopg.rows import class_row

from cloud_ingest.alerts.notify.change import Change
from cloud_ingest.alerts.notify.routing import Route
from cloud_ingest.alerts.silence import About
from cloud_ingest.store.database import Connection, translated
from cloud_ingest.store.silences import SilenceRow, active_silences, silenced_until
from cloud_ingest.store.text import storable

_FAN_OUT_LOCK: Final = 0x6661_6E6F  # advisory, of the transaction that makes messages
_MOST_AT_ONCE: Final = 500
# What is silenced is looked at again so soon, as a silence may be ended early
_LOOK_AGAIN_SECONDS: Final = 60

_CHANGES: Final = (
    "select notification_id as number, notification.kind as written_kind, content, notification.created_at, alert_id,"
    " alert.severity as alert_severity, alert.start_at, alert.ended_at"
    " from telemetry.notification left join telemetry.alert using (alert_id)"
)

Router = Callable[[Sequence[Change], Collection[tuple[str, int]]], Sequence[Route]]


@dataclass(frozen=True, slots=True)
class Limit:
    """No more than `messages` within any `period`."""

    messages: int
    period: timedelta


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that is ours to send. `attempts` counts this one; `failures` are the receiver's in a row, before it."""

    delivery_id: UUID
    number: int
    receiver: str
    digest: bool
    attempts: int
    failures: int
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A message, for people. `changes` is how many it tells."""

    number: int
    delivery_id: UUID
    receiver: str
    state: str
    digest: bool
    created_at: datetime
    due_at: datetime
    attempts: int
    last_error: str | None
    done_at: datetime | None
    changes: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a receiver has not been told yet: messages, the age of the oldest in seconds, and how many were given up."""

    receiver: str
    waiting: int
    oldest_seconds: float
    dead: int


def register(connection: Connection, receivers: Collection[str]) -> None:
    """Makes receivers known; to be done before messages to them are made. Raises StoreUnavailable."""
    with translated():
        connection.execute(
            "insert into telemetry.receiver (name) select unnest(%s::text[]) on conflict do nothing",
            [sorted(receivers)],
        )


def fan_out(connection: Connection, router: Router, waits: dict[str, timedelta]) -> int:
    """Makes messages of what is to be told, in one transaction; how many changes it took.

    0 where there is nothing, or another worker is at it. `waits` is for how long each receiver gathers. What a silence
    covers waits until that is over, and is then told if it still holds. Raises StoreUnavailable.
    """
    with translated(), connection.transaction():
        ((ours,),) = connection.execute("select pg_try_advisory_xact_lock(%s)", [_FAN_OUT_LOCK]).fetchall()
        if not ours:
            return 0
        with connection.cursor(row_factory=class_row(Change)) as cursor:
            changes = cursor.execute(
                _CHANGES + " where fanned_out_at is null and fan_out_at <= now() order by notification_id limit %s",
                [_MOST_AT_ONCE],
            ).fetchall()
        if not changes:
            return 0
        silences = active_silences(connection)
        silenced = {it.number: until for it in changes if (until := _silenced_until(silences, it)) is not None}
        for number, until in silenced.items():
            connection.execute(
                "update telemetry.notification set fan_out_at = least(%s, now() + make_interval(secs => %s))"
                " where notification_id = %s",
                [until, _LOOK_AGAIN_SECONDS, number],
            )
        stale = _stale(connection, [it.number for it in changes])
        found = router([it for it in changes if it.number not in silenced.keys() | stale], _told(connection, changes))
        for route in found:
            _add(connection, route, waits[route.receiver])
        connection.execute(
            "update telemetry.notification set fanned_out_at = now() where notification_id = any (%s)",
            [[it.number for it in changes if it.number not in silenced]],
        )
    return len(changes)


def claim(connection: Connection, receiver: str, limit: Limit | None, lease: timedelta) -> Claimed | None:
    """The next message to a receiver, for as long as `lease`; None where there is none to send now.

    Changes of one episode, or of one device as a whole, are told in order: a message waits for an earlier one that
    tells of the same. Where the limit is reached, all that waits becomes one digest. Raises StoreUnavailable.
    """
    with translated(), connection.transaction():
        # Its row is the lock under which limits are counted
        rows = connection.execute(
            "select failures from telemetry.receiver"
            " where name = %s and coalesce(paused_until, '-infinity') <= now() for no key update skip locked",
            [receiver],
        ).fetchall()
        if not rows or (limit is not None and not _within(connection, receiver, limit)):
            return None
        taken = connection.execute(
            "update telemetry.delivery set attempts = attempts + 1, claimed_until = now() + %(lease)s"
            " where delivery_id = ("
            "  select delivery_id from telemetry.delivery as next"
            "  where receiver = %(receiver)s and state = 'waiting' and due_at <= now()"
            "   and coalesce(claimed_until, '-infinity') <= now() and not exists ("
            "    select from telemetry.delivery_notification as own"
            "     join telemetry.notification as told using (notification_id)"
            "     join telemetry.notification as before"
            "      on before.alert_id = told.alert_id or before.device_id = told.device_id"
            "     join telemetry.delivery_notification as other on other.notification_id = before.notification_id"
            "     join telemetry.delivery as earlier on earlier.delivery_id = other.delivery_id"
            "    where own.delivery_id = next.delivery_id and earlier.receiver = next.receiver"
            "     and earlier.state = 'waiting' and earlier.number < next.number)"
            "  order by number limit 1 for update skip locked)"
            " returning delivery_id, number, digest, attempts",
            {"receiver": receiver, "lease": lease},
        ).fetchone()
        if taken is None:
            return None
        delivery_id, number, digest, attempts = taken
        with connection.cursor(row_factory=class_row(Change)) as cursor:
            changes = cursor.execute(
                _CHANGES + " join telemetry.delivery_notification using (notification_id) where delivery_id = %s"
                " order by notification_id",
                [delivery_id],
            ).fetchall()
    return Claimed(delivery_id, number, receiver, digest, attempts, rows[0][0], changes)


def sent(connection: Connection, claimed: Claimed) -> None:
    """The receiver has confirmed it. Raises StoreUnavailable."""
    with translated(), connection.transaction():
        _settle(connection, claimed, "state = 'sent', done_at = now(), last_error = null", {})
        connection.execute(
            "update telemetry.receiver set failures = 0, paused_until = null where name = %s and failures > 0",
            [claimed.receiver],
        )


def failed(
    connection: Connection, claimed: Claimed, why: str, *, delay: timedelta, pause: timedelta, give_up: timedelta
) -> bool:
    """It is tried again after `delay`, unless that was done for as long as `give_up`; whether it was given up.

    The receiver is left alone for `pause`. Raises StoreUnavailable.
    """
    with translated(), connection.transaction():
        states = _settle(
            connection,
            claimed,
            "last_error = %(why)s, due_at = now() + %(delay)s,"
            " state = case when now() - waiting_since >= %(give_up)s then 'dead' else state end,"
            " done_at = case when now() - waiting_since >= %(give_up)s then now() end",
            {"why": storable(why), "delay": delay, "give_up": give_up},
        )
        connection.execute(
            "update telemetry.receiver set failures = failures + 1, paused_until = now() + %s where name = %s",
            [pause, claimed.receiver],
        )
    return states == ["dead"]


def refused(connection: Connection, claimed: Claimed, why: str) -> None:
    """The receiver will never take it: it is kept as dead. Raises StoreUnavailable."""
    with translated(), connection.transaction():
        _settle(connection, claimed, "state = 'dead', done_at = now(), last_error = %(why)s", {"why": storable(why)})


def backlogs(connection: Connection) -> list[Backlog]:
    """Of every receiver there ever was. Raises StoreUnavailable."""
    with translated(), connection.cursor(row_factory=class_row(Backlog)) as cursor:
        return cursor.execute(
            "select name as receiver, count(*) filter (where state = 'waiting') as waiting,"
            " coalesce(extract(epoch from now() - min(created_at) filter (where state = 'waiting')), 0)::float8"
            "  as oldest_seconds,"
            " count(*) filter (where state = 'dead') as dead"
            " from telemetry.receiver left join telemetry.delivery"
            "  on delivery.receiver = receiver.name and delivery.state <> 'sent'"
            " group by name order by name"
        ).fetchall()


def list_deliveries(
    connection: Connection, *, state: str | None, receiver: str | None, before: int | None, limit: int
) -> list[DeliveryRow]:
    """The newest messages, or those with a number below `before`; newest first. Raises StoreUnavailable."""
    with translated(), connection.cursor(row_factory=class_row(DeliveryRow)) as cursor:
        return cursor.execute(
            "select number, delivery_id, receiver, state, digest, created_at, due_at, attempts, last_error, done_at,"
            " (select count(*) from telemetry.delivery_notification as held"
            "  where held.delivery_id = delivery.delivery_id) as changes"
            " from telemetry.delivery where (%(state)s::text is null or state = %(state)s)"
            " and (%(receiver)s::text is null or receiver = %(receiver)s)"
            " and (%(before)s::bigint is null or number < %(before)s) order by number desc limit %(limit)s",
            {"state": state, "receiver": receiver, "before": before, "limit": limit},
        ).fetchall()


def retry(connection: Connection, numbers: Sequence[int] | None, receiver: str | None) -> int:
    """Tries dead messages again: these, or all, of one receiver or any; how many. Raises StoreUnavailable."""
    with translated(), connection.transaction():
        count = connection.execute(
            "update telemetry.delivery set state = 'waiting', waiting_since = now(), due_at = now(), done_at = null"
            " where state = 'dead' and (%(numbers)s::bigint[] is null or number = any (%(numbers)s::bigint[]))"
            " and (%(receiver)s::text is null or receiver = %(receiver)s)",
            {"numbers": None if numbers is None else list(numbers), "receiver": receiver},
        ).rowcount
        connection.execute(
            "update telemetry.receiver set paused_until = null where %(receiver)s::text is null or name = %(receiver)s",
            {"receiver": receiver},
        )
    return count


def prune(connection: Connection, older_than_days: int) -> int:
    """Deletes what was settled longer ago than that, but for what an open episode's end is judged by; how many."""
    with translated():
        return connection.execute(
            "delete from telemetry.delivery where state <> 'waiting' and done_at < now() - make_interval(days => %s)"
            " and not exists (select from telemetry.delivery_notification as held"
            "  join telemetry.notification using (notification_id) join telemetry.alert using (alert_id)"
            "  where held.delivery_id = delivery.delivery_id and alert.ended_at is null)",
            [older_than_days],
        ).rowcount


def _silenced_until(silences: Sequence[SilenceRow], change: Change) -> datetime | None:
    if change.device is None or change.site is None or change.metric is None:
        return None  # about no series
    labels = change.content.get("labels") or {}
    about = About(change.threshold, change.device, change.site, change.location, change.metric, labels)
    return silenced_until(silences, about)


def _stale(connection: Connection, numbers: Sequence[int]) -> set[int]:
    """What a silence held back until it was over."""
    rows = connection.execute(
        "select notification_id from telemetry.notification join telemetry.alert using (alert_id)"
        " where notification_id = any (%s) and fan_out_at > notification.created_at and ended_at is not null"
        " and kind <> 'ended'",
        [list(numbers)],
    ).fetchall()
    return {number for (number,) in rows}


def _told(connection: Connection, changes: Sequence[Change]) -> set[tuple[str, int]]:
    """Which receivers were told of which of these episodes, or will be."""
    ids = sorted({it.alert_id for it in changes if it.alert_id is not None})
    rows = connection.execute(
        "select distinct receiver, alert_id from telemetry.notification"
        " join telemetry.delivery_notification using (notification_id) join telemetry.delivery using (delivery_id)"
        " where alert_id = any (%s)",
        [ids],
    ).fetchall()
    return set(rows)


def _add(connection: Connection, route: Route, wait: timedelta) -> None:
    """Puts a change into the message that gathers its like, or into a new one."""
    named = {"receiver": route.receiver, "key": route.group_key, "wait": wait, "number": route.number}
    row = None
    if route.group_key is not None:
        row = connection.execute(
            "select delivery_id from telemetry.delivery where receiver = %(receiver)s and state = 'waiting'"
            " and group_key = %(key)s and attempts = 0 and due_at > now() order by number limit 1 for update",
            named,
        ).fetchone()
    if row is None:
        row = connection.execute(
            "insert into telemetry.delivery (receiver, group_key, due_at)"
            " values (%(receiver)s, %(key)s, now() + %(wait)s) returning delivery_id",
            named if route.group_key is not None else {**named, "wait": timedelta()},
        ).fetchone()
    connection.execute(
        "insert into telemetry.delivery_notification values (%(delivery)s, %(number)s) on conflict do nothing",
        {"delivery": None if row is None else row[0], "number": route.number},
    )


def _within(connection: Connection, receiver: str, limit: Limit) -> bool:
    """Whether one more may be sent now. If not, what was not tried yet becomes one digest, due when one may."""
    named: dict[str, Any] = {"receiver": receiver, "period": limit.period, "messages": limit.messages}
    # The time from which on fewer than `messages` lie within a period: null where that is now
    ((free_at,),) = connection.execute(
        "with counted as ("
        "  select done_at as at from telemetry.delivery"
        "   where receiver = %(receiver)s and state = 'sent' and done_at > now() - %(period)s"
        "  union all select now() from telemetry.delivery"
        "   where receiver = %(receiver)s and state = 'waiting' and claimed_until > now())"
        " select (select at + %(period)s from counted order by at desc offset %(messages)s - 1 limit 1)",
        named,
    ).fetchall()
    if free_at is None:
        return True
    held = connection.execute(
        "select delivery_id, digest from telemetry.delivery where receiver = %(receiver)s and state = 'waiting'"
        " and attempts = 0 and (digest or due_at <= now()) order by digest desc, number for update",
        named,
    ).fetchall()
    if not held or (held[0][1] and len(held) == 1):
        return False
    first, *others = (delivery_id for delivery_id, _ in held)
    connection.execute(
        "insert into telemetry.delivery_notification"
        " select %(first)s, notification_id from telemetry.delivery_notification"
        " where delivery_id = any (%(others)s) on conflict do nothing",
        {"first": first, "others": others},
    )
    connection.execute("delete from telemetry.delivery where delivery_id = any (%s)", [others])
    connection.execute(
        "update telemetry.delivery set digest = true, group_key = null, due_at = %s where delivery_id = %s",
        [free_at, first],
    )
    return False


def _settle(connection: Connection, claimed: Claimed, change: LiteralString, named: dict[str, Any]) -> list[str]:
    """Changes a message that is still claimed as it was; its state then, if it was."""
    query = sql.SQL(
        "update telemetry.delivery set claimed_until = null, {} where delivery_id = %(id)s"
        " and attempts = %(attempts)s and state = 'waiting' returning state"
    ).format(sql.SQL(change))
    named = {**named, "id": claimed.delivery_id, "attempts": claimed.attempts}
    rows = connection.execute(query, named).fetchall()
    return [state for (state,) in rows]
