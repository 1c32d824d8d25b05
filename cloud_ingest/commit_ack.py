"""The commit ack that tells an edge what the database holds."""

import time
from typing import Final

from cloud_ingest.store.batch import Settlement
from telemetry_contract.codec import Encoded, encode
from telemetry_contract.payload import VERSION, CommitAck
from telemetry_contract.topics import Kind, Topic

MAX_RANGES: Final = 1_000


def commit_ack(settlement: Settlement) -> tuple[str, Encoded]:
    """Topic and payload, with the time of now.

    Of very many ranges it holds the oldest and the newest, between which an edge sends its backlog and its live
    ticks; as the oldest are told, the edge forgets them and the others move up.
    """
    ranges = settlement.ranges
    if len(ranges) > MAX_RANGES:
        ranges = ranges[: MAX_RANGES // 2] + ranges[-MAX_RANGES // 2 :]
    ack = CommitAck(
        v=VERSION,
        stream=settlement.stream,
        committed=ranges,
        server_time=time.time_ns() // 1_000_000,
    )
    return str(Topic(settlement.site, settlement.device, Kind.ACK)), encode(ack)
