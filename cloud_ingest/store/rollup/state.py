"""How far the tiers are made and kept, and the lock under which ingest reads that and the worker changes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from psycopg import errors as pg
from psycopg import sql

from cloud_ingest.store.database import Connection
from cloud_ingest.store.tiers import DAY, RAW, ROLLUPS, TIERS, Tier

# Advisory locks. The tiers': shared by every transaction that stores readings, held alone by one that changes the
# state. The lease: whoever holds it is the one worker that may act on the tiers.
_TIERS_LOCK_KEY: Final = 0x7465_6C65_0002
_LEASE_LOCK_KEY: Final = 0x7465_6C65_0003
# An ingester that hangs in its transaction must not make the others wait behind a worker that waits for it.
_CHANGE_WAIT: Final = "set local lock_timeout = '500ms'"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TierState:
    """Times in ms. `rolled` and `floors` are by the tier's level; 0 is "not yet".

    Of raw readings, `rolled` is the watermark. A tier holds no bucket at or after its `rolled`, and each floor is at
    most that of the next finer tier.
    """

    rolled: tuple[int, ...]
    floors: tuple[int, ...]

    @property
    def watermark(self) -> int:
        """A reading from before it must leave a mark."""
        return self.rolled[RAW.level]

    def finest(self, time_ms: int) -> Tier | None:
        """The finest tier that is held at this time, into which a sample of it goes; None where all are gone."""
        return next((tier for tier in TIERS if time_ms >= self.floors[tier.level]), None)


_COLUMNS: Final = (
    *("watermark", *(f"rolled_{tier.name}" for tier in ROLLUPS)),
    *(f"floor_{tier.name}" for tier in TIERS),
)
_SELECT: Final = sql.SQL("select {} from telemetry.rollup_state").format(
    sql.SQL(", ").join(
        sql.SQL("(extract(epoch from {}) * 1000)::bigint").format(sql.Identifier(column)) for column in _COLUMNS
    )
)
_HOLD: Final = sql.SQL("select pg_advisory_xact_lock_shared({}); {}").format(_TIERS_LOCK_KEY, _SELECT)


def from_ms(time_ms: int) -> datetime:
    """Milliseconds since the epoch as PostgreSQL takes them."""
    return _EPOCH + timedelta(milliseconds=time_ms)


def to_ms(time: datetime) -> int:
    """An aware time as milliseconds since the epoch."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def read_state(connection: Connection) -> TierState:
    """What holds now, or an instant ago."""
    return _state(connection.execute(_SELECT).fetchall())


def hold_state(connection: Connection) -> TierState:
    """What holds until the transaction ends. To be called before the transaction locks anything else."""
    # Two statements in one round trip: the second sees what a worker changed while the first waited for it.
    cursor = connection.execute(_HOLD, prepare=False)
    cursor.nextset()
    return _state(cursor.fetchall())


def take_lease(connection: Connection) -> bool:
    """Whether this transaction is now the only one that acts on the tiers, until it ends."""
    row = connection.execute("select pg_try_advisory_xact_lock(%s)", [_LEASE_LOCK_KEY]).fetchone()
    return row is not None and row[0]


def begin(connection: Connection, start_ms: int, watermark_ms: int) -> bool:
    """Sets where the first buckets are, which must be before the first reading, and the watermark.

    False where ingest can't be held up for it now. The lease must be held.
    """
    start = start_ms // DAY.step_ms * DAY.step_ms
    return _change(connection, {"watermark": watermark_ms, **{f"rolled_{tier.name}": start for tier in ROLLUPS}})


def raise_watermark(connection: Connection, watermark_ms: int) -> bool:
    """Asks for marks by whatever comes from before this time; False where ingest can't be held up for it now.

    The lease must be held. Once this has committed, all readings that left no mark are visible.
    """
    return _change(connection, {"watermark": watermark_ms})


def raise_floors(connection: Connection, wanted: Mapping[Tier, int]) -> bool:
    """Lets go of what lies before the wanted times, in each tier as far as the coarser ones have it all.

    The lease must be held. The wanted times must not ascend with the tier. Returns whether any floor rose. What lies
    below a floor may be dropped once this has committed: nobody will add to it.
    """
    with connection.transaction():
        if not _alone(connection):
            return False
        state = read_state(connection)
        floors = list(state.floors)
        ceiling = state.watermark
        for tier in TIERS:
            free = min(wanted[tier], ceiling)
            if tier is not DAY:
                free = min(free, _unfinished(connection, state, tier))
            floors[tier.level] = ceiling = max(floors[tier.level], free // tier.span_ms * tier.span_ms)
        _update(connection, {f"floor_{tier.name}": floors[tier.level] for tier in TIERS})
    return floors != list(state.floors)


def note_rolled(connection: Connection, tier: Tier, until_ms: int) -> None:
    """The tier holds every bucket before the time, once the transaction has committed. The lease must be held."""
    _update(connection, {f"rolled_{tier.name}": until_ms})


def _unfinished(connection: Connection, state: TierState, tier: Tier) -> int:
    """The earliest time from which on the tier is still needed to make the next one."""
    following = TIERS[tier.level + 1]
    # What is marked below the tier's floor is not made from it
    row = connection.execute(
        "select (extract(epoch from min(time)) * 1000)::bigint from telemetry.rollup_mark"
        " where level <= %(level)s and time >= %(floor)s",
        {"level": following.level, "floor": from_ms(state.floors[tier.level])},
    ).fetchone()
    marked = None if row is None else row[0]
    rolled = state.rolled[following.level]
    return rolled if marked is None else min(rolled, marked)


def _change(connection: Connection, times_ms: Mapping[str, int]) -> bool:
    with connection.transaction():
        if not _alone(connection):
            return False
        _update(connection, times_ms)
    return True


def _alone(connection: Connection) -> bool:
    """Waits a moment until nobody stores readings, and keeps it so until the transaction ends."""
    try:
        with connection.transaction():
            connection.execute(_CHANGE_WAIT)
            connection.execute("select pg_advisory_xact_lock(%s)", [_TIERS_LOCK_KEY])
    except pg.LockNotAvailable:
        return False
    return True


def _update(connection: Connection, times_ms: Mapping[str, int]) -> None:
    connection.execute(
        sql.SQL("update telemetry.rollup_state set {}").format(
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(column), from_ms(time_ms))
                for column, time_ms in times_ms.items()
            )
        )
    )


def _state(rows: list[tuple[Any, ...]]) -> TierState:
    ((watermark, *rest),) = rows
    rolled, floors = rest[: len(ROLLUPS)], rest[len(ROLLUPS) :]
    return TierState((watermark, *rolled), tuple(floors))
