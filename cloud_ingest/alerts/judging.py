"""A batch of ticks judged: what the machine says of each series, without running it where nothing happens.

A series that is ok and sees nothing beyond a level stays ok. So devices of which nothing is pending or firing, and that
sent nothing beyond a level, are not looked at any further (`concerned`). Of the others the machine runs only for series
that are pending or firing, and for those that see a value beyond a level. `tests/cloud/test_alert_judging.py` shows
that this equals running it for every sample.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from cloud_ingest.alerts.machine import State, Transition, advance
from cloud_ingest.alerts.plan import Floats, Integers, Plan, Watch

_NEVER_MS: Final = -1


class Watched(NamedTuple):
    """A series of a device under a threshold."""

    device_id: int
    threshold_id: int
    key_id: int


@dataclass(frozen=True, slots=True)
class Ticks:
    """Ticks of one layout, of devices with one plan, in any order.

    `device_ids` and `times_ms` have shape (n,), `samples` (n, width).
    """

    layout_id: int
    plan: Plan
    device_ids: Integers
    times_ms: Integers
    samples: Floats

    def of(self, devices: Collection[int]) -> "Ticks":
        """Those of some devices."""
        rows = np.isin(self.device_ids, list(devices))
        return Ticks(self.layout_id, self.plan, self.device_ids[rows], self.times_ms[rows], self.samples[rows])


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of the devices of a batch.

    `states` of what is pending or firing; `newest_ms` of each device and layout; `layouts` of each series that stands
    in more than one.
    """

    states: Mapping[Watched, State]
    newest_ms: Mapping[tuple[int, int], int]
    layouts: Mapping[int, frozenset[int]]


@dataclass(slots=True)
class Judged:
    """What a batch changed: states (idle ones are to be forgotten), what is to be told, newest times, late spans.

    `late_ms` are the first and last time of a device's samples that came late and may have changed something.
    `too_old` is how many of a device's late ticks can't be judged, because they are not kept one by one.
    `withdrawn` are series that were pending or firing under a threshold that does not watch them any more.
    """

    states: dict[Watched, State] = field(default_factory=dict)
    transitions: list[tuple[Watched, Transition]] = field(default_factory=list)
    newest_ms: dict[tuple[int, int], int] = field(default_factory=dict)
    late_ms: dict[int, tuple[int, int]] = field(default_factory=dict)
    too_old: dict[int, int] = field(default_factory=dict)
    withdrawn: list[Watched] = field(default_factory=list)

    @property
    def touched_ms(self) -> dict[int, int]:
        """Up to when anything of a device was pending or firing, in this batch."""
        times = [(it.device_id, state.time_ms or 0) for it, state in self.states.items()]
        times += [(it.device_id, transition.time_ms) for it, transition in self.transitions]
        touched: dict[int, int] = {}
        for device_id, time_ms in times:
            touched[device_id] = max(time_ms, touched.get(device_id, time_ms))
        return touched


class _Rows(NamedTuple):
    """The rows of one device in ticks that are sorted."""

    ticks: Ticks
    start: int
    end: int


def concerned(ticks: Ticks, touched_ms: Mapping[int, int]) -> set[int]:
    """The devices whose ticks may change anything; of the others none need be judged, not even to know that it is late.

    `touched_ms`: up to when anything of a device was pending or firing, where anything ever was. Devices that have
    something pending or firing now are concerned too.
    """
    devices: set[int] = set()
    if touched_ms:
        until = np.array([touched_ms.get(it, _NEVER_MS) for it in ticks.device_ids.tolist()], np.int64)
        devices.update(ticks.device_ids[ticks.times_ms <= until].tolist())
    if len(ticks.times_ms) and ticks.plan.beyond(ticks.samples, np.zeros(1, np.int64)).any():
        rows = ticks.plan.beyond(ticks.samples, np.arange(len(ticks.times_ms))).any(axis=1)
        devices.update(ticks.device_ids[rows].tolist())
    return devices


def judge_batch(batch: Iterable[Ticks], known: Known) -> Judged:
    """Judges the ticks, each device's in the order of time."""
    judged = Judged()
    rows_of: dict[int, list[_Rows]] = {}
    to_run: set[Watched] = set()
    for ticks in (_sorted(it) for it in batch if len(it.times_ms)):
        devices, starts = np.unique(ticks.device_ids, return_index=True)
        ends = [*starts[1:].tolist(), len(ticks.times_ms)]
        rows = [_Rows(ticks, start, end) for start, end in zip(starts.tolist(), ends, strict=True)]
        for device_id, it in zip(devices.tolist(), rows, strict=True):
            rows_of.setdefault(device_id, []).append(it)
        if ticks.plan.watches:
            _note_times(judged, known, ticks, dict(zip(devices.tolist(), rows, strict=True)))
        for group, number in np.argwhere(ticks.plan.beyond(ticks.samples, starts)).tolist():
            watch = ticks.plan.watches[number]
            to_run.add(Watched(int(devices[group]), watch.threshold_id, watch.key_id))
    to_run |= _active(judged, known, rows_of)
    for watched in sorted(to_run):
        _run(judged, known, watched, rows_of[watched.device_id])
    return judged


