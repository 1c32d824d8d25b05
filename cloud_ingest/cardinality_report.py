"""What counts for the devices as text for a terminal."""

from collections.abc import Sequence

from cloud_ingest.store.cardinality import Cardinality
from cloud_ingest.terminal import columns, printable


def table(rows: Sequence[Cardinality]) -> str:
    """One line a device."""
    if not rows:
        return "no device has sent anything"
    heads = ("device", "site", "series", "layouts", "refused")
    lines = [
        (printable(row.device), printable(row.site), str(row.series), str(row.layouts), str(row.refused))
        for row in rows
    ]
    return columns([heads, *lines])
