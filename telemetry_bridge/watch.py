"""The state of the running system as its own HTTP answers tell it: the API's, and the ingester's metrics."""

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from telemetry_bridge.ports import LOOPBACK

_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class Snapshot:
    """What is shown; None where it can't be known at the moment.

    `samples` counts what this run's ingester has stored. `lag_seconds` is the age of the newest reading of its last
    batch when it was committed.
    """

    samples: float | None = None
    per_second: float | None = None
    lag_seconds: float | None = None
    broker_up: bool | None = None
    database_up: bool | None = None


class Watch:
    """Asks; used by one thread. Never raises for what a program that is just starting or ending answers."""

    def __init__(self, api_port: int, ingest_metrics_port: int) -> None:
        self._api = f"http://{LOOPBACK}:{api_port}"
        self._ingest = f"http://{LOOPBACK}:{ingest_metrics_port}"
        # Without the proxies of the environment: this never leaves the machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._stored_before: tuple[float, float] | None = None

    def is_ready(self) -> bool:
        """Whether the API says that it can serve."""
        return self._get(f"{self._api}/readiness") is not None

    def has_reading_since(self, start: float) -> bool:
        """Whether the API knows a value that was measured at or after this time (seconds since the epoch)."""
        body = self._get(f"{self._api}/api/v1/metrics/current?limit=1000")
        items: list[dict[str, Any]] = [] if body is None else json.loads(body)["items"]
        return any(datetime.fromisoformat(item["time"]).timestamp() >= start for item in items)

    def snapshot(self) -> Snapshot:
        """The state now; the rate is since the previous call."""
        body = self._get(f"{self._ingest}/metrics")
        if body is None:
            self._stored_before = None
            return Snapshot()
        values = {
            sample.name: sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
            if not sample.labels
        }
        samples = values.get("ingest_samples_stored_total")
        return Snapshot(
            samples=samples,
            per_second=self._rate(samples),
            lag_seconds=values.get("ingest_lag_seconds"),
            broker_up=_truth(values.get("ingest_broker_up")),
            database_up=_truth(values.get("ingest_database_up")),
        )

    def _rate(self, samples: float | None) -> float | None:
        now = time.monotonic()
        before, self._stored_before = self._stored_before, None if samples is None else (now, samples)
        if before is None or samples is None or samples < before[1] or now <= before[0]:
            return None
        return (samples - before[1]) / (now - before[0])

    def _get(self, url: str) -> bytes | None:
        try:
            with self._opener.open(url, timeout=_TIMEOUT_SECONDS) as answer:
                body: bytes = answer.read()
                return body
        except OSError:  # refused, reset, timed out, or an HTTP status that says no
            return None


def describe(snapshot: Snapshot) -> str:
    """One line for a person."""
    if snapshot.samples is None:
        return "waiting for the ingester"
    if snapshot.database_up is False:
        return "the database is away; nothing is lost, the agent keeps its samples"
    if snapshot.broker_up is False:
        return "the broker is away; nothing is lost, the agent keeps its samples"
    parts = [f"{snapshot.samples:,.0f} samples stored"]
    if snapshot.per_second is not None:
        parts.append(f"{snapshot.per_second:,.0f}/s")
    if snapshot.samples and snapshot.lag_seconds is not None:
        parts.append(f"stored {snapshot.lag_seconds:.1f} s after they were measured")
    return ", ".join(parts)


def _truth(value: float | None) -> bool | None:
    return None if value is None else value > 0
