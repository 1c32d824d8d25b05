"""What the worker tells of itself over HTTP; docs/alerts.md names each metric."""

import re
import urllib.request
from pathlib import Path

from harness.broker import Mosquitto
from harness.cloud import at_work
from harness.ports import free_port
from harness.wait import until

from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.worker import main
from cloud_ingest.worker.metrics import WorkerMetrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "alerts.md"


def test_every_metric_is_documented_and_no_other() -> None:
    document = set(re.findall(r"worker_notifications_\w+", DOCUMENT.read_text(encoding="utf-8")))
    there = {f"{it.name}_total" if it.type == "counter" else it.name for it in WorkerMetrics().registry.collect()}
    assert document == there


def test_the_worker_tells_what_waits(database_url: str, broker: Mosquitto) -> None:
    migrate(database_url)
    with connect(database_url, "test") as connection:
        connection.execute("insert into telemetry.receiver (name) values ('ops')")
        connection.execute("insert into telemetry.delivery (receiver, due_at) values ('ops', now())")
    address = f"127.0.0.1:{free_port()}"

    def metrics() -> str:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    with at_work(main.run, database_url, broker, WORKER__METRICS_LISTEN=address):
        until(lambda: 'worker_notifications_waiting{receiver="ops"} 1.0' in metrics(), 30, "the metric")
        assert 'worker_notifications_oldest_seconds{receiver="ops"}' in metrics()
