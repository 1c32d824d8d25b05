"""Silences: for how long nobody is told of which alerts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.types.json import Jsonb

from cloud_ingest.alerts.silence import About, Scope
from cloud_ingest.store.database import Connection

_SELECT: Final = (
    "select silence_id, scope, starts_at, ends_at, created_by, note, created_at, ends_at > now() from telemetry.silence"
)


@dataclass(frozen=True, slots=True)
class SilenceRow:
    """A silence, from `starts_at`, inclusive, to `ends_at`; `lasts` says whether its end is still to come."""

    silence_id: int
    scope: Scope
    starts_at: datetime
    ends_at: datetime
    created_by: str
    note: str | None
    created_at: datetime
    lasts: bool


def list_silences(
    connection: Connection, *, over: bool = False, before: int | None = None, limit: int | None = None
) -> list[SilenceRow]:
    """Silences that last or are to come, and with `over` those of the past too; the newest first, older than `before`.

    Raises what the driver raises.
    """
    rows = connection.execute(
        _SELECT + " where (%(over)s or ends_at > now()) and (%(before)s::bigint is null or silence_id < %(before)s)"
        " order by silence_id desc limit %(limit)s",
        {"over": over, "before": before, "limit": limit},
    ).fetchall()
    return [_row(row) for row in rows]


def active_silences(connection: Connection) -> list[SilenceRow]:
    """Those that hold now."""
    return [_row(row) for row in connection.execute(_SELECT + " where starts_at <= now() and ends_at > now()")]


def silenced_until(silences: Sequence[SilenceRow], about: About) -> datetime | None:
    """Until when nobody is told of the alert, of silences that hold now; None where it is told."""
    return max((it.ends_at for it in silences if it.scope.covers(about)), default=None)


def get_silence(connection: Connection, silence_id: int) -> SilenceRow | None:
    """One silence; None where there is none of this number."""
    row = connection.execute(_SELECT + " where silence_id = %s", [silence_id]).fetchone()
    return None if row is None else _row(row)


def create_silence(
    connection: Connection, scope: Scope, *, starts_at: datetime | None, ends_at: datetime, by: str, note: str | None
) -> SilenceRow:
    """Makes a silence, from now on where `starts_at` is None; in a transaction of the caller's."""
    ((silence_id,),) = connection.execute(
        "insert into telemetry.silence (scope, starts_at, ends_at, created_by, note)"
        " values (%(scope)s, least(coalesce(%(starts_at)s, now()), %(ends_at)s), %(ends_at)s, %(by)s, %(note)s)"
        " returning silence_id",
        {
            "scope": Jsonb(scope.model_dump(mode="json")),
            "starts_at": starts_at,
            "ends_at": ends_at,
            "by": by,
            "note": note,
        },
    ).fetchall()
    rows = connection.execute(_SELECT + " where silence_id = %s", [silence_id]).fetchall()
    return _row(rows[0])


def end_silence(connection: Connection, silence_id: int) -> bool:
    """Ends a silence now, in a transaction of the caller's; one that is over stays as it is. Whether there is one."""
    ended = connection.execute(
        "update telemetry.silence set starts_at = least(starts_at, now()), ends_at = least(ends_at, now())"
        " where silence_id = %s",
        [silence_id],
    )
    return ended.rowcount > 0


def _row(row: tuple[Any, ...]) -> SilenceRow:
    silence_id, scope, *rest = row
    return SilenceRow(silence_id, Scope.model_validate(scope), *rest)
