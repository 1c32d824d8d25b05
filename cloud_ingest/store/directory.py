"""Names -> the small numbers that readings hold: devices, series keys and layouts, made when first seen.

These rows are made in short transactions of their own, before the batch that needs them: a batch that then fails
leaves a name nobody uses yet, which does no harm, and no batch holds locks on names that others want.
"""

import hashlib
import time
from collections.abc import Iterable
from typing import Final, TypeAlias
from uuid import UUID

from cloud_ingest.store import cardinality, ledger
from cloud_ingest.store.cardinality import Budget, Layout, Refusal
from cloud_ingest.store.database import Connection
from telemetry_contract.errors import InvalidSeriesKey

_MAX_CACHED_LAYOUTS: Final = 100_000
_MAX_CACHED_PAIRS: Final = 1_000_000
_MAX_CACHED_STREAMS: Final = 1_000_000
# How long it may take until an ingester notices that the worker has retired a layout, or that a budget has room again.
_ADMITTED_SECONDS: Final = 3_600.0
_REFUSED_SECONDS: Final = 60.0

Keys: TypeAlias = tuple[str, ...]
# A device by its number, and the keys of a tick of it.
Sent: TypeAlias = tuple[int, Keys]


class Directory:
    """The numbers of one database, remembered. A new connection gets a new directory: it may be another database."""

    def __init__(self, connection: Connection, budget: Budget) -> None:
        self._connection = connection
        self._budget = budget
        self._devices: dict[str, tuple[int, str]] = {}
        self._layouts: dict[Keys, int] = {}
        self._admitted: set[tuple[int, int]] = set()
        self._refused: dict[tuple[int, bytes], Refusal] = {}
        self._admitted_until = self._refused_until = 0.0
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

    def layouts(self, wanted: Iterable[Sent]) -> tuple[dict[Keys, int], dict[Sent, Refusal]]:
        """Keys -> number of the layout, and for what a device may not send the reason. Each has at least one key."""
        self._forget()
        numbers: dict[Keys, int] = {}
        unknown: list[Sent] = []
        for sent in dict.fromkeys(wanted):
            device, keys = sent
            layout_id = self._layouts.get(keys)
            if layout_id is not None and (device, layout_id) in self._admitted:
                numbers[keys] = layout_id
            else:
                unknown.append(sent)
        if not unknown:
            return numbers, {}
        found, refused = self._admit(unknown)
        return numbers | found, refused

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

    def _admit(self, unknown: list[Sent]) -> tuple[dict[Keys, int], dict[Sent, Refusal]]:
        refused = {sent: why for sent in unknown if (why := self._refused.get(_short(sent))) is not None}
        layouts: dict[Keys, Layout | Refusal] = {
            keys: _layout(keys) for keys in {sent[1] for sent in unknown if sent not in refused}
        }
        wanted: dict[Sent, Layout] = {}
        for sent in unknown:
            layout = layouts.get(sent[1])
            if isinstance(layout, Refusal):
                refused[sent] = layout
            elif layout is not None:
                wanted[sent] = layout
        if not wanted:
            return {}, refused
        pairs = [(device, layout) for (device, _), layout in wanted.items()]
        numbers = cardinality.counted(self._connection, pairs)
        new = [pair for pair in pairs if (pair[0], pair[1].digest) not in numbers]
        too_much: dict[cardinality.Pair, Refusal] = {}
        if new:
            admitted, too_much = cardinality.admit(self._connection, new, self._budget)
            numbers |= admitted
        found: dict[Keys, int] = {}
        for sent, layout in wanted.items():
            pair = sent[0], layout.digest
            if pair in numbers:
                self._layouts[sent[1]] = found[sent[1]] = numbers[pair]
                self._admitted.add((sent[0], numbers[pair]))
            else:
                self._refused[_short(sent)] = refused[sent] = too_much[pair]
        return found, refused

    def _forget(self) -> None:
        """What was remembered for long enough, or has become too much."""
        now = time.monotonic()
        if now >= self._admitted_until or len(self._admitted) > _MAX_CACHED_PAIRS:
            self._admitted.clear()
            self._admitted_until = now + _ADMITTED_SECONDS
        if now >= self._refused_until or len(self._refused) > _MAX_CACHED_LAYOUTS:
            self._refused.clear()
            self._refused_until = now + _REFUSED_SECONDS
        if len(self._layouts) > _MAX_CACHED_LAYOUTS:
            self._layouts.clear()


def _layout(keys: Keys) -> Layout | Refusal:
    try:
        return Layout.of(keys)
    except InvalidSeriesKey as exc:
        return Refusal("invalid_series_key", str(exc))


def _short(sent: Sent) -> tuple[int, bytes]:
    """What stands for keys that nobody may send: there may be many of them, and each may be long."""
    device, keys = sent
    return device, hashlib.sha256("\n".join(keys).encode("utf-8", "surrogatepass")).digest()
