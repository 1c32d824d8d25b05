"""Alerts of series that send nothing while their device goes on, where the no-data rule of their threshold says so.

One looks at a time. An episode and what is told of it are written in one transaction, and a series has one at most.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from psycopg.types.json import Jsonb

from cloud_ingest.alerts.judging import Watched
from cloud_ingest.alerts.liveness import Hearing, Quiet, has_gone_silent
from cloud_ingest.alerts.precedence import Candidate
from cloud_ingest.alerts.rule import NoData
from cloud_ingest.store import alert_episodes
from cloud_ingest.store.alert_subjects import subjects_of, winners_of
from cloud_ingest.store.database import Connection, translated
from cloud_ingest.store.hearing import READINGS
from cloud_ingest.store.metrics import like_of
from cloud_ingest.store.rollup.state import from_ms, to_ms
from cloud_ingest.store.thresholds import EPOCH_LOCK, candidates

_LOCK: Final = 0x7465_6C65_0007

# Series of these metrics whose newest value in the newest rows of their layouts is older than the newest row of their
# device by more than the shortest silence; of devices that are there. One descent for each layout of a device.
_SUSPECTS: Final = (
    "with watched as materialized (select layout_id, position, key_id from telemetry.layout_position"
    "  join telemetry.series_key using (key_id) where metric like any (%(metrics)s::text[])),"
    " newest as materialized (select device_layout.device_id, layout_id, found.time, found.samples"
    "  from telemetry.device_layout left join telemetry.device_liveness using (device_id)"
    "  cross join lateral (select time, samples from telemetry.reading"
    "   where reading.device_id = device_layout.device_id and reading.layout_id = device_layout.layout_id"
    "   order by time desc limit 1) as found"
    "  where coalesce(online, true) and device_layout.device_id in"
    "   (select device_id from telemetry.device_layout join watched using (layout_id))),"
    " device as (select device_id, max(time) as time from newest group by device_id)"
    " select device_id, key_id from newest join watched using (layout_id) join device using (device_id)"
    " group by device_id, key_id, device.time"
    " having coalesce(max(newest.time) filter (where samples[position] <> 'NaN'), '-infinity')"
    "  < device.time - make_interval(secs => %(shortest)s)"
)
# Of each of these series with its silence: its newest value, its device's newest row, whether the device went on, since
# when it is back, and what the cloud hears of it
_QUIET: Final = (
    "select wanted.device_id, wanted.key_id, wanted.silence, seen.time, device.time, exists ("
    "  select from telemetry.device_layout join telemetry.reading using (device_id, layout_id)"
    "  where device_id = wanted.device_id and reading.time > device.time - make_interval(secs => wanted.silence)"
    "   and reading.time <= device.time - make_interval(secs => wanted.silence / 2)),"
    " device_liveness.since, coalesce(own.since, readings.since), coalesce(own.until, readings.until),"
    " clock_timestamp()"
    " from unnest(%(devices)s::integer[], %(keys)s::integer[], %(silences)s::float8[])"
    "  as wanted (device_id, key_id, silence)"
    " cross join lateral (select max(found.time) as time from telemetry.device_layout"
    "  join telemetry.layout_position using (layout_id)"
    "  cross join lateral (select time from telemetry.reading where reading.device_id = device_layout.device_id"
    "   and reading.layout_id = device_layout.layout_id and samples[position] <> 'NaN'"
    "   order by time desc limit 1) as found"
    "  where device_layout.device_id = wanted.device_id and layout_position.key_id = wanted.key_id) as seen"
    " cross join lateral (select max(found.time) as time from telemetry.device_layout"
    "  cross join lateral (select time from telemetry.reading where reading.device_id = device_layout.device_id"
    "   and reading.layout_id = device_layout.layout_id order by time desc limit 1) as found"
    "  where device_layout.device_id = wanted.device_id) as device"
    " left join telemetry.device_liveness on device_liveness.device_id = wanted.device_id"
    " left join telemetry.publisher on publisher.device_id = wanted.device_id"
    " left join telemetry.hearing as own on own.part = 'source ' || publisher.name"
    " left join telemetry.hearing as readings on readings.part = %(readings)s"
)
# Episodes that are open, with the first value after their silence; of those looked at before, after a time
_OPEN: Final = (
    "select alert_id, device_id, threshold_id, key_id, first.time, first.value, newest.time from telemetry.alert"
    " left join unnest(%(alerts)s::bigint[], %(looked)s::timestamptz[]) as before (alert_id, looked) using (alert_id)"
    " left join lateral (select found.time, found.value from telemetry.device_layout"
    "  join telemetry.layout_position using (layout_id)"
    "  cross join lateral (select time, samples[position] as value from telemetry.reading"
    "   where reading.device_id = alert.device_id and reading.layout_id = device_layout.layout_id"
    "   and reading.time > coalesce(before.looked, alert.start_at) and samples[position] <> 'NaN'"
    "   order by time limit 1) as found"
    "  where device_layout.device_id = alert.device_id and layout_position.key_id = alert.key_id"
    "  order by found.time limit 1) as first on true"
    " left join lateral (select max(found.time) as time from telemetry.device_layout"
    "  join telemetry.layout_position using (layout_id)"
    "  cross join lateral (select time from telemetry.reading where reading.device_id = alert.device_id"
    "   and reading.layout_id = device_layout.layout_id order by time desc limit 1) as found"
    "  where device_layout.device_id = alert.device_id and layout_position.key_id = alert.key_id) as newest on true"
    " where ended_at is null and no_data"
)
# An episode and what is told of it, unless the series has one
_BEGIN: Final = (
    "with made as (insert into telemetry.alert"
    "  (threshold_id, version, device_id, key_id, severity, start_at, fired_at, no_data)"
    "  select threshold_id, version, %(device)s, %(key)s, %(severity)s, %(start)s, greatest(now(), %(start)s), true"
    "  from telemetry.threshold where threshold_id = %(threshold)s on conflict do nothing returning alert_id)"
    " insert into telemetry.notification (alert_id, kind, content) select alert_id, 'opened', %(content)s from made"
)
_END: Final = (
    "with changed as (update telemetry.alert set ended_at = greatest(coalesce(%(end)s, now()), fired_at),"
    "  end_reason = %(reason)s, last_value = %(last)s where alert_id = %(alert)s and ended_at is null"
    "  returning alert_id, severity)"
    " insert into telemetry.notification (alert_id, kind, content)"
    " select alert_id, 'ended', %(content)s || jsonb_build_object('severity', severity) from changed"
)


class _Series(NamedTuple):
    device_id: int
    key_id: int


class SilentSeries:
    """What is known between two looks; whoever starts anew finds the same."""

    def __init__(self, grace_ms: int) -> None:
        self._grace_ms = grace_ms
        self._epoch: int | None = None
        self._known: list[Candidate] = []
        self._metrics: list[str] = []
        self._shortest_seconds = 0.0
        self._rules: dict[_Series, list[Candidate]] = {}  # those whose silence is told, of series that were suspect
        self._never_seen: set[_Series] = set()
        self._looked: dict[int, datetime] = {}  # up to which time an open episode was looked for a value

    def look(self, connection: Connection) -> int:
        """Begins and ends episodes; how many. Does nothing where another looks just now. Raises StoreUnavailable."""
        with translated(), connection.transaction():
            ((mine,),) = connection.execute("select pg_try_advisory_xact_lock(%s)", [_LOCK]).fetchall()
            if not mine:
                return 0
            # Before the epoch is read: it must be that of whoever held the lock
            connection.execute("select pg_advisory_xact_lock_shared(%s)", [EPOCH_LOCK])
            self._read_thresholds(connection)
            open_, ended = self._end(connection)
            return ended + (self._begin(connection, open_) if self._metrics else 0)

    def _read_thresholds(self, connection: Connection) -> None:
        ((epoch,),) = connection.execute("select epoch from telemetry.threshold_epoch").fetchall()
        if epoch == self._epoch:
            return
        self._known = [it for it in candidates(connection) if it.definition.enabled]
        telling = [it.definition for it in self._known if it.definition.no_data.then is NoData.ALERT]
        # `?` of a pattern is left to the precise look
        self._metrics = sorted({like_of(it.metric.replace("?", "*")) or "%" for it in telling})
        self._shortest_seconds = min((it.no_data.after_seconds for it in telling), default=0.0)
        self._rules.clear()
        self._epoch = epoch

    def _find_rules(self, connection: Connection, series: Iterable[_Series]) -> None:
        unknown = [Watched(it.device_id, 0, it.key_id) for it in series if it not in self._rules]
        for watched, subject in (subjects_of(connection, unknown) if unknown else {}).items():
            self._rules[_Series(watched.device_id, watched.key_id)] = [
                it for it in winners_of(subject, self._known) if it.definition.no_data.then is NoData.ALERT
            ]

    def _end(self, connection: Connection) -> tuple[set[Watched], int]:
        """Ends what came back, and what no threshold tells any more; what is still open, and how many ended."""
        rows = connection.execute(
            _OPEN, {"alerts": list(self._looked), "looked": list(self._looked.values())}
        ).fetchall()
        self._find_rules(connection, {_Series(row[1], row[3]) for row in rows})
        still, looked, over = set(), {}, []
        for row in rows:
            watched = Watched(*row[1:4])
            rules = self._rules[_Series(watched.device_id, watched.key_id)]
            if row[4] is not None or all(it.threshold_id != watched.threshold_id for it in rules):
                over.append(row)
            else:
                still.add(watched)
                if row[6] is not None:
                    looked[row[0]] = row[6]
        self._looked = looked
        subjects = subjects_of(connection, [Watched(*row[1:4]) for row in over])
        names = {it.threshold_id: it.definition.name for it in self._known}
        for alert_id, device_id, threshold_id, key_id, time, value, _ in over:
            watched = Watched(device_id, threshold_id, key_id)
            reason = "withdrawn" if time is None else "returned"
            content = alert_episodes.about(subjects[watched]) | {
                "kind": "ended",
                "threshold": names.get(threshold_id),
                "reason": reason,
                "no_data": True,
                "value": value,
            }
            connection.execute(
                _END, {"alert": alert_id, "end": time, "reason": reason, "last": value, "content": Jsonb(content)}
            )
        return still, len(over)

    def _begin(self, connection: Connection, open_: Collection[Watched]) -> int:
        suspects = {
            _Series(*row)
            for row in connection.execute(
                _SUSPECTS, {"metrics": self._metrics, "shortest": self._shortest_seconds}
            ).fetchall()
        }
        self._never_seen &= suspects
        self._find_rules(connection, suspects)
        wanted = [
            (series, rule)
            for series in sorted(suspects - self._never_seen)
            for rule in self._rules[series]
            if Watched(series.device_id, rule.threshold_id, series.key_id) not in open_
        ]
        if not wanted:
            return 0
        rows = connection.execute(
            _QUIET,
            {
                "devices": [series.device_id for series, _ in wanted],
                "keys": [series.key_id for series, _ in wanted],
                "silences": [rule.definition.no_data.after_seconds for _, rule in wanted],
                "readings": READINGS,
            },
        ).fetchall()
        found = {row[:3]: row[3:] for row in rows}
        return sum(
            self._begin_one(connection, series, rule, found[*series, rule.definition.no_data.after_seconds])
            for series, rule in wanted
        )

    def _begin_one(self, connection: Connection, series: _Series, rule: Candidate, row: Sequence[Any]) -> int:
        seen, device, went_on, back_since, since, until, now = row
        if seen is None:
            self._never_seen.add(series)
            return 0
        definition = rule.definition
        quiet = Quiet(to_ms(seen), to_ms(device), went_on, None if back_since is None else to_ms(back_since))
        hearing = None if since is None else Hearing(to_ms(since), to_ms(until))
        silence_ms = round(definition.no_data.after_seconds * 1000)
        if not has_gone_silent(quiet, silence_ms, hearing, self._grace_ms, to_ms(now)):
            return 0
        watched = Watched(series.device_id, rule.threshold_id, series.key_id)
        subject = subjects_of(connection, [watched])[watched]
        severity = "critical" if definition.warning is None else "warning"
        content = alert_episodes.about(subject) | {
            "kind": "opened",
            "threshold": definition.name,
            "severity": severity,
            "no_data": True,
            "value": None,
            "level": None,
            "time_ms": to_ms(now),
            "start_ms": quiet.seen_ms,
            "message": f"{subject.device.name}: {subject.key} is silent",
        }
        return connection.execute(
            _BEGIN,
            {
                "device": series.device_id,
                "key": series.key_id,
                "threshold": rule.threshold_id,
                "severity": severity,
                "start": from_ms(quiet.seen_ms),
                "content": Jsonb(content),
            },
        ).rowcount
