"""How many series and layouts a device may have, so that one that makes them up without end harms only itself.

What a device sends for the first time is admitted in one short transaction under the locks of its devices' rows: the
count is exact with any number of ingesters. What was admitted is remembered by each of them and costs nothing more.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from cloud_ingest.store.database import Connection, translated
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.metrics import unit_of
from telemetry_contract.series import SeriesKey

MAX_SERIES_A_TICK: Final = 10_000


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that one device may have; None is no limit."""

    series: int | None = None
    layouts: int | None = None


NO_LIMIT: Final = Budget()


class Refusal(NamedTuple):
    """Why a device may not send a layout: a short stable word, and a text for people."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Layout:
    """An ordered list of series. `keys` are canonical, and `digest` stands for them."""

    series: tuple[SeriesKey, ...]
    keys: tuple[str, ...]
    digest: bytes

    @classmethod
    def of(cls, given: Sequence[str]) -> "Layout":
        """The layout of keys as a message has them.

        Raises InvalidSeriesKey where they can't be one.
        """
        if len(given) > MAX_SERIES_A_TICK:
            raise InvalidSeriesKey(f"{len(given)} series in one tick, more than {MAX_SERIES_A_TICK}")
        series = tuple(SeriesKey.parse(key) for key in given)
        keys = tuple(str(key) for key in series)
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InvalidSeriesKey(f"series {twice!r} is given twice, with its labels in another order")
        # A canonical key holds no line feed: its labels escape it
        return cls(series, keys, hashlib.sha256("\n".join(keys).encode()).digest())


# A device's number and a layout's digest.
Pair = tuple[int, bytes]


@dataclass(slots=True)
class Usage:
    """What a device has: how many layouts and series count, and which of the series that it now sends are among them.

    `admit` changes it.
    """

    layouts: int = 0
    series: int = 0
    keys: set[str] = field(default_factory=set)

    def admit(self, layout: Layout, budget: Budget) -> Refusal | None:
        """Counts one more layout, or says why not and counts nothing."""
        added = len(set(layout.keys) - self.keys)
        if budget.layouts is not None and self.layouts >= budget.layouts:
            return Refusal(
                "too_many_layouts",
                f"the device has sent {self.layouts} different sets of series, and may send {budget.layouts}",
            )
        if budget.series is not None and added and self.series + added > budget.series:
            return Refusal(
                "too_many_series",
                f"the device has {self.series} series and would have {added} more, and may have {budget.series}",
            )
        self.layouts += 1
        self.series += added
        self.keys.update(layout.keys)
        return None


def counted(connection: Connection, wanted: Iterable[tuple[int, Layout]]) -> dict[Pair, int]:
    """The numbers of the layouts that count for their device already."""
    pairs = list(wanted)
    rows = connection.execute(
        "select device_id, digest, layout_id"
        " from unnest(%(devices)s::integer[], %(digests)s::bytea[]) as wanted (device_id, digest)"
        " join telemetry.layout using (digest) join telemetry.device_layout using (device_id, layout_id)"
        " where counted_since is not null",
        {"devices": [device for device, _ in pairs], "digests": [layout.digest for _, layout in pairs]},
    ).fetchall()
    return {(device, bytes(digest)): layout_id for device, digest, layout_id in rows}


def admit(
    connection: Connection, wanted: Sequence[tuple[int, Layout]], budget: Budget
) -> tuple[dict[Pair, int], dict[Pair, Refusal]]:
    """Counts layouts for devices (given by number), the first ones first, and makes those that are new.

    The numbers of all that count now, and why the others don't. A transaction of its own.
    """
    with connection.transaction():
        # Locked in order, so that two ingesters that know the same devices wait for each other and don't deadlock
        connection.execute(
            "select from telemetry.device where device_id = any(%s) order by device_id for no key update",
            [sorted({device for device, _ in wanted})],
        )
        numbers = counted(connection, wanted)
        usage = _usage(connection, wanted)
        refused: dict[Pair, Refusal] = {}
        admitted: list[tuple[int, Layout]] = []
        for device, layout in wanted:
            if (device, layout.digest) in numbers:
                continue
            refusal = usage[device].admit(layout, budget)
            if refusal is None:
                admitted.append((device, layout))
            else:
                refused[device, layout.digest] = refusal
        if admitted:
            made = _make(connection, {layout.digest: layout for _, layout in admitted})
            new = {(device, layout.digest): made[layout.digest] for device, layout in admitted}
            _count(connection, sorted((device, layout_id) for (device, _), layout_id in new.items()))
            numbers |= new
    return numbers, refused


def retire(connection: Connection, days: int) -> int:
    """Counts no more what layouts of a device sent nothing that raw readings or the 5-minute tier still hold.

    None that counts for less than so many days. Returns how many were retired, of all devices.
    """
    with translated():
        candidates = connection.execute(f"select device_id, layout_id {_SILENT}", {"days": days}).fetchall()
        by_device: dict[int, list[int]] = defaultdict(list)
        for device, layout in candidates:
            by_device[device].append(layout)
        return sum(_retire(connection, device, layouts, days) for device, layouts in sorted(by_device.items()))


# Rows of a device and layout that count and are silent: the newest pieces of the tiers answer for most of them at once.
_SILENT: Final = (
    "from telemetry.device_layout as pair where counted_since < now() - make_interval(days => %(days)s)"
    " and not exists (select from telemetry.rollup_5m as tier"
    "  where tier.device_id = pair.device_id and tier.layout_id = pair.layout_id)"
    " and not exists (select from telemetry.reading as tier"
    "  where tier.device_id = pair.device_id and tier.layout_id = pair.layout_id)"
)


def _retire(connection: Connection, device: int, layouts: list[int], days: int) -> int:
    with connection.transaction():
        connection.execute("select from telemetry.device where device_id = %s for no key update", [device])
        retired = connection.execute(
            "update telemetry.device_layout set counted_since = null where (device_id, layout_id) in"  # noqa: S608 - a constant
            f" (select device_id, layout_id {_SILENT} and device_id = %(device)s and layout_id = any(%(layouts)s))",
            {"device": device, "layouts": layouts, "days": days},
        ).rowcount
        connection.execute(
            "delete from telemetry.device_series where device_id = %(device)s and not exists ("
            " select from telemetry.layout_position join telemetry.device_layout using (layout_id)"
            " where layout_position.key_id = device_series.key_id and device_layout.device_id = %(device)s"
            " and counted_since is not null)",
            {"device": device},
        )
    return retired


@dataclass(frozen=True, slots=True)
class Cardinality:
    """What counts for a device now, and how many of its messages are parked because it would have been too much."""

    device: str
    site: str
    series: int
    layouts: int
    refused: int


def largest(connection: Connection, limit: int) -> list[Cardinality]:
    """The devices with the most series."""
    with translated(), connection.cursor(row_factory=class_row(Cardinality)) as cursor:
        return cursor.execute(
            "select device.name as device, device.site, held.series,"
            "  (select count(*) from telemetry.device_layout"
            "   where device_layout.device_id = device.device_id and counted_since is not null) as layouts,"
            "  (select count(*) from telemetry.rejected"
            "   where rejected.device = device.name and reason in ('too_many_series', 'too_many_layouts')) as refused"
            " from (select device_id, count(*) as series from telemetry.device_series group by device_id"
            "       order by series desc, device_id limit %(limit)s) as held"
            " join telemetry.device using (device_id) order by held.series desc, device.name",
            {"limit": limit},
        ).fetchall()


def _usage(connection: Connection, wanted: Sequence[tuple[int, Layout]]) -> Mapping[int, Usage]:
    """What the devices have now. Their rows are locked."""
    devices = sorted({device for device, _ in wanted})
    usage = {
        device: Usage(layouts, series)
        for device, layouts, series in connection.execute(
            "select device_id,"
            "  (select count(*) from telemetry.device_layout"
            "   where device_layout.device_id = wanted.device_id and counted_since is not null),"
            "  (select count(*) from telemetry.device_series where device_series.device_id = wanted.device_id)"
            " from unnest(%s::integer[]) as wanted (device_id)",
            [devices],
        ).fetchall()
    }
    # Which of their series are among these; a device that has none is not asked about
    known = connection.execute(
        "select device_id, key from telemetry.series_key join telemetry.device_series using (key_id)"
        " where key = any(%(keys)s) and device_id = any(%(devices)s)",
        {
            "keys": sorted({key for _, layout in wanted for key in layout.keys}),
            "devices": [device for device in devices if usage[device].series],
        },
    ).fetchall()
    for device, key in known:
        usage[device].keys.add(key)
    return usage


def _make(connection: Connection, layouts: Mapping[bytes, Layout]) -> dict[bytes, int]:
    """The numbers of layouts, made where they are new. In one order everywhere, so that nobody deadlocks."""
    series = {str(key): key for layout in layouts.values() for key in layout.series}
    connection.execute(
        "insert into telemetry.series_key (key, metric, labels, unit)"
        " select * from unnest(%(keys)s::text[], %(metrics)s::text[], %(labels)s::jsonb[], %(units)s::text[])"
        " as wanted (key, metric, labels, unit) order by key on conflict (key) do nothing",
        {
            "keys": list(series),
            "metrics": [key.metric for key in series.values()],
            "labels": [Jsonb(dict(key.labels)) for key in series.values()],
            "units": [unit_of(key.metric) for key in series.values()],
        },
    )
    # A layout and its positions appear together; who loses the race finds both
    made = connection.execute(
        "insert into telemetry.layout (digest) select * from unnest(%s::bytea[]) as wanted (digest) order by digest"
        " on conflict do nothing returning digest, layout_id",
        [list(layouts)],
    ).fetchall()
    placed = [
        (layout_id, position, key)
        for digest, layout_id in made
        for position, key in enumerate(layouts[bytes(digest)].keys, 1)
    ]
    connection.execute(
        "insert into telemetry.layout_position (layout_id, position, key_id)"
        " select layout_id, position, key_id"
        " from unnest(%(layouts)s::integer[], %(positions)s::integer[], %(keys)s::text[])"
        " as wanted (layout_id, position, key) join telemetry.series_key using (key)",
        {
            "layouts": [layout_id for layout_id, _, _ in placed],
            "positions": [position for _, position, _ in placed],
            "keys": [key for _, _, key in placed],
        },
    )
    rows = connection.execute(
        "select digest, layout_id from telemetry.layout where digest = any(%s)", [list(layouts)]
    ).fetchall()
    return {bytes(digest): layout_id for digest, layout_id in rows}


def _count(connection: Connection, pairs: Sequence[tuple[int, int]]) -> None:
    """Counts layouts for devices, both by number. Their devices' rows are locked."""
    columns = {"devices": [device for device, _ in pairs], "layouts": [layout for _, layout in pairs]}
    connection.execute(
        "insert into telemetry.device_layout (device_id, layout_id)"
        " select * from unnest(%(devices)s::integer[], %(layouts)s::integer[])"
        " on conflict (device_id, layout_id) do update set counted_since = now()",
        columns,
    )
    connection.execute(
        "insert into telemetry.device_series (device_id, key_id)"
        " select distinct device_id, key_id"
        " from unnest(%(devices)s::integer[], %(layouts)s::integer[]) as wanted (device_id, layout_id)"
        " join telemetry.layout_position using (layout_id) on conflict do nothing",
        columns,
    )
