"""Says that statuses are heard, and looks at who is there and what is known of alerts; of several workers one looks."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from cloud_ingest.alerts.outages import SiteRule
from cloud_ingest.config import Config, Liveness
from cloud_ingest.errors import StoreUnavailable
from cloud_ingest.store.database import Connection, connect
from cloud_ingest.store.hearing import BEAT_SECONDS, STATUSES, beat
from cloud_ingest.store.lease import Lease
from cloud_ingest.store.liveness import LivenessRules, look_at_devices
from cloud_ingest.store.migrate import require_current
from cloud_ingest.store.silent_series import SilentSeries
from cloud_ingest.store.unheard_alerts import look_at_alerts
from cloud_ingest.store.withdrawn_alerts import Withdrawals

_RETRY_SECONDS: Final = 2.0
_PAUSES: Final = 9  # after a look at every series, so many times as long as it took: it has a tenth of the time

log = logging.getLogger(__name__)


def rules_of(liveness: Liveness) -> LivenessRules:
    """What the configuration says, in milliseconds."""
    site = liveness.site_outage
    return LivenessRules(
        silence_ms=round(liveness.silence_seconds * 1000),
        grace_ms=round(liveness.grace_seconds * 1000),
        site=SiteRule(site.devices, site.share, round(site.window_seconds * 1000)),
    )


class LivenessWatch:
    """Works in a thread of its own: upkeep may take long, and nobody may seem unheard for that."""

    def __init__(self, config: Config, is_listening: Callable[[], bool]) -> None:
        """`is_listening` tells whether this process hears statuses now."""
        self._url = config.database_url.get_secret_value()
        self._interval_seconds = config.worker.liveness.interval_seconds
        self._rules = rules_of(config.worker.liveness)
        self._is_listening = is_listening
        self._withdrawals = Withdrawals()
        self._silent_series = SilentSeries(self._rules.grace_ms)
        self._series_due = 0.0
        self._lease = Lease(self._url, "liveness")

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. A database that is away is waited for.

        Sets `stop` where this can't go on, and raises why.
        """
        try:
            while not stop.is_set():
                try:
                    with connect(self._url, "cloud-ingest-liveness") as connection:
                        require_current(connection)
                        self._watch(connection, stop)
                except StoreUnavailable as exc:
                    log.debug("the database is away: %s", exc)  # the worker itself says so
                    stop.wait(_RETRY_SECONDS)
        finally:
            stop.set()
            self._lease.release()

    def _watch(self, connection: Connection, stop: threading.Event) -> None:
        beat_due = look_due = time.monotonic()
        while not stop.wait(max(0.0, min(beat_due, look_due) - time.monotonic())):
            now = time.monotonic()
            if now >= beat_due:
                beat_due = now + BEAT_SECONDS
                if self._is_listening():
                    beat(connection, STATUSES)
            if now >= look_due:
                look_due = now + self._interval_seconds
                if self._lease.is_held() or self._lease.take():
                    self._look(connection)

    def _look(self, connection: Connection) -> None:
        if told := look_at_devices(connection, self._rules):
            log.info("%d changes of which devices and sites are there", told)
        if unknown := look_at_alerts(connection, self._rules.grace_ms):
            log.info("%d alerts became unknown, or known again", unknown)
        if withdrawn := self._withdrawals.look(connection):
            log.info("%d alerts withdrawn, for which there is no threshold any more", withdrawn)
        self._look_at_series(connection)

    def _look_at_series(self, connection: Connection) -> None:
        began = time.monotonic()
        if began < self._series_due:
            return
        if silent := self._silent_series.look(connection):
            log.info("%d alerts of silent series began or ended", silent)
        ended = time.monotonic()
        self._series_due = ended + _PAUSES * (ended - began)
