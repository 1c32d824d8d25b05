"""Makes the rollups and lets go of what is old enough: the work of the one worker that has the lease."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from psycopg import sql

from cloud_ingest.store.database import Connection
from cloud_ingest.store.partitions import partitions_of
from cloud_ingest.store.rollup.copying import (
    READING_COLUMNS,
    ROLLUP_COLUMNS,
    fetch_readings,
    fetch_rollups,
    write_rollups,
)
from cloud_ingest.store.rollup.late import Mark, add_marks
from cloud_ingest.store.rollup.rows import Rollups
from cloud_ingest.store.rollup.state import (
    TierState,
    begin,
    from_ms,
    note_rolled,
    raise_floors,
    raise_watermark,
    read_state,
    take_lease,
)
from cloud_ingest.store.tiers import DAY, FIVE_MINUTES, RAW, ROLLUPS, TIERS, Tier

# What comes from longer ago has to leave a mark, and its bucket is made twice.
_GRACE_MS: Final = 60_000
# What one transaction does at most. It grows into more buckets as long as they turn out to be small.
_MARKS_AT_ONCE: Final = 2_000
_BUCKETS_AT_ONCE: Final = 288
_SMALL_ROWS: Final = 500

log = logging.getLogger(__name__)


class _Item(NamedTuple):
    """A stretch of time of a device's layout."""

    start_ms: int
    device_id: int
    layout_id: int


