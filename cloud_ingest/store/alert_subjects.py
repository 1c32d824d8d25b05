"""What the alerts of series are about, and which thresholds judge them, looked up without a batch of theirs."""

from collections.abc import Collection, Iterable, Mapping

from cloud_ingest.alerts.judging import Watched
from cloud_ingest.alerts.plan import Device, Placed
from cloud_ingest.alerts.precedence import Candidate, Sensor, winners
from cloud_ingest.store.alert_episodes import Subject
from cloud_ingest.store.database import Connection
from telemetry_contract.series import SeriesKey


def winners_of(subject: Subject, known: Iterable[Candidate]) -> list[Candidate]:
    """The thresholds that judge the series."""
    device = subject.device
    placed = device.sensors.get(subject.key_id, Placed(None, None))
    sensor = Sensor(
        device.name, device.site, subject.key.metric, dict(subject.key.labels), subject.location, placed.sensor_type
    )
    return winners(known, sensor)


def subjects_of(connection: Connection, watched: Collection[Watched]) -> Mapping[Watched, Subject]:
    """What each of them is about, without the definition of its threshold."""
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
