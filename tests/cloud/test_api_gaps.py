"""What the API tells of gaps, over HTTP on real servers."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import numpy as np
import pytest
from harness.api import ok, serving
from harness.postgres import Server, new_database

from cloud_ingest.api.coverage import bounded, missing_shares
from cloud_ingest.decode import Limits, decode
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter
from cloud_ingest.store.known_gaps import Loss
from cloud_ingest.store.migrate import migrate
from telemetry_contract.codec import encode
from telemetry_contract.payload import Backlog, Gone

START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
LIMITS = Limits(
    max_message_bytes=10**7, max_decompressed_bytes=10**8, max_future_ms=3_600_000, max_age_ms=400 * 86_400 * 1_000
)


def time_of(seq: int) -> datetime:
    return START + timedelta(seconds=5 * (seq - 1))


def text_of(seq: int) -> str:
    return time_of(seq).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.fixture(scope="module")
def database(database_server: Server) -> Iterator[str]:
    with new_database(database_server) as url:
        migrate(url)
        yield url


@pytest.fixture(scope="module")
def client(database: str) -> Iterator[httpx2.Client]:
    with serving(database) as client:
        yield client


class Device:
    """A device that no other test knows; a reading of its every 5 seconds has a number."""

    def __init__(self, database: str) -> None:
        self.name = f"device-{uuid4().hex[:8]}"
        self.stream = uuid4()
        self._database = database

    def send(self, seqs: Sequence[int], *, low: int = 1, gone: Gone | None = None) -> None:
        times = [int(time_of(seq).timestamp() * 1_000) for seq in seqs]
        values: dict[str, list[float | None]] = {"a": [float(seq) for seq in seqs]}
        message = Backlog(v=1, stream=self.stream, low=low, seq=list(seqs), t=times, values=values, gone=gone)
        topic = f"telemetry/v1/plant/{self.name}/backlog"
        found = decode(Message(topic, encode(message).payload), LIMITS, int(datetime.now(UTC).timestamp() * 1_000))
        assert isinstance(found, list)
        with closing(BatchWriter(self._database)) as writer:
            writer.write(found, [])


@pytest.fixture
def device(database: str) -> Device:
    return Device(database)


def pages(client: httpx2.Client, device: Device, limit: int) -> list[dict[str, Any]]:
    """All items, page by page."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = ok(client, f"/api/v1/devices/{device.name}/gaps", limit=limit, **cursor)
        assert 0 < len(page["items"]) <= limit
        items += page["items"]
        if page["next"] is None:
            return items
        cursor = {"cursor": page["next"]}


def test_gaps_have_numbers_times_and_reason_and_what_is_awaited_is_told(client: httpx2.Client, device: Device) -> None:
    device.send([1, 2, 3])
    device.send([10, 12, 14], gone={"lost": [(5, 9)], "thinned": [(11, 11), (13, 13)]})
    assert ok(client, f"/api/v1/devices/{device.name}/gaps") == {
        "items": [
            {
                "stream": str(device.stream),
                "from_seq": first,
                "to_seq": last,
                "ticks": ticks,
                "start": start,
                "end": end,
                "reason": reason,
            }
            for first, last, ticks, start, end, reason in [
                (11, 13, 2, text_of(10), text_of(14), "thinned"),
                (5, 9, 5, text_of(3), text_of(10), "lost"),
                (4, 4, 1, None, None, "awaited"),
            ]
        ],
        "next": None,
    }
    device.send([4])
    assert [it["reason"] for it in pages(client, device, 10)] == ["thinned", "lost"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
def test_pages_hold_each_gap_of_every_stream_once_the_newest_first(
    client: httpx2.Client, device: Device, limit: int
) -> None:
    expected: list[tuple[str, int]] = []
    for _ in range(2):
        device.stream = uuid4()
        device.send([1, 3, 5], gone={"lost": [(2, 2), (4, 4)]})
        device.send([7, 9])
        expected = [(str(device.stream), seq) for seq in (8, 6, 4, 2)] + expected
    found = [(it["stream"], it["from_seq"]) for it in pages(client, device, limit)]
    assert found == expected


def test_device_without_gaps_has_none_and_an_unknown_one_is_not_found(client: httpx2.Client, device: Device) -> None:
    assert client.get(f"/api/v1/devices/{device.name}/gaps").status_code == 404
    device.send([1, 2])
    assert ok(client, f"/api/v1/devices/{device.name}/gaps") == {"items": [], "next": None}


@pytest.mark.parametrize("parts", ['["x","1"]', f'["{UUID(int=1)}","0"]', f'["{UUID(int=1)}","99999999999999999999"]'])
def test_cursor_that_is_none_is_refused(client: httpx2.Client, device: Device, parts: str) -> None:
    cursor = base64.urlsafe_b64encode(parts.encode()).decode()
    response = client.get(f"/api/v1/devices/{device.name}/gaps", params={"cursor": cursor})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "cursor"


def test_coverage_counts_what_was_thinned_though_what_is_left_looks_regular(
    client: httpx2.Client, device: Device
) -> None:
    kept = list(range(1, 722, 2))  # an hour, every second of which was given up
    device.send(kept, gone={"thinned": [(seq, seq) for seq in range(2, 721, 2)]})
    found = ok(
        client,
        "/api/v1/metrics/history",
        device=device.name,
        metric="a",
        start=text_of(1),
        end=text_of(721),
        step="10m",
    )
    assert found["series"][0]["coverage"] == pytest.approx([0.5] * 6, abs=0.01)


def test_coverage_of_a_time_that_was_dropped_is_known_though_there_are_too_few_readings(
    client: httpx2.Client, device: Device
) -> None:
    device.send([1])
    device.send([541], low=541)  # a quarter of an hour later
    found = ok(
        client,
        "/api/v1/metrics/history",
        device=device.name,
        metric="a",
        start=text_of(1),
        end=text_of(721),
        step="15m",
    )
    assert found["series"][0]["coverage"] == [0.0, 0.0, 0.0, None]


MINUTE = 60_000


def test_missing_shares_are_the_parts_of_buckets_that_losses_hold() -> None:
    starts = np.array([0, MINUTE, 2 * MINUTE])
    losses = [Loss(-5 * MINUTE, MINUTE // 2, 0.5), Loss(MINUTE, 10 * MINUTE, 0.5), Loss(MINUTE, 2 * MINUTE, 0.75)]
    assert missing_shares(starts, np.full_like(starts, MINUTE), losses).tolist() == [0.25, 1.0, 0.5]


def test_bounds_replace_what_is_more_and_what_is_not_known() -> None:
    assert bounded([1.0, 0.2, None, None], np.array([0.25, 0.25, 0.25, 0.0])) == [0.75, 0.2, 0.75, None]
    assert bounded(None, np.array([0.0, 1.0])) == [None, 0.0]
    assert bounded(None, np.zeros(2)) is None
    assert bounded([0.5], None) == [0.5]
