"""Judges as history what came late, a device at a time, once nothing more is on its way.

What is found is found without a lock, which may take seconds where a device comes back from a long outage. Then the
device is locked, as for a batch, and what was found is written if nothing of the device was stored meanwhile; a device
that never pauses for so long is judged under the lock in the end. Whoever is killed in between leaves the marks, and
the next one judges.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from psycopg import sql

from cloud_ingest.alerts.history import Sample, in_order
from cloud_ingest.alerts.judging import Judged, Watched
from cloud_ingest.alerts.late import Recorded, Revision, judge_late
from cloud_ingest.alerts.machine import State
from cloud_ingest.alerts.plan import Plan, Watch
from cloud_ingest.store import alert_states, late_episodes
from cloud_ingest.store.database import Connection, translated
from cloud_ingest.store.judging import Judging
from cloud_ingest.store.late_episodes import Return
from cloud_ingest.store.rollup.copying import READING_COLUMNS, Samples, fetch_samples
from cloud_ingest.store.rollup.state import from_ms, hold_state, read_state
from cloud_ingest.store.tiers import RAW

_ATTEMPTS: Final = 3
_FIRST_REACH_MS: Final = 15 * 60_000
# A stream with a hole above its `low` has more to come; one that was not heard of since has not.
_DUE: Final = """
    select device_id from telemetry.alert_device
    where late_first_ms is not null and (
        coalesce(late_since < now() - %(longest)s * interval '1 second', true)
        or (late_at < now() - %(quiet)s * interval '1 second' and not exists (
            select from telemetry.stream
            where stream.device_id = alert_device.device_id and stream.last_seen >= alert_device.late_since
            and not stream.received @> int8range(least(stream.low, upper(stream.received)), upper(stream.received))
        ))
    ) order by late_at nulls first limit %(limit)s
