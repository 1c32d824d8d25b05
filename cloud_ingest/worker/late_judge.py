"""Judges as history what came late, in a thread of its own, for as long as this worker is the one that may."""

import logging
import threading
from types import TracebackType
from typing import Final, Self

from cloud_ingest.errors import StoreError, StoreUnavailable
from cloud_ingest.store.database import connect
from cloud_ingest.store.late_episodes import Return
from cloud_ingest.store.late_history import LateHistory
from cloud_ingest.store.lease import Lease

_LOOK_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 2.0
# A backlog that takes longer than this to arrive is judged and told in parts.
_LONGEST_SECONDS: Final = 3_600.0

log = logging.getLogger(__name__)


class LateJudge:
    """Works until its block ends, and waits for a database that is away."""

    def __init__(self, url: str, quiet_seconds: float) -> None:
        self._url = url
        self._quiet_seconds = quiet_seconds
        self._given_up: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="late-judge")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()  # the device that is being judged is judged to the end

    def _run(self) -> None:
        lease = Lease(self._url, "late-history")
        try:
            while not self._stop.is_set():
                try:
                    if lease.is_held() or lease.take():
                        self._work(lease)
                    self._stop.wait(_LOOK_SECONDS)
                except StoreUnavailable:
                    self._stop.wait(_RETRY_SECONDS)  # the worker's main loop says so
        finally:
            lease.release()

    def _work(self, lease: Lease) -> None:
        with connect(self._url, "cloud-ingest-late") as connection:
            history = LateHistory(connection)
            while not self._stop.is_set() and lease.is_held():
                for device_id in history.due(quiet_seconds=self._quiet_seconds, longest_seconds=_LONGEST_SECONDS):
                    if self._stop.is_set():
                        break
                    if device_id not in self._given_up:
                        self._judge(history, device_id)
                self._stop.wait(_LOOK_SECONDS)

    def _judge(self, history: LateHistory, device_id: int) -> None:
        try:
            told = history.judge(device_id)
        except StoreUnavailable:
            raise
        except StoreError:
            log.exception("device %d: what came late can't be judged; the next start tries again", device_id)
            self._given_up.add(device_id)
        else:
            if told is not None:
                _log(told)


def _log(told: Return) -> None:
    if told.added or told.changed or told.disproved or told.too_old:
        log.info(
            "device %d: what came late shows %d alerts, changes %d and disproves %d; %d ticks too old to be judged",
            told.device_id,
            told.added,
            told.changed,
            told.disproved,
            told.too_old,
        )