def note_past(judged: Judged, ticks: Ticks, kept_from_ms: int) -> None:
    """Leaves ticks to be judged as history, as far as they are kept: those from `kept_from_ms` on."""
    watched = ticks.times_ms >= ticks.plan.since_ms
    if not ticks.plan.watches or not watched.any():
        return
    for device_id in np.unique(ticks.device_ids[watched]).tolist():
        times = ticks.times_ms[watched & (ticks.device_ids == device_id)]
        _note_late(judged, device_id, int(times.min()), int(times.max()))
        if too_old := int(np.count_nonzero(times < kept_from_ms)):
            judged.too_old[device_id] = judged.too_old.get(device_id, 0) + too_old


def _sorted(ticks: Ticks) -> Ticks:
    """By device, then by time; of equal times in the order of receipt."""
    steps, times = np.diff(ticks.device_ids), np.diff(ticks.times_ms)
    if bool(np.all((steps > 0) | ((steps == 0) & (times >= 0)))):
        return ticks
    order = np.lexsort((ticks.times_ms, ticks.device_ids))
    return Ticks(ticks.layout_id, ticks.plan, ticks.device_ids[order], ticks.times_ms[order], ticks.samples[order])


def _active(judged: Judged, known: Known, rows_of: Mapping[int, Sequence[_Rows]]) -> set[Watched]:
    """Of what is pending or firing what the batch has samples of; notes what nobody watches any more."""
    found = set()
    for watched in known.states:
        plans = [it.ticks.plan for it in rows_of.get(watched.device_id, ()) if watched.key_id in it.ticks.plan.key_ids]
        if any((watched.threshold_id, watched.key_id) in plan.by_series for plan in plans):
            found.add(watched)
        elif plans:
            judged.withdrawn.append(watched)
    return found


def _note_times(judged: Judged, known: Known, ticks: Ticks, rows_of: Mapping[int, _Rows]) -> None:
    """The newest time of the layout of each device, and what came late."""
    layout_id = ticks.layout_id
    # What was judged of a series in another layout counts too
    sharing = {layout_id}.union(*(known.layouts.get(it, ()) for it in ticks.plan.watched_keys))
    times = ticks.times_ms.tolist()
    for device_id, (_, start, end) in rows_of.items():
        newest = max(
            (time for it in sharing if (time := known.newest_ms.get((device_id, it))) is not None), default=None
        )
        own = judged.newest_ms.get((device_id, layout_id), known.newest_ms.get((device_id, layout_id)))
        last = times[end - 1]
        judged.newest_ms[device_id, layout_id] = last if own is None else max(own, last)
        if newest is not None and times[start] <= newest:
            _note_late(judged, device_id, times[start], times[bisect_right(times, newest, start, end) - 1])
    repeated = (ticks.times_ms[1:] == ticks.times_ms[:-1]) & (ticks.device_ids[1:] == ticks.device_ids[:-1])
    for index in np.flatnonzero(repeated).tolist():
        _note_late(judged, int(ticks.device_ids[index]), times[index], times[index])


def _note_late(judged: Judged, device_id: int, first_ms: int, last_ms: int) -> None:
    first, last = judged.late_ms.get(device_id, (first_ms, last_ms))
    judged.late_ms[device_id] = min(first, first_ms), max(last, last_ms)


def _run(judged: Judged, known: Known, watched: Watched, device_rows: Sequence[_Rows]) -> None:
    """The machine over the samples that the batch has of one series."""
    samples: list[tuple[int, float, Watch]] = []
    layouts = set(known.layouts.get(watched.key_id, ()))
    for ticks, start, end in device_rows:
        watch = ticks.plan.by_series.get((watched.threshold_id, watched.key_id))
        if watch is not None:
            layouts.add(ticks.layout_id)
            values = ticks.samples[start:end, watch.column].tolist()
            samples += [(time, it, watch) for time, it in zip(ticks.times_ms[start:end].tolist(), values, strict=True)]
    newest = [known.newest_ms[watched.device_id, it] for it in layouts if (watched.device_id, it) in known.newest_ms]
    before = known.states.get(watched)
    state = before or State(max(newest, default=None))
    for time_ms, value, watch in sorted(samples, key=_time):
        rule = watch.versions.at(time_ms)
        if rule is None:
            continue
        if state.time_ms is not None and time_ms <= state.time_ms:
            _note_late(judged, watched.device_id, time_ms, time_ms)
        state, transition = advance(state, rule, time_ms, value)
        if transition is not None:
            judged.transitions.append((watched, transition))
    if before is not None or not state.is_idle:
        judged.states[watched] = state


def _time(sample: tuple[int, float, Watch]) -> int:
    return sample[0]