"""
_END_OF_TIME_MS: Final = 4_102_444_800_000  # 2100, later than any reading
_READ: Final = sql.SQL(
    "select {} from telemetry.reading where device_id = %(device)s and layout_id = %(layout)s"
    " and time >= %(start)s and time < %(end)s"
).format(READING_COLUMNS)

# The watches of a series by layout.
_Watches: TypeAlias = dict[Watched, dict[int, Watch]]


class _Mark(NamedTuple):
    """What came late of a device. It is another one as soon as anything more of it is stored."""

    first_ms: int
    last_ms: int
    at: object
    since: object
    too_old: int
    ticks: int
    newest_ms: int


@dataclass(slots=True)
class _Found:
    """What the late samples of a device change, as of an epoch of the thresholds and a floor of the raw readings."""

    epoch: int
    floor_ms: int
    revisions: dict[Watched, Revision] = field(default_factory=dict)
    states: dict[Watched, State] = field(default_factory=dict)


class LateHistory:
    """Works over one connection in autocommit mode, next to any number of ingesters. Not thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._judging = Judging(connection)

    def due(self, *, quiet_seconds: float, longest_seconds: float, limit: int = 100) -> list[int]:
        """Devices whose late samples are all there: none came for a while, and the edge holds no more back.

        A device that has been at it for `longest_seconds` is not waited for. Raises StoreUnavailable.
        """
        with translated():
            rows = self._connection.execute(
                _DUE, {"quiet": quiet_seconds, "longest": longest_seconds, "limit": limit}
            ).fetchall()
        return [device_id for (device_id,) in rows]

    def judge(self, device_id: int) -> Return | None:
        """Judges what came late of a device; what that changed, or None where nothing was to be judged.

        In one transaction, with the digest. Raises StoreUnavailable, and nothing has changed then.
        """
        with translated():
            for _ in range(_ATTEMPTS):
                with self._connection.transaction():
                    mark, found = self._mark(device_id), None
                if mark is not None:
                    found = self._find(device_id, mark)
                with self._connection.transaction():
                    floor_ms = self._hold(device_id)
                    if self._mark(device_id) != mark:
                        continue
                    if mark is None or found is None:
                        return None
                    if (found.epoch, found.floor_ms) == (self._judging.epoch, floor_ms):
                        return self._write(device_id, mark, found)
            with self._connection.transaction():
                self._hold(device_id)
                mark = self._mark(device_id)
                return None if mark is None else self._write(device_id, mark, self._find(device_id, mark))

    def _hold(self, device_id: int) -> int:
        """Locks in the order of a batch; from when on readings are kept one by one, until the transaction ends."""
        floor_ms = hold_state(self._connection).floors[RAW.level]
        self._judging.hold()
        alert_states.lock(self._connection, [device_id])
        return floor_ms

    def _mark(self, device_id: int) -> _Mark | None:
        row = self._connection.execute(
            "select late_first_ms, late_last_ms, late_at, late_since, late_too_old, sum(ticks)::bigint,"
            " coalesce((extract(epoch from max(newest)) * 1000)::bigint, late_last_ms)"
            " from telemetry.alert_device left join telemetry.stream using (device_id)"
            " where device_id = %s and late_first_ms is not null group by alert_device.device_id",
            [device_id],
        ).fetchone()
        return None if row is None else _Mark(*row)

    def _find(self, device_id: int, mark: _Mark) -> _Found:
        with self._connection.transaction():  # thresholds are looked at within one
            plans = self._judging.plans(device_id, self._layouts(device_id))
        plans = {layout_id: plan for layout_id, plan in plans.items() if plan.watches}
        found = _Found(self._judging.epoch, read_state(self._connection).floors[RAW.level])
        first_ms = max(mark.first_ms, found.floor_ms)
        if not plans or mark.last_ms < first_ms:
            return found
        states = alert_states.read(self._connection, [device_id])
        recorded = late_episodes.read(self._connection, device_id, states, found.floor_ms)
        concerned = {it for it, state in states.items() if state.beyond_since_ms is not None}
        concerned |= {it for it, episodes in recorded.items() if _any_overlap(episodes, first_ms, mark.last_ms)}
        for layout_id, plan in plans.items():
            for part in self._read(device_id, layout_id, plan.key_ids, first_ms, mark.last_ms + 1):
                beyond = plan.beyond(part.samples, np.zeros(1, np.int64))[0]
                watches = (plan.watches[number] for number in np.flatnonzero(beyond).tolist())
                concerned |= {Watched(device_id, it.threshold_id, it.key_id) for it in watches}
        oldest_ms = max(found.floor_ms, min(plan.since_ms for plan in plans.values()))
        extent = _Extent(first_ms, mark.last_ms, oldest_ms, max(mark.last_ms, mark.newest_ms))
        self._judge_series(found, _watches(concerned, plans), plans, extent, recorded)
        return found

    def _judge_series(
        self,
        found: _Found,
        wanted: _Watches,
        plans: Mapping[int, Plan],
        extent: "_Extent",
        recorded: Mapping[Watched, Sequence[Recorded]],
    ) -> None:
        """Judges series, reaching further around the late samples until clear ones enclose them."""
        reach_ms = _FIRST_REACH_MS
        while wanted:
            start_ms, end_ms = extent.reach(reach_ms)
            samples = self._samples(wanted, plans, start_ms, end_ms)
            for watched in list(wanted):
                versions = next(iter(wanted[watched].values())).versions
                judged = judge_late(
                    versions, in_order(samples[watched]), extent.first_ms, extent.last_ms, recorded.get(watched, [])
                )
                from_the_oldest, to_the_newest = start_ms <= extent.oldest_ms, end_ms > extent.newest_ms
                if (from_the_oldest or judged.span.after_ms is not None) and (
                    to_the_newest or judged.span.until_ms is not None
                ):
                    found.revisions[watched] = judged.revision
                    if judged.state is not None:
                        found.states[watched] = judged.state
                    del wanted[watched]
            reach_ms *= 4

    def _samples(
        self, wanted: _Watches, plans: Mapping[int, Plan], start_ms: int, end_ms: int
    ) -> dict[Watched, list[Sample]]:
        samples: dict[Watched, list[Sample]] = {watched: [] for watched in wanted}
        for layout_id, plan in plans.items():
            here = {watched: watches[layout_id] for watched, watches in wanted.items() if layout_id in watches}
            if not here:
                continue
            device_id = next(iter(here)).device_id
            for part in self._read(device_id, layout_id, plan.key_ids, start_ms, end_ms):
                times = part.times_ms.tolist()
                for watched, watch in here.items():
                    samples[watched] += map(Sample, times, part.samples[:, watch.column].tolist())
        return samples

    def _layouts(self, device_id: int) -> list[int]:
        rows = self._connection.execute(
            "select layout_id from telemetry.device_layout where device_id = %s", [device_id]
        ).fetchall()
        return [layout_id for (layout_id,) in rows]

    def _read(
        self, device_id: int, layout_id: int, keys: Collection[int], start_ms: int, end_ms: int
    ) -> Iterator[Samples]:
        where = {"device": device_id, "layout": layout_id, "start": from_ms(start_ms), "end": from_ms(end_ms)}
        return fetch_samples(self._connection, _READ, where, len(keys))

    def _write(self, device_id: int, mark: _Mark, found: _Found) -> Return:
        """Writes what was found, inside the transaction that holds the device."""
        alert_states.write(self._connection, Judged(states=found.states))
        told = Return(device_id, mark.first_ms, mark.last_ms, mark.too_old, found.revisions)
        late_episodes.write(self._connection, told, self._judging.subjects())
        self._connection.execute(
            "update telemetry.alert_device set late_first_ms = null, late_last_ms = null, late_since = null,"
            " late_at = null, late_too_old = 0, touched_ms = greatest(touched_ms, %(touched)s)"
            " where device_id = %(device)s",
            {"device": device_id, "touched": max((it.touched_ms for it in found.revisions.values()), default=0)},
        )
        return told


class _Extent(NamedTuple):
    """From when to when samples came late, and from when to when there are any at all; all included, in ms."""

    first_ms: int
    last_ms: int
    oldest_ms: int
    newest_ms: int

    def reach(self, reach_ms: int) -> tuple[int, int]:
        """So far around the late samples; the end is not included."""
        end_ms = self.last_ms + reach_ms
        return max(self.oldest_ms, self.first_ms - reach_ms), _END_OF_TIME_MS if end_ms > self.newest_ms else end_ms


def _watches(concerned: Collection[Watched], plans: Mapping[int, Plan]) -> _Watches:
    """By series, and by the layouts in which they stand; not those that no threshold watches any more."""
    watches: _Watches = {}
    for layout_id, plan in plans.items():
        for watched in concerned:
            watch = plan.by_series.get((watched.threshold_id, watched.key_id))
            if watch is not None:
                watches.setdefault(watched, {})[layout_id] = watch
    return watches


def _any_overlap(recorded: Sequence[Recorded], first_ms: int, last_ms: int) -> bool:
    return any(
        it.episode.start_ms <= last_ms and (it.episode.end_ms is None or it.episode.end_ms >= first_ms)
        for it in recorded
    )
