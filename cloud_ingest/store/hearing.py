"""Since when the cloud has been listening: nobody is silent whom it could not hear."""

from typing import Final

from cloud_ingest.alerts.liveness import MAX_PAUSE_MS
from cloud_ingest.store.database import Connection, translated

STATUSES: Final = "statuses"  # the worker's
READINGS: Final = "readings"  # of our agents, the ingesters'
BEAT_SECONDS: Final = 1.0


def source(name: str) -> str:
    """The part of an ingester that hears one source of other publishers."""
    return f"source {name}"


def beat(connection: Connection, part: str) -> None:
    """Notes that this part of the cloud listens now. After a longer pause, whoever made it, the time begins anew.

    Raises StoreUnavailable.
    """
    with translated():
        connection.execute(
            "insert into telemetry.hearing as held (part, since, until)"
            " values (%(part)s, clock_timestamp(), clock_timestamp())"
            " on conflict (part) do update set until = greatest(held.until, excluded.until),"
            "  since = case when excluded.until - held.until > %(pause)s * interval '1 millisecond'"
            "   then excluded.since else held.since end",
            {"part": part, "pause": MAX_PAUSE_MS},
        )
