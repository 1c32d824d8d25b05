"""Ends the episodes of series that their threshold does not watch any more, also of devices that never send again."""

from collections.abc import Collection, Mapping, Sequence

from cloud_ingest.alerts.judging import Judged, Watched
from cloud_ingest.alerts.plan import Device, Placed
from cloud_ingest.alerts.precedence import Candidate, Sensor, winners
from cloud_ingest.store import alert_episodes, alert_states
from cloud_ingest.store.alert_episodes import Subject
from cloud_ingest.store.database import Connection, translated
from cloud_ingest.store.thresholds import EPOCH_LOCK, candidates
from telemetry_contract.series import SeriesKey


class Withdrawals:
    """Looks at what is pending or firing, each time that thresholds or places have changed."""

    def __init__(self) -> None:
        self._epoch: int | None = None

    def look(self, connection: Connection) -> int:
        """How many were withdrawn, and told. Any number of processes may do so. Raises StoreUnavailable."""
        with translated(), connection.transaction():
            # Two statements: the second must see what whoever held the lock has committed
            connection.execute("select pg_advisory_xact_lock_shared(%s)", [EPOCH_LOCK])
            ((epoch,),) = connection.execute("select epoch from telemetry.threshold_epoch").fetchall()
            if epoch == self._epoch:
                return 0
            ids = [
                device_id
                for (device_id,) in connection.execute(
                    "select distinct device_id from telemetry.alert_state order by device_id"
                ).fetchall()
            ]
            alert_states.lock(connection, ids)
            watched = alert_states.read(connection, ids)
            subjects = _subjects(connection, watched)
            known = [it for it in candidates(connection) if it.definition.enabled]
            gone = [it for it in watched if not _is_watched(it, subjects[it], known)]
            judged = Judged(withdrawn=gone)
            alert_states.write(connection, judged)
            alert_episodes.write(connection, judged, lambda *numbers: subjects[Watched(*numbers)])
        self._epoch = epoch
        return len(gone)


def _is_watched(watched: Watched, subject: Subject, known: Sequence[Candidate]) -> bool:
    device = subject.device
    placed = device.sensors.get(subject.key_id, Placed(None, None))
    sensor = Sensor(
        device.name, device.site, subject.key.metric, dict(subject.key.labels), subject.location, placed.sensor_type
    )
    return any(it.threshold_id == watched.threshold_id for it in winners(known, sensor))


def _subjects(connection: Connection, watched: Collection[Watched]) -> Mapping[Watched, Subject]:
    """What each of them is about."""
    rows = connection.execute(
        "select device_id, threshold_id, key_id, device.name, device.site, own.path::text, series_key.key,"
        " place.path::text, sensor.sensor_type"
        " from unnest(%s::integer[], %s::integer[], %s::integer[]) as watched (device_id, threshold_id, key_id)"
        " join telemetry.device using (device_id) join telemetry.series_key using (key_id)"
        " left join telemetry.sensor using (device_id, key_id)"
        " left join telemetry.location as own on own.location_id = device.location_id"
        " left join telemetry.location as place on place.location_id = sensor.location_id",
        [list(column) for column in zip(*watched, strict=True)] if watched else [[], [], []],
    ).fetchall()
    subjects = {}
    for device_id, threshold_id, key_id, name, site, location, key, place, sensor_type in rows:
        device = Device(name, site, location, {key_id: Placed(place, sensor_type)})
        subjects[Watched(device_id, threshold_id, key_id)] = Subject(device, None, SeriesKey.parse(key), key_id)
    return subjects
