"""The state of the running system as its own HTTP answers tell it: the API's, and the ingester's metrics."""

import json
import time
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from prometheus_client.parser import text_string_to_metric_families

from telemetry_bridge.ports import LOOPBACK

_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class State:
    """What is known at the moment; None where nobody answers.

    `readings` counts everything in the database, `samples` what the running ingester has stored of it.
    `lag_seconds` is the age that the newest reading of the ingester's last batch had when it was committed.
    """

    devices: int | None = None
    readings: int | None = None
    samples: float | None = None
    lag_seconds: float | None = None
    broker_up: bool | None = None
    database_up: bool | None = None


def read_state(health: bytes | None, metrics: bytes | None) -> State:
    """The state from the bodies of the API's `/health` and the ingester's `/metrics`."""
    totals = {} if health is None else json.loads(health)
    families = () if metrics is None else text_string_to_metric_families(metrics.decode())
    values = {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}
    broker_up, database_up = values.get("ingest_broker_up"), values.get("ingest_database_up")
    return State(
        devices=totals.get("devices"),
        readings=totals.get("readings"),
        samples=values.get("ingest_samples_stored_total"),
        lag_seconds=values.get("ingest_lag_seconds"),
        broker_up=None if broker_up is None else broker_up > 0,
        database_up=None if database_up is None else database_up > 0,
    )


def describe(now: State, before: State, seconds: float) -> str:
    """One line for a person; `before` was true this many seconds earlier."""
    if now.samples is None:
        return "waiting for the ingester"
    if now.broker_up is False:
        return "the broker is away; the agent keeps its readings until it is back"
    if now.readings is None or now.devices is None:
        # The ingester alone can't tell: before its first batch it does not know about the database.
        who = "the API" if now.database_up else "the API or the database"
        return f"waiting for {who}"
    parts = [f"{_counted(now.readings, 'reading')} of {_counted(now.devices, 'device')} stored"]
    if before.samples is not None and now.samples >= before.samples and seconds > 0:
        parts.append(f"{(now.samples - before.samples) / seconds:,.0f} samples/s")
    if now.samples > 0 and now.lag_seconds is not None:
        parts.append(f"{max(0.0, now.lag_seconds):.1f} s from measured to stored")
    return ", ".join(parts)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class Watch:
    """Asks; used by one thread. Never raises for a program that does not answer yet or no longer."""

    def __init__(self, api_port: int, ingest_metrics_port: int) -> None:
        self._api = f"http://{LOOPBACK}:{api_port}"
        self._ingest = f"http://{LOOPBACK}:{ingest_metrics_port}"
        # Without the proxies of the environment: this never leaves the machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._before = State()
        self._before_at = 0.0

    def is_ready(self) -> bool:
        """Whether the API says that it can serve."""
        return self._get(f"{self._api}/readiness") is not None

    def has_reading_since(self, start: datetime) -> bool:
        """Whether the API knows a value that was measured at or after this time."""
        query = urlencode({"since": start.astimezone(UTC).isoformat(), "limit": 1})
        body = self._get(f"{self._api}/api/v1/metrics/current?{query}")
        return body is not None and len(json.loads(body)["items"]) > 0

    def line(self) -> str:
        """The state now, in one line; its rate is since the previous line."""
        now, at = read_state(self._get(f"{self._api}/health"), self._get(f"{self._ingest}/metrics")), time.monotonic()
        text = describe(now, self._before, at - self._before_at)
        self._before, self._before_at = now, at
        return text

    def _get(self, url: str) -> bytes | None:
        try:
            with self._opener.open(url, timeout=_TIMEOUT_SECONDS) as answer:
                body: bytes = answer.read()
                return body
        except OSError:  # refused, reset, timed out, or an HTTP status that says no
            return None
