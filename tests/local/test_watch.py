from typing import Any

from prometheus_client import generate_latest

from cloud_ingest.api.health import Health
from cloud_ingest.ingest.metrics import IngestMetrics
from telemetry_bridge.watch import State, describe, read_state


def metrics(*, samples: int, lag: float = 0.2, database: int = 1, broker: int = 1) -> bytes:
    """What the ingester would answer, in its own words."""
    ingest = IngestMetrics()
    ingest.samples.inc(samples)
    ingest.lag_seconds.set(lag)
    ingest.database_up.set(database)
    ingest.broker_up.set(broker)
    return generate_latest(ingest.registry)


def health(**values: Any) -> bytes:
    """What the API would answer, in its own shape."""
    defaults: dict[str, Any] = {"status": "ok", "version": "1", "uptime_seconds": 1, "devices": 1, "readings": 12_345}
    return Health(**(defaults | {"newest_reading": None} | values)).model_dump_json().encode()


def test_state_is_read_from_what_the_api_and_the_ingester_really_say() -> None:
    state = read_state(health(devices=3), metrics(samples=620))
    assert state == State(devices=3, readings=12_345, samples=620, lag_seconds=0.2, broker_up=True, database_up=True)
    assert read_state(None, None) == State()


def test_line_tells_stored_readings_rate_and_lag() -> None:
    before = read_state(health(), metrics(samples=1_000))
    now = read_state(health(), metrics(samples=1_128))
    assert (
        describe(now, before, 4.0) == "12,345 readings of 1 device stored, 32 samples/s, 0.2 s from measured to stored"
    )


def test_rate_is_left_out_where_it_can_not_be_known() -> None:
    now = read_state(health(devices=2), metrics(samples=10))
    expected = "12,345 readings of 2 devices stored, 0.2 s from measured to stored"
    assert describe(now, State(), 4.0) == expected
    restarted = read_state(health(devices=2), metrics(samples=11))
    assert describe(now, restarted, 4.0) == expected


def test_nothing_is_claimed_about_lag_before_anything_was_stored() -> None:
    now = read_state(health(readings=0), metrics(samples=0, lag=0))
    assert describe(now, now, 2.0) == "0 readings of 1 device stored, 0 samples/s"
    assert describe(read_state(health(readings=1), metrics(samples=0)), now, 2.0).startswith("1 reading of 1 device")


def test_what_is_missing_is_named() -> None:
    fine = metrics(samples=1)
    assert "waiting for the ingester" in describe(read_state(health(), None), State(), 1)
    assert describe(read_state(None, fine), State(), 1) == "waiting for the API"
    assert "the database" in describe(read_state(None, metrics(samples=1, database=0)), State(), 1)
    assert "readings of 1 device" in describe(read_state(health(), metrics(samples=0, database=0)), State(), 1)
    assert "the broker is away" in describe(read_state(health(), metrics(samples=1, broker=0)), State(), 1)
