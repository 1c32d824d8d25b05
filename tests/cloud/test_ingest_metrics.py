"""What the ingester tells of itself over HTTP, each metric by its name; docs/ingest-metrics.md has them all."""

import logging
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx2
import psycopg
import pytest
from harness.broker import Mosquitto
from harness.cloud import at_work
from harness.device import Device
from harness.wait import until
from prometheus_client.parser import text_string_to_metric_families

from cloud_ingest.ingest import main
from cloud_ingest.ingest.metrics import IngestMetrics
from cloud_ingest.store.migrate import migrate

ingesting = partial(at_work, main.run)
DOCUMENT = Path(__file__).parents[2] / "docs" / "ingest-metrics.md"
# The labels that may be: their values are a list in the code or in the configuration.
BOUNDED = {"ingest_messages_rejected": {"reason"}, "ingest_source_up": {"source"}, "ingest_source_texts": {"source"}}


def values(listen: str) -> dict[str, float]:
    """Each sample by its name, and by its label where it has one."""
    text = httpx2.get(f"http://{listen}/metrics").text
    return {
        " ".join([it.name, *it.labels.values()]): it.value
        for family in text_string_to_metric_families(text)
        for it in family.samples
    }


def test_each_metric_counts_what_its_name_says(
    database_url: str, broker: Mosquitto, free_port: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    migrate(database_url)
    now = time.time_ns() // 1_000_000
    with psycopg.connect(database_url) as connection:
        # As a worker leaves it that has made the rollups of all but the last 30 minutes
        connection.execute("update telemetry.rollup_state set watermark = to_timestamp(%s)", [now / 1_000 - 1_800])
    listen = f"127.0.0.1:{free_port()}"
    with ingesting(database_url, broker, INGEST__METRICS_LISTEN=listen), Device(broker) as device:
        until(lambda: "connected to the broker" in caplog.text, 15, "subscription")
        device.send_backlog([1, 2, 3], [now - 7_200_000, now - 7_100_000, now - 1_000], {"a": [1.0, None, 3.0]})
        device.wait_committed((1, 3))
        device.send_tick(3, now, {"a": 3.0})
        device.send_raw(b"rubbish")
        with Device(broker, "thief") as thief:
            thief.stream = device.stream
            thief.send_tick(4, now, {"a": 4.0})
        until(lambda: values(listen)["ingest_messages_received_total"] == 4, 15, "all messages")
        until(lambda: values(listen)["ingest_queue_messages"] == 0, 15, "an empty queue")
        found = values(listen)
    expected = {
        "ingest_ticks_stored_total": 3,
        "ingest_samples_stored_total": 2,
        "ingest_ticks_duplicate_total": 1,
        "ingest_ticks_late_total": 2,
        "ingest_messages_rejected_total malformed": 1,
        "ingest_messages_rejected_total foreign_stream": 1,
        "ingest_batch_ticks_sum": 5,
        "ingest_message_lag_seconds_count": 3,
        "ingest_database_up": 1,
        "ingest_broker_up": 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert 1 <= found["ingest_commit_seconds_count"] <= 4
    assert found["ingest_commit_seconds_sum"] > 0
    assert found["ingest_lag_seconds"] > 0
    assert found["ingest_message_lag_seconds_sum"] >= 1


def test_every_metric_is_documented_and_no_label_is_unbounded() -> None:
    metrics = IngestMetrics()
    families = list(metrics.registry.collect())
    names = {f"{it.name}_total" if it.type == "counter" else it.name for it in families}
    assert names == set(re.findall(r"^\| `(ingest_\w+)`", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE))
    metrics.rejected.labels("malformed")
    metrics.source_up.labels("press")
    metrics.texts.labels("press")
    labels = {
        (family.name, label)
        for family in metrics.registry.collect()
        for sample in family.samples
        for label in sample.labels
        if label != "le"
    }
    assert labels == {(name, label) for name, allowed in BOUNDED.items() for label in allowed}