class TierKeeper:
    """Works over one connection in autocommit mode. `keep_ms` says by tier how long it is held.

    Any number of keepers may work at once: in each transaction one of them acts and the others see that they can't.
    """

    def __init__(self, connection: Connection, keep_ms: Mapping[Tier, int]) -> None:
        self._connection = connection
        self._keep_ms = keep_ms
        self._partitions = {tier: partitions_of(connection, tier) for tier in TIERS}
        self._buckets_at_once = dict.fromkeys(ROLLUPS, 1)

    def round(self, now_ms: int) -> Iterator[None]:
        """Does all there is to do, and pauses between transactions, so that the caller can do other things.

        Each may be the last: what was not done, the next round does. Raises StoreUnavailable's causes as psycopg has
        them; the connection is of no use then.
        """
        self._advance(now_ms)
        yield
        for tier in ROLLUPS:
            while self._sweep(tier):
                yield
            while self._mend(tier):
                yield
        self._retire(now_ms)
        yield

    def _advance(self, now_ms: int) -> None:
        """Moves the watermark behind the present."""
        state = read_state(self._connection)
        watermark = FIVE_MINUTES.bucket(now_ms - _GRACE_MS)
        if state.watermark >= watermark:
            return
        with self._connection.transaction():
            if not take_lease(self._connection):
                return
            if read_state(self._connection).watermark == 0:
                spans = self._partitions[RAW].spans(self._connection)
                begin(self._connection, min([watermark, *(first for first, _ in spans)]), watermark)
            else:
                raise_watermark(self._connection, watermark)

    def _sweep(self, tier: Tier) -> bool:
        """Makes the next buckets of a tier that has not come so far yet; False where there are none to make."""
        source = TIERS[tier.level - 1]
        state = read_state(self._connection)
        start, limit = state.rolled[tier.level], tier.bucket(state.rolled[source.level])
        if start >= limit:
            return False
        end = min(limit, start + self._buckets_at_once[tier] * tier.step_ms)
        self._partitions[tier].cover(self._connection, [*range(start, end, tier.span_ms), end - 1])
        with self._connection.transaction():
            if not self._leads(state):
                return False
            # What left a mark before now is seen by the reads that follow
            self._connection.execute(
                "delete from telemetry.rollup_mark where level = %(level)s and time >= %(start)s and time < %(end)s",
                {"level": tier.level, "start": from_ms(start), "end": from_ms(end)},
            )
            items = [_Item(start, *row) for row in self._device_layouts()]
            made = self._made(tier, items, end - start)
            write_rollups(self._connection, tier, made)
            if not made:
                spans = self._partitions[source].spans(self._connection)
                end = min([limit, *(max(first, end) for first, behind in spans if behind > end)])
            note_rolled(self._connection, tier, end)
        is_small = sum(map(len, made)) < _SMALL_ROWS
        self._buckets_at_once[tier] = min(2 * self._buckets_at_once[tier], _BUCKETS_AT_ONCE) if is_small else 1
        return True

    def _mend(self, tier: Tier) -> bool:
        """Makes anew, or joins, what is marked; False where nothing is."""
        state = read_state(self._connection)
        marks = self._marks(tier, state)
        if not marks:
            return False
        floor = state.floors[tier.level]
        held = [_Item(mark.start_ms, mark.device_id, mark.layout_id) for mark in marks if mark.start_ms >= floor]
        self._partitions[tier].cover(self._connection, {item.start_ms for item in held})
        with self._connection.transaction():
            if not self._leads(state):
                return False
            self._partitions[tier].allow_changes(self._connection)
            # First the marks: whoever stores something from now on leaves a new one
            self._forget(marks)
            source_floor = state.floors[tier.level - 1]
            derived = [item for item in held if item.start_ms >= source_floor]
            sealed = [item for item in held if item.start_ms < source_floor]
            joined = self._taken(tier, sealed)
            self._delete(tier, derived)
            write_rollups(self._connection, tier, joined)
            write_rollups(self._connection, tier, self._made(tier, derived, tier.step_ms))
            if tier is not DAY:
                add_marks(self._connection, _above(tier, held, state))
        return True

    def _retire(self, now_ms: int) -> None:
        """Drops what is past its time in each tier and not needed for the next."""
        wanted = {tier: now_ms - self._keep_ms[tier] for tier in TIERS}
        state = read_state(self._connection)
        if any(wanted[tier] // tier.span_ms * tier.span_ms > state.floors[tier.level] for tier in TIERS):
            with self._connection.transaction():
                if not take_lease(self._connection):
                    return
                raise_floors(self._connection, wanted)
            state = read_state(self._connection)
        for tier in TIERS:
            dropped = self._partitions[tier].drop_before(self._connection, state.floors[tier.level])
            if dropped:
                log.info("dropped %d pieces of tier %s: %s", len(dropped), tier.name, ", ".join(dropped))
        self._compress(state)

    def _compress(self, state: TierState) -> None:
        """The newest readings stay as they are: a columnstore is slow at the newest value of each series."""
        self._partitions[RAW].compress_before(self._connection, state.rolled[FIVE_MINUTES.level] - RAW.span_ms)
        for finer, tier in zip(TIERS, ROLLUPS, strict=False):
            self._partitions[tier].compress_before(self._connection, state.floors[finer.level])

    def _leads(self, state: TierState) -> bool:
        """Whether this transaction may act, and the tiers are what the caller thinks."""
        return take_lease(self._connection) and read_state(self._connection) == state

    def _device_layouts(self) -> list[tuple[int, int]]:
        return self._connection.execute("select device_id, layout_id from telemetry.device_layout").fetchall()

    def _marks(self, tier: Tier, state: TierState) -> list[Mark]:
        """The oldest marks; those of buckets that were not made yet are left to the sweep."""
        rows = self._connection.execute(
            "select distinct level, time, (extract(epoch from time) * 1000)::bigint, device_id, layout_id"
            " from telemetry.rollup_mark where level = %(level)s and time < %(rolled)s"
            " order by level, time, device_id, layout_id limit %(limit)s",
            {"level": tier.level, "rolled": from_ms(state.rolled[tier.level]), "limit": _MARKS_AT_ONCE},
        ).fetchall()
        return [Mark(level, start_ms, device_id, layout_id) for level, _, start_ms, device_id, layout_id in rows]

    def _forget(self, marks: Sequence[Mark]) -> None:
        items = [_Item(mark.start_ms, mark.device_id, mark.layout_id) for mark in marks]
        self._connection.execute(
            sql.SQL(
                "delete from telemetry.rollup_mark using {wanted} where level = %(level)s and time = wanted.start"
                " and device_id = wanted.device and layout_id = wanted.layout"
            ).format(wanted=_WANTED),
            {**_columns(items), "level": marks[0].level},
            prepare=False,
        )

    def _delete(self, tier: Tier, items: Sequence[_Item]) -> None:
        """Removes the buckets that begin with these items."""
        if items:
            self._connection.execute(_DELETE.format(table=_table(tier), wanted=_WANTED), _columns(items), prepare=False)

    def _taken(self, tier: Tier, items: Sequence[_Item]) -> list[Rollups]:
        """Removes the buckets that begin with these items, and returns what they held, joined."""
        query = sql.SQL("{} returning {}").format(_DELETE.format(table=_table(tier), wanted=_WANTED), ROLLUP_COLUMNS)
        return [
            joined
            for width, some in self._by_width(items).items()
            if (joined := _merged(fetch_rollups(self._connection, query, _columns(some), width), tier)) is not None
        ]

    def _made(self, tier: Tier, items: Sequence[_Item], length_ms: int) -> list[Rollups]:
        """The buckets of a tier, made from the tier before it, in these items of one length."""
        source = TIERS[tier.level - 1]
        fetch = fetch_readings if source is RAW else fetch_rollups
        columns = READING_COLUMNS if source is RAW else ROLLUP_COLUMNS
        query = _RANGE.format(columns=columns, table=_table(source), wanted=_WANTED)
        return [
            made
            for width, some in self._by_width(items).items()
            if (made := _merged(fetch(self._connection, query, _columns(some, length_ms), width), tier)) is not None
        ]

    def _by_width(self, items: Sequence[_Item]) -> dict[int, list[_Item]]:
        """The items by the number of series of their layout; not those of a layout that somebody deleted."""
        rows = self._connection.execute(
            "select layout_id, (select max(position) from telemetry.layout_position"
            "  where layout_position.layout_id = layout.layout_id)"
            " from unnest(%s::integer[]) as layout (layout_id)",
            [sorted({item.layout_id for item in items})],
        ).fetchall()
        widths: dict[int, int | None] = dict(rows)
        grouped = defaultdict(list)
        for item in items:
            if (width := widths[item.layout_id]) is not None:
                grouped[width].append(item)
        return grouped


_WANTED: Final = sql.SQL(
    "unnest(%(devices)s::integer[], %(layouts)s::integer[], %(starts)s::timestamptz[])"
    " as wanted (device, layout, start)"
)

# The bounds that are the same for all items are what keeps other pieces out of the plan.
_RANGE: Final = sql.SQL(
    "select {columns} from {wanted} cross join lateral ("
    " select * from {table} where device_id = wanted.device and layout_id = wanted.layout"
    "  and time >= wanted.start and time < wanted.start + %(length)s"
    "  and time >= %(earliest)s and time < %(latest)s + %(length)s) as found"
)
_DELETE: Final = sql.SQL(
    "delete from {table} using {wanted} where device_id = wanted.device and layout_id = wanted.layout"
    " and time = wanted.start and time >= %(earliest)s and time <= %(latest)s"
)


def _table(tier: Tier) -> sql.Identifier:
    return sql.Identifier("telemetry", tier.table)


def _columns(items: Sequence[_Item], length_ms: int = 0) -> dict[str, Any]:
    return {
        "devices": [item.device_id for item in items],
        "layouts": [item.layout_id for item in items],
        "starts": [from_ms(item.start_ms) for item in items],
        "earliest": from_ms(min(item.start_ms for item in items)),
        "latest": from_ms(max(item.start_ms for item in items)),
        "length": timedelta(milliseconds=length_ms),
    }


def _merged(parts: Iterator[Rollups], tier: Tier) -> Rollups | None:
    """All parts as rollups of the tier; None where there are none."""
    merged: list[Rollups] = [part.merged(tier.step_ms) for part in parts]
    if not merged:
        return None
    return Rollups.joined(merged).merged(tier.step_ms)


def _above(tier: Tier, items: Sequence[_Item], state: TierState) -> set[Mark]:
    """Marks for the buckets of the next tier that are made from these."""
    following = TIERS[tier.level + 1]
    return {
        Mark(following.level, start_ms, item.device_id, item.layout_id)
        for item in items
        if (start_ms := following.bucket(item.start_ms)) < state.rolled[following.level]
    }
