"""What must happen now and then: partitions made ahead, and what is older than its retention dropped."""

import logging
from typing import Final

from cloud_ingest.config import Retention
from cloud_ingest.store import rejected
from cloud_ingest.store.database import Connection, translated
from cloud_ingest.store.partitions import SPAN_MS, partitions_of

# Ingest makes a partition that is missing; these are there before it needs them.
_AHEAD_SPANS: Final = 5
# Ingest accepts up to the retention itself; nothing is dropped that it may be writing to.
_MARGIN_MS: Final = SPAN_MS

log = logging.getLogger(__name__)


def upkeep(connection: Connection, retention: Retention, now_ms: int) -> None:
    """One round. Raises StoreUnavailable; the next round does what this one did not."""
    with translated():
        partitions = partitions_of(connection)
        partitions.cover(connection, (now_ms + span * SPAN_MS for span in range(_AHEAD_SPANS)))
        dropped = partitions.drop_before(connection, now_ms - retention.raw_hours * 3_600_000 - _MARGIN_MS)
    if dropped:
        log.info("dropped %d pieces of raw readings past %d h: %s", len(dropped), retention.raw_hours, dropped)
    pruned = rejected.prune(connection, retention.rejected_days)
    if pruned:
        log.info("deleted %d rejected messages past %d days", pruned, retention.rejected_days)
