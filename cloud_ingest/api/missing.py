"""How much of the readings of each series is known to be missing."""

from collections.abc import Sequence

from cloud_ingest.api.coverage import Floats, Integers, missing_shares
from cloud_ingest.store.database import Connection
from cloud_ingest.store.history import Series
from cloud_ingest.store.known_gaps import losses
from cloud_ingest.store.rollup.state import from_ms


def missing(connection: Connection, series: Sequence[Series], starts: Integers, lengths: Integers) -> dict[int, Floats]:
    """For each of some buckets that follow each other the share that is missing, by the index of the series.

    Without those of which nothing is known to be missing.
    """
    end_ms = int(starts[-1] + lengths[-1])
    found = losses(connection, {one.device for one in series}, from_ms(int(starts[0])), from_ms(end_ms))
    shares = {device: missing_shares(starts, lengths, each) for device, each in found.items()}
    return {index: shares[one.device] for index, one in enumerate(series) if one.device in shares}
