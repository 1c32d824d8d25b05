"""What the machine remembers between two batches, by device."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cloud_ingest.alerts.judging import Judged, Watched
from cloud_ingest.alerts.machine import Open, Peak, State
from cloud_ingest.alerts.rule import Severity
from cloud_ingest.store.database import Connection


def lock(connection: Connection, device_ids: Sequence[int]) -> dict[int, int]:
    """Until the transaction ends nobody else judges these devices; up to when anything of each was pending or firing.

    In ms, and not those of which nothing ever was.
    `device_ids` are ascending, so that two ingesters with the same devices can't deadlock.
    """
    rows = _locked(connection, device_ids)
    if len(rows) < len(device_ids):
        connection.execute(
            "insert into telemetry.alert_device (device_id) select * from unnest(%s::integer[]) as wanted (device_id)"
            " order by device_id on conflict do nothing",
            [sorted(set(device_ids) - {row[0] for row in rows})],
        )
        rows = _locked(connection, device_ids)
    return {device_id: touched_ms for device_id, touched_ms in rows if touched_ms}


def _locked(connection: Connection, device_ids: Sequence[int]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select device_id, touched_ms from telemetry.alert_device where device_id = any (%s)"
        " order by device_id for update",
        [device_ids],
    ).fetchall()


def newest(connection: Connection, device_ids: Sequence[int]) -> dict[tuple[int, int], int]:
    """The newest time in ms that is stored of each of these devices and its layouts."""
    rows = connection.execute(
        "select device_id, layout_id, newest_ms from telemetry.device_layout cross join lateral ("
        " select (extract(epoch from time) * 1000)::bigint as newest_ms from telemetry.reading"
        "  where reading.device_id = device_layout.device_id and reading.layout_id = device_layout.layout_id"
        "  order by time desc limit 1) as found"
        " where device_id = any (%s)",
        [device_ids],
    ).fetchall()
    return {(device_id, layout_id): time_ms for device_id, layout_id, time_ms in rows}


def read(connection: Connection, device_ids: Sequence[int]) -> dict[Watched, State]:
    """What is pending or firing of these devices."""
    rows = connection.execute(
        "select device_id, threshold_id, key_id, time_ms, beyond_since_ms, critical_since_ms, seen_ms, version,"
        " peak, peak_ms, last_value, start_ms, fired_ms, severity, open_version"
        " from telemetry.alert_state where device_id = any (%s)",
        [device_ids],
    ).fetchall()
    return {Watched(*row[:3]): _state(row[3:]) for row in rows}


def write(connection: Connection, judged: Judged) -> None:
    """Keeps what a batch changed."""
    _write_touched(connection, judged.touched_ms)
    _write_late(connection, judged)
    forgotten = [*judged.withdrawn, *(it for it, state in judged.states.items() if state.is_idle)]
    if forgotten:
        connection.execute(
            "delete from telemetry.alert_state using unnest(%s::integer[], %s::integer[], %s::integer[])"
            " as gone (device_id, threshold_id, key_id) where alert_state.device_id = gone.device_id"
            " and alert_state.threshold_id = gone.threshold_id and alert_state.key_id = gone.key_id",
            _columns(forgotten, 3),
        )
    kept = [(*watched, *_row(state)) for watched, state in judged.states.items() if not state.is_idle]
    if kept:
        connection.execute(
            "insert into telemetry.alert_state (device_id, threshold_id, key_id, time_ms, beyond_since_ms,"
            " critical_since_ms, seen_ms, version, peak, peak_ms, last_value, start_ms, fired_ms, severity,"
            " open_version)"
            " select * from unnest(%s::integer[], %s::integer[], %s::integer[], %s::bigint[], %s::bigint[],"
            " %s::bigint[], %s::bigint[], %s::integer[], %s::float8[], %s::bigint[], %s::float8[], %s::bigint[],"
            " %s::bigint[], %s::smallint[], %s::integer[])"
            " on conflict (device_id, threshold_id, key_id) do update set time_ms = excluded.time_ms,"
            " beyond_since_ms = excluded.beyond_since_ms, critical_since_ms = excluded.critical_since_ms,"
            " seen_ms = excluded.seen_ms, version = excluded.version, peak = excluded.peak, peak_ms = excluded.peak_ms,"
            " last_value = excluded.last_value, start_ms = excluded.start_ms, fired_ms = excluded.fired_ms,"
            " severity = excluded.severity, open_version = excluded.open_version",
            _columns(kept, 15),
        )


def _write_touched(connection: Connection, touched_ms: Mapping[int, int]) -> None:
    if touched_ms:
        connection.execute(
            "update telemetry.alert_device set touched_ms = greatest(alert_device.touched_ms, now.touched_ms)"
            " from unnest(%s::integer[], %s::bigint[]) as now (device_id, touched_ms)"
            " where alert_device.device_id = now.device_id",
            [list(touched_ms), list(touched_ms.values())],
        )


def _write_late(connection: Connection, judged: Judged) -> None:
    if judged.late_ms:
        connection.execute(
            "update telemetry.alert_device set late_first_ms = least(late_first_ms, late.first_ms),"
            " late_last_ms = greatest(late_last_ms, late.last_ms), late_since = coalesce(late_since, now()),"
            " late_at = clock_timestamp(), late_too_old = late_too_old + late.too_old"
            " from unnest(%s::integer[], %s::bigint[], %s::bigint[], %s::bigint[])"
            " as late (device_id, first_ms, last_ms, too_old) where alert_device.device_id = late.device_id",
            [
                list(judged.late_ms),
                *_columns(judged.late_ms.values(), 2),
                [judged.too_old.get(it, 0) for it in judged.late_ms],
            ],
        )


def _columns(rows: Iterable[Sequence[Any]], count: int) -> list[list[Any]]:
    rows = list(rows)
    return [[row[column] for row in rows] for column in range(count)]


def _state(row: Sequence[Any]) -> State:
    *times, version, peak, peak_ms, last_value, start_ms, fired_ms, severity, open_version = row
    time_ms, beyond_since_ms, critical_since_ms, seen_ms = times
    episode = None if start_ms is None else Open(start_ms, fired_ms, Severity(severity), open_version)
    return State(
        time_ms, beyond_since_ms, critical_since_ms, seen_ms, version, Peak(peak, peak_ms, last_value), episode
    )


def _row(state: State) -> tuple[Any, ...]:
    peak, episode = state.peak, state.open
    return (
        state.time_ms,
        state.beyond_since_ms,
        state.critical_since_ms,
        state.seen_ms,
        state.version,
        *((peak.value, peak.time_ms, peak.last) if peak is not None else (None,) * 3),
        *(
            (episode.start_ms, episode.fired_ms, int(episode.severity), episode.version)
            if episode is not None
            else (None,) * 4
        ),
    )
