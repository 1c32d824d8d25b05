"""What must happen now and then: partitions made ahead, rollups made, and what is past its retention dropped."""

import logging
import time
from collections.abc import Iterator
from typing import Final

from cloud_ingest.config import Retention
from cloud_ingest.store import cardinality, gaps, rejected
from cloud_ingest.store.database import Connection, translated
from cloud_ingest.store.partitions import partitions_of
from cloud_ingest.store.rollup.keeper import TierKeeper
from cloud_ingest.store.tiers import RAW, TIERS

# Ingest makes a partition that is missing; these are there before it needs them.
_AHEAD_SPANS: Final = 5
# Whether a device still sends what it once sent is looked up for each of its layouts.
_RETIRE_SECONDS: Final = 3_600.0
_MEGABYTE: Final = 1_000_000

log = logging.getLogger(__name__)


class Upkeep:
    """Works over one connection, next to any number of others that do the same."""

    def __init__(self, connection: Connection, retention: Retention) -> None:
        """Raises StoreUnavailable."""
        self._connection = connection
        self._retention = retention
        self._retire_due = time.monotonic()
        with translated():
            self._readings = partitions_of(connection)
            self._tiers = TierKeeper(connection, dict(zip(TIERS, retention.tiers_ms, strict=True)))

    def round(self, now_ms: int) -> Iterator[None]:
        """All that is due, with pauses for what the caller has to do meanwhile.

        Raises StoreUnavailable; the next round does what this one did not.
        """
        with translated():
            ahead = (now_ms + span * RAW.span_ms for span in range(_AHEAD_SPANS))
            self._readings.cover(self._connection, ahead)
            yield
            yield from self._tiers.round(now_ms)
        if time.monotonic() >= self._retire_due:
            self._retire_due = time.monotonic() + _RETIRE_SECONDS
            retired = cardinality.retire(self._connection, self._retention.rollup_5m_days)
            if retired:
                log.info("%d layouts count no more for devices that ceased to send them", retired)
        pruned = rejected.prune(
            self._connection,
            older_than_days=self._retention.rejected_days,
            max_bytes=self._retention.rejected_megabytes * _MEGABYTE,
            max_bytes_of_device=self._retention.rejected_megabytes_per_device * _MEGABYTE,
        )
        if pruned:
            log.info("deleted %d rejected messages that were too old or too much", pruned)
        with translated():
            forgotten = gaps.prune(self._connection, self._retention.rollup_1d_days)
        if forgotten:
            log.info("deleted %d gaps past %d days", forgotten, self._retention.rollup_1d_days)
