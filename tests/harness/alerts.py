"""Devices whose readings make alerts, at times of the test's choice."""

import time
from typing import Any

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.store.database import connect
from cloud_ingest.store.thresholds import create_threshold
from harness.api import Source


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def threshold(database_url: str, **changes: Any) -> int:
    """Make a threshold that has always judged: `temperature_celsius > 80`, unless `changes` say otherwise."""
    definition = Definition.model_validate(
        {"name": "hot", "metric": "temperature_celsius", "operator": ">", "warning": 80, "critical": 90} | changes
    )
    with connect(database_url, "test") as connection, connection.transaction():
        number = create_threshold(connection, definition).threshold_id
        connection.execute(
            "update telemetry.threshold_version set valid_from = 'epoch' where threshold_id = %s", [number]
        )
    return number


def episode(source: Source, start_ms: int, end_ms: int | None, peak: float = 85.0, key: str | None = None) -> None:
    """Let a device send what makes an episode; without an end it stays open."""
    key = key or "temperature_celsius"
    readings: dict[int, dict[str, float | None]] = {start_ms - 1_000: {key: 0.0}, start_ms: {key: peak}}
    if end_ms is not None:
        readings[end_ms] = {key: 0.0}
    source.write(readings)
