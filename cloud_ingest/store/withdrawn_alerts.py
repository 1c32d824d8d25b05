"""Ends the episodes of series that their threshold does not watch any more, also of devices that never send again."""

from collections.abc import Sequence

from cloud_ingest.alerts.judging import Judged, Watched
from cloud_ingest.alerts.precedence import Candidate
from cloud_ingest.store import alert_episodes, alert_states
from cloud_ingest.store.alert_episodes import Subject
from cloud_ingest.store.alert_subjects import subjects_of, winners_of
from cloud_ingest.store.database import Connection, translated
from cloud_ingest.store.thresholds import EPOCH_LOCK, candidates


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
            subjects = subjects_of(connection, watched)
            known = [it for it in candidates(connection) if it.definition.enabled]
            gone = [it for it in watched if not _is_watched(it, subjects[it], known)]
            judged = Judged(withdrawn=gone)
            alert_states.write(connection, judged)
            alert_episodes.write(connection, judged, lambda *numbers: subjects[Watched(*numbers)])
        self._epoch = epoch
        return len(gone)


def _is_watched(watched: Watched, subject: Subject, known: Sequence[Candidate]) -> bool:
    return any(it.threshold_id == watched.threshold_id for it in winners_of(subject, known))
