"""Episodes as answers show them."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from cloud_ingest.api.times import format_time
from cloud_ingest.store.alerts import AlertRow, AlertState
from cloud_ingest.store.silences import SilenceRow, silenced_until


class Acknowledged(BaseModel):
    """Somebody knows of it."""

    at: datetime
    by: str
    note: str | None


class Alert(BaseModel):
    """An episode: from the first value beyond a level to the clear one that ended it."""

    id: int
    threshold_id: int
    threshold: str | None = Field(description="The name of the threshold when the episode began.")
    version: int = Field(description="That of the threshold which judged the episode to be one.")
    severity: Literal["warning", "critical"]
    state: Literal["firing", "unknown", "ended"] = Field(
        description="unknown: it is open, and its series has been silent for longer than the threshold allows."
    )
    device: str
    site: str
    location: str | None = Field(description="Where the series is now.")
    metric: str
    labels: dict[str, str]
    unit: str
    level: float | None = Field(description="The level of this severity.")
    start: datetime = Field(description="The first value beyond the level, by the device's clock.")
    fired: datetime = Field(description="When it had lasted for as long as the threshold asks.")
    end: datetime | None = Field(description="null while it is open.")
    end_reason: str | None = Field(
        description="cleared; withdrawn where no threshold watches the series any more; revised where late samples show"
        " that it was none; returned where a silent series sends again; null while it is open."
    )
    duration_seconds: float = Field(description="To its end, or to now.")
    peak: float | None = Field(description="The worst value.")
    peak_time: datetime | None
    last: float | None = Field(description="The last value before its end.")
    no_data: bool = Field(description="It is the silence of the series that it tells of, which has no peak.")
    late: bool = Field(description="It was found when samples came late: nobody was told while it lasted.")
    acknowledged: Acknowledged | None
    silenced_until: datetime | None = Field(description="Of an open one: until then nobody is told of it.")


# The columns of an alert as CSV: those of the answer in JSON, an acknowledgement spread over three.
_COLUMNS: Final = (
    *(name for name in Alert.model_fields if name not in {"acknowledged", "silenced_until"}),
    "acknowledged_at",
    "acknowledged_by",
    "note",
)


def alert_item(row: AlertRow, silences: Sequence[SilenceRow], now: datetime) -> dict[str, Any]:
    """The episode as an `Alert`; `silences` are those that hold now."""
    until = silenced_until(silences, row.about) if row.state != AlertState.ENDED else None
    return {
        "id": row.alert_id,
        "threshold_id": row.threshold_id,
        "threshold": row.threshold,
        "version": row.version,
        "severity": row.severity,
        "state": row.state,
        "device": row.device,
        "site": row.site,
        "location": row.location,
        "metric": row.metric,
        "labels": row.labels,
        "unit": row.unit,
        "level": row.level,
        "start": format_time(row.start_at),
        "fired": format_time(row.fired_at),
        "end": _time(row.ended_at),
        "end_reason": row.end_reason,
        "duration_seconds": max(round(((row.ended_at or now) - row.start_at).total_seconds(), 3), 0.0),
        "peak": row.peak,
        "peak_time": _time(row.peak_at),
        "last": row.last,
        "no_data": row.no_data,
        "late": row.late,
        "acknowledged": None
        if row.acknowledged_at is None
        else {"at": format_time(row.acknowledged_at), "by": row.acknowledged_by, "note": row.note},
        "silenced_until": _time(until),
    }


def alerts_csv(items: Iterable[dict[str, Any]]) -> bytes:
    """A line an episode under a line of names; what is missing is empty, labels are JSON."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for item in items:
        acknowledged = item["acknowledged"] or {"at": None, "by": None, "note": None}
        said = {f"acknowledged_{name}": acknowledged[name] for name in ("at", "by")} | {"note": acknowledged["note"]}
        values = {**item, **said, "labels": json.dumps(item["labels"], separators=(",", ":"))}
        writer.writerow("" if values[name] is None else values[name] for name in _COLUMNS)
    return text.getvalue().encode()


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)
