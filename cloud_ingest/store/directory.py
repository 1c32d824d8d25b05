"""Names -> the small numbers that readings hold: devices, series keys and layouts, made when first seen.

These rows are made in short transactions of their own, before the batch that needs them: a batch that then fails
leaves a name nobody uses yet, which does no harm, and no batch holds locks on names that others want.
"""

import hashlib
from collections.abc import Iterable
from typing import Final, TypeAlias
from uuid import UUID

from psycopg.types.json import Jsonb

from cloud_ingest.store import ledger
from cloud_ingest.store.database import Connection
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.metrics import unit_of
from telemetry_contract.series import SeriesKey

MAX_SERIES_A_TICK: Final = 10_000
_MAX_CACHED_LAYOUTS: Final = 100_000
_MAX_CACHED_STREAMS: Final = 1_000_000

Keys: TypeAlias = tuple[str, ...]


class Directory:
    """The numbers of one database, remembered. A new connection gets a new directory: it may be another database."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._devices: dict[str, tuple[int, str]] = {}
        self._layouts: dict[Keys, int] = {}
        self._device_layouts: set[tuple[int, int]] = set()
        self._streams: set[UUID] = set()

    def devices(self, wanted: Iterable[tuple[str, str]]) -> dict[str, int]:
        """Name -> number of each (name, site). A device that moved to another site keeps its number."""
        sites = dict(wanted)
        unknown = sorted(name for name, site in sites.items() if self._devices.get(name, (0, None))[1] != site)
        if unknown:
            rows = self._connection.execute(
                # Sorted, so that two ingesters that make the same devices wait for each other and don't deadlock
                "insert into telemetry.device (name, site)"
                " select name, site from unnest(%(names)s::text[], %(sites)s::text[]) as wanted (name, site)"
                " order by name"
                " on conflict (name) do update set site = excluded.site returning name, device_id",
                {"names": unknown, "sites": [sites[name] for name in unknown]},
            ).fetchall()
            self._devices.update((name, (device_id, sites[name])) for name, device_id in rows)
        return {name: self._devices[name][0] for name in sites}

    def layouts(self, wanted: Iterable[Keys]) -> tuple[dict[Keys, int], dict[Keys, str]]:
        """Keys -> number of the layout, and for keys that can't be a layout a text that says what is wrong."""
        if len(self._layouts) > _MAX_CACHED_LAYOUTS:
            self._layouts.clear()
        numbers: dict[Keys, int] = {}
        invalid: dict[Keys, str] = {}
        for keys in set(wanted):
            try:
                numbers[keys] = self._layouts[keys] if keys in self._layouts else self._layout(keys)
            except InvalidSeriesKey as exc:
                invalid[keys] = str(exc)
        return numbers, invalid

    def note_device_layouts(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Remembers that these devices (first) send these layouts (second)."""
        new = sorted(set(pairs) - self._device_layouts)
        if not new:
            return
        self._connection.execute(
            "insert into telemetry.device_layout (device_id, layout_id)"
            " select * from unnest(%(devices)s::integer[], %(layouts)s::integer[]) on conflict do nothing",
            {"devices": [device for device, _ in new], "layouts": [layout for _, layout in new]},
        )
        self._device_layouts.update(new)

    def make_streams(self, wanted: Iterable[tuple[UUID, int]]) -> None:
        """Makes the ledger rows of streams, each with the number of its device, where there are none."""
        unknown = {stream: device for stream, device in wanted if stream not in self._streams}
        if unknown:
            ledger.create(self._connection, unknown)
            if len(self._streams) > _MAX_CACHED_STREAMS:
                self._streams.clear()
            self._streams.update(unknown)

    def forget_streams(self) -> None:
        """Some of them are gone: somebody deleted rows of the ledger."""
        self._streams.clear()

    def _layout(self, keys: Keys) -> int:
        if len(keys) > MAX_SERIES_A_TICK:
            raise InvalidSeriesKey(f"{len(keys)} series in one tick, more than {MAX_SERIES_A_TICK}")
        series = [SeriesKey.parse(key) for key in keys]
        canonical = [str(key) for key in series]
        if len(set(canonical)) < len(canonical):
            twice = next(key for key in canonical if canonical.count(key) > 1)
            raise InvalidSeriesKey(f"series {twice!r} is given twice, with its labels in another order")
        self._layouts[keys] = layout_id = self._find_or_make(series, canonical)
        return layout_id

    def _find_or_make(self, series: list[SeriesKey], canonical: list[str]) -> int:
        # A canonical key holds no line feed: its labels escape it
        digest = hashlib.sha256("\n".join(canonical).encode()).digest()
        found = self._connection.execute(
            "select layout_id from telemetry.layout where digest = %s", [digest]
        ).fetchone()
        if found is not None:
            return int(found[0])
        with self._connection.transaction():
            self._make_series(series, canonical)
            # The layout and its positions appear together; who loses the race finds both
            made = self._connection.execute(
                "insert into telemetry.layout (digest) values (%s) on conflict do nothing returning layout_id", [digest]
            ).fetchone()
            if made is not None:
                self._connection.execute(
                    "insert into telemetry.layout_position (layout_id, position, key_id)"
                    " select %(layout)s, wanted.position, series_key.key_id"
                    " from unnest(%(keys)s::text[]) with ordinality as wanted (key, position)"
                    " join telemetry.series_key using (key)",
                    {"layout": made[0], "keys": canonical},
                )
                return int(made[0])
        return self._find_or_make(series, canonical)

    def _make_series(self, series: list[SeriesKey], canonical: list[str]) -> None:
        self._connection.execute(
            "insert into telemetry.series_key (key, metric, labels, unit)"
            " select * from unnest(%(keys)s::text[], %(metrics)s::text[], %(labels)s::jsonb[], %(units)s::text[])"
            " as wanted (key, metric, labels, unit) order by key on conflict (key) do nothing",
            {
                "keys": canonical,
                "metrics": [key.metric for key in series],
                "labels": [Jsonb(dict(key.labels)) for key in series],
                "units": [unit_of(key.metric) for key in series],
            },
        )
