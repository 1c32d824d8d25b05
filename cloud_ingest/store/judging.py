"""Judges the readings of a batch in the transaction that stores them.

What it does with a batch: find the plans of its layouts (kept until thresholds or places change), lock and read what is
remembered of its devices, judge, and write what changed. A device is judged by one transaction at a time.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cloud_ingest.alerts.judging import Judged, Known, Ticks, concerned, judge_batch, note_past
from cloud_ingest.alerts.plan import Column, Device, Placed, Plan, compile_plan, plan_class
from cloud_ingest.alerts.precedence import Candidate
from cloud_ingest.alerts.rule import Versions
from cloud_ingest.store import alert_episodes, alert_states
from cloud_ingest.store.alert_episodes import Subject
from cloud_ingest.store.database import Connection
from cloud_ingest.store.rollup.late import Readings
from cloud_ingest.store.thresholds import EPOCH_LOCK, candidates, versions
from telemetry_contract.series import SeriesKey

_Class = tuple[object, ...]


class _Thresholds(NamedTuple):
    """What judges, as of an epoch. `devices` are those that selectors name.

    `anything` is False where there is nothing to judge by and nothing to withdraw.
    """

    epoch: int
    candidates: Sequence[Candidate]
    versions: Mapping[int, Versions]
    devices: frozenset[str]
    anything: bool


class Judging:
    """What is known over one connection of thresholds, devices and layouts. Not thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._thresholds = _Thresholds(-1, [], {}, frozenset(), anything=False)
        self._devices: dict[int, Device] = {}
        self._plans: dict[tuple[int, _Class], Plan] = {}
        self._columns: dict[int, list[Column]] = {}  # a layout never changes
        self._layouts: dict[int, set[int]] = {}  # by the series that stand in them

    def judge(self, present: Iterable[Readings], past: Iterable[Readings], kept_from_ms: int) -> None:
        """Judges readings that will be stored for the first time, inside the transaction that stores them.

        Those of the past are left to be judged as history; what is from before `kept_from_ms` can't be.

        Raises what the driver raises; nothing is kept then that the database does not hold.
        """
        present, past = ([it for it in group if len(it.times_ms)] for group in (present, past))
        readings = [*present, *past]
        if not readings:
            return
        thresholds = self._current()
        if not thresholds.anything:
            return
        device_ids = sorted(set().union(*(it.device_ids.tolist() for it in readings)))
        self._find_devices(device_ids)
        self._find_columns(it.layout_id for it in readings)
        ticks = [it for group in present for it in self._by_plan(group, thresholds)]
        touched_ms = alert_states.lock(self._connection, device_ids)
        states = alert_states.read(self._connection, device_ids)
        wanted = {it.device_id for it in states}.union(*(concerned(it, touched_ms) for it in ticks))
        judged = Judged()
        if wanted:
            newest = alert_states.newest(self._connection, sorted(wanted))
            self._find_columns(layout_id for _, layout_id in newest)
            layouts = {key_id: frozenset(it) for key_id, it in self._layouts.items() if len(it) > 1}
            judged = judge_batch([it.of(wanted) for it in ticks], Known(states, newest, layouts))
        for group in past:
            for it in self._by_plan(group, thresholds):
                note_past(judged, it, kept_from_ms)
        alert_states.write(self._connection, judged)
        alert_episodes.write(self._connection, judged, self._subject(thresholds))

    def plans(self, device_id: int, layout_ids: Collection[int]) -> dict[int, Plan]:
        """Those by which a device's ticks are judged until this transaction ends, by their layouts."""
        thresholds = self._current()
        self._find_devices([device_id])
        self._find_columns(layout_ids)
        return {
            it: self._plan(it, plan_class(self._devices[device_id], thresholds.devices), device_id, thresholds)
            for it in layout_ids
        }

    def hold(self) -> None:
        """Keeps thresholds as they are until this transaction ends; `epoch` then says which they are."""
        self._current()

    @property
    def epoch(self) -> int:
        """Of the thresholds that were looked at last; another one where anything of them has changed."""
        return self._thresholds.epoch

    def subjects(self) -> Callable[[int, int, int], Subject]:
        """What an alert is about: a function of the numbers of device, threshold and series."""
        return self._subject(self._thresholds)

    def _current(self) -> _Thresholds:
        """The thresholds that apply until this transaction ends."""
        # Two statements: the second must see what whoever held the lock has committed
        self._connection.execute("select pg_advisory_xact_lock_shared(%s)", [EPOCH_LOCK])
        ((epoch, remembers),) = self._connection.execute(
            "select epoch, exists (select from telemetry.alert_state) from telemetry.threshold_epoch"
        ).fetchall()
        if epoch != self._thresholds.epoch:
            known = [it for it in candidates(self._connection) if it.definition.enabled]
            named = frozenset(it.definition.selector.device for it in known if it.definition.selector.device)
            self._thresholds = _Thresholds(epoch, known, versions(self._connection), named, anything=bool(known))
            self._devices.clear()
            self._plans.clear()
        return self._thresholds._replace(anything=self._thresholds.anything or remembers)

    def _find_devices(self, device_ids: Iterable[int]) -> None:
        unknown = [it for it in device_ids if it not in self._devices]
        if not unknown:
            return
        rows = self._connection.execute(
            "select device_id, device.name, site, path::text"
            " from telemetry.device left join telemetry.location using (location_id) where device_id = any (%s)",
            [unknown],
        ).fetchall()
        sensors: dict[int, dict[int, Placed]] = {}
        for device_id, key_id, location, sensor_type in self._connection.execute(
            "select device_id, key_id, path::text, sensor_type"
            " from telemetry.sensor left join telemetry.location using (location_id) where device_id = any (%s)",
            [unknown],
        ).fetchall():
            sensors.setdefault(device_id, {})[key_id] = Placed(location, sensor_type)
        for device_id, name, site, location in rows:
            self._devices[device_id] = Device(name, site, location, sensors.get(device_id, {}))

    def _find_columns(self, layout_ids: Iterable[int]) -> None:
        unknown = sorted(set(layout_ids) - self._columns.keys())
        if not unknown:
            return
        for layout_id, key_id, key in self._connection.execute(
            "select layout_id, key_id, key from telemetry.layout_position join telemetry.series_key using (key_id)"
            " where layout_id = any (%s) order by layout_id, position",
            [unknown],
        ).fetchall():
            self._columns.setdefault(layout_id, []).append(Column(key_id, SeriesKey.parse(key)))
            self._layouts.setdefault(key_id, set()).add(layout_id)

    def _by_plan(self, readings: Readings, thresholds: _Thresholds) -> Iterable[Ticks]:
        """The readings of one layout, split where devices have different plans."""
        layout_id = readings.layout_id
        classes: dict[_Class, list[int]] = {}
        for device_id in np.unique(readings.device_ids).tolist():
            device = self._devices[device_id]
            classes.setdefault(plan_class(device, thresholds.devices), []).append(device_id)
        for name, members in classes.items():
            plan = self._plan(layout_id, name, members[0], thresholds)
            own = readings if len(classes) == 1 else readings.rows(np.isin(readings.device_ids, members))
            yield Ticks(layout_id, plan, own.device_ids, own.times_ms, own.samples)

    def _plan(self, layout_id: int, name: _Class, device_id: int, thresholds: _Thresholds) -> Plan:
        plan = self._plans.get((layout_id, name))
        if plan is None:
            device = self._devices[device_id]
            plan = compile_plan(self._columns[layout_id], device, thresholds.candidates, thresholds.versions)
            self._plans[layout_id, name] = plan
        return plan

    def _subject(self, thresholds: _Thresholds) -> Callable[[int, int, int], Subject]:
        """What an alert is about: a function of the numbers of device, threshold and series."""
        definitions = {it.threshold_id: it.definition for it in thresholds.candidates}
        keys = {column.key_id: column.key for columns in self._columns.values() for column in columns}

        def subject(device_id: int, threshold_id: int, key_id: int) -> Subject:
            return Subject(self._devices[device_id], definitions.get(threshold_id), keys[key_id], key_id)

        return subject
