"""What the API tells of devices and metrics, over HTTP on real servers."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from harness.api import Source, ok, serving
from harness.postgres import Server, new_database

from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.status import record_status
from telemetry_contract.metrics import CATALOGUE
from telemetry_contract.payload import OutboxState, Status

NOW = datetime.now(UTC).replace(microsecond=0)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000)


def rfc(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.fixture(scope="module")
def database(database_server: Server) -> Iterator[str]:
    with new_database(database_server) as url:
        migrate(url)
        yield url


@pytest.fixture(scope="module")
def client(database: str) -> Iterator[httpx2.Client]:
    with serving(database) as client:
        yield client


@pytest.fixture
def source(database: str) -> Source:
    """A device that no other test knows, on a site of its own."""
    name = f"device-{uuid4().hex[:8]}"
    return Source(database, name, f"site-of-{name}")


def say(database: str, source: Source, at: datetime, **fields: Any) -> None:
    """The worker hears this status of the device."""
    status = Status(
        **{"v": 1, "online": True, "stream": source.stream, "boot_id": "b", "agent_version": "1.2", **fields}
    )
    with connect(database, "test") as connection:
        record_status(connection, source.site, source.device, status, at)


def details(client: httpx2.Client, source: Source) -> Any:
    return ok(client, f"/api/v1/devices/{source.device}")


# One device


def test_a_device_shows_its_stream_outbox_clock_and_inventory(
    client: httpx2.Client, source: Source, database: str
) -> None:
    at = ms(NOW)
    source.write({at - 2_000: {"a": 1.0, 'a{x="1"}': 1.0}, at - 1_000: {"a": 2.0, "b": 2.0}})
    outbox = OutboxState(depth=7, bytes=900, low=2, next_seq=9, oldest_time=at - 60_000, dropped=3, thinned=4)
    say(database, source, NOW, time=at - 1_500, outbox=outbox, config_hash="c0ffee")
    found = details(client, source)
    (listed,) = ok(client, "/api/v1/devices", site=source.site)["items"]
    assert {name: found[name] for name in listed} == listed
    assert found["stream"] == {
        "stream": str(source.stream),
        "low": 1,
        "received_to": 2,
        "readings": 2,
        "newest_reading": rfc(NOW - timedelta(seconds=1)),
        "last_seen": found["stream"]["last_seen"],
        "created_at": found["stream"]["created_at"],
    }
    assert found["outbox"] == {
        "depth": 7,
        "bytes": 900,
        "low": 2,
        "next_seq": 9,
        "oldest_time": rfc(NOW - timedelta(minutes=1)),
        "dropped": 3,
        "thinned": 4,
    }
    assert found["clock"] == {
        "device_time": rfc(NOW - timedelta(seconds=1.5)),
        "received_at": rfc(NOW),
        "behind_seconds": 1.5,
    }
    assert found["inventory"] == {"metrics": 2, "series": 3, "streams": 1}
    assert (found["boot_id"], found["config_hash"], found["reason"]) == ("b", "c0ffee", None)


def test_of_several_streams_the_one_heard_of_last_is_shown(client: httpx2.Client, source: Source) -> None:
    source.write({ms(NOW) - 1_000: {"a": 1.0}})
    source.stream, source.next_seq = UUID(int=1), 5
    source.write({ms(NOW): {"a": 1.0}})
    found = details(client, source)
    assert (found["stream"]["stream"], found["stream"]["received_to"]) == (str(UUID(int=1)), 5)
    assert (found["readings"], found["inventory"]["streams"]) == (2, 2)
    assert (found["outbox"], found["clock"], found["online"]) == (None, None, None)


def test_a_device_that_only_said_hello_has_no_stream(client: httpx2.Client, source: Source, database: str) -> None:
    say(database, source, NOW, outbox=OutboxState())
    found = details(client, source)
    assert found["stream"] is None
    assert found["outbox"]["oldest_time"] is None
    assert (found["newest_reading"], found["inventory"]) == (None, {"metrics": 0, "series": 0, "streams": 0})


def test_a_last_will_leaves_what_the_device_said_of_itself(
    client: httpx2.Client, source: Source, database: str
) -> None:
    outbox = OutboxState(depth=7)
    say(database, source, NOW, time=ms(NOW), outbox=outbox, config_hash="c0ffee")
    lost = NOW + timedelta(minutes=5)
    say(database, source, lost, online=False, reason="lost")
    found = details(client, source)
    assert (found["online"], found["reason"], found["outbox"]["depth"]) == (False, "lost", 7)
    assert (found["config_hash"], found["last_seen"], found["reported_at"]) == ("c0ffee", rfc(lost), rfc(NOW))
    assert found["clock"]["behind_seconds"] == 0.0

    back = lost + timedelta(minutes=5)
    say(database, source, back, time=ms(back), outbox=OutboxState(depth=1))
    found = details(client, source)
    assert (found["online"], found["reason"], found["outbox"]["depth"]) == (True, None, 1)
    assert (found["config_hash"], found["reported_at"]) == (None, rfc(back))


def test_a_last_will_of_another_stream_keeps_nothing_of_the_old_one(
    client: httpx2.Client, source: Source, database: str
) -> None:
    say(database, source, NOW, time=ms(NOW), outbox=OutboxState(depth=7))
    say(database, source, NOW, online=False, reason="lost", stream=UUID(int=2))
    assert details(client, source)["outbox"] is None


@pytest.mark.parametrize("last", [{"time": ms(NOW)}, {"online": False, "reason": "lost"}])
def test_a_retained_status_that_comes_again_is_no_sign_of_life(
    client: httpx2.Client, source: Source, database: str, last: dict[str, Any]
) -> None:
    say(database, source, NOW - timedelta(minutes=1), time=ms(NOW) - 60_000)
    say(database, source, NOW, **last)
    before = details(client, source)
    say(database, source, NOW + timedelta(hours=3), **last)  # to a worker that was started anew
    assert details(client, source) == before
    assert before["last_seen"] == rfc(NOW)


def test_a_device_of_which_nothing_was_heard_is_not_found(client: httpx2.Client) -> None:
    response = client.get("/api/v1/devices/nobody")
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    assert "nobody" in response.json()["detail"]
    assert client.get("/api/v1/devices/a%20b").status_code == 422
    assert client.get("/api/v1/devices/a?site=b").status_code == 422


# Metrics


def metrics(client: httpx2.Client, **parameters: Any) -> dict[str, Any]:
    answer = ok(client, "/api/v1/metrics", **parameters)
    assert answer["next"] is None
    return {item["metric"]: item for item in answer["items"]}


def test_metrics_have_kind_unit_help_and_the_values_of_their_labels(
    client: httpx2.Client, source: Source, database: str
) -> None:
    source.write({ms(NOW): {'disk_used_bytes{mount="/"}': 1.0, 'disk_used_bytes{mount="/var"}': 1.0, "own_total": 1.0}})
    other = Source(database, f"{source.device}-2", source.site)
    other.write({ms(NOW): {'disk_used_bytes{mount="/"}': 1.0}})
    found = metrics(client, site=source.site)
    assert list(found) == ["disk_used_bytes", "own_total"]
    assert found["disk_used_bytes"] == {
        "metric": "disk_used_bytes",
        "kind": "gauge",
        "unit": "bytes",
        "help": CATALOGUE["disk_used_bytes"].help,
        "labels": {"mount": ["/", "/var"]},
        "series": 3,
        "devices": 2,
    }
    assert (found["own_total"]["kind"], found["own_total"]["help"], found["own_total"]["labels"]) == (
        "counter", None, {},
    )  # fmt: skip
    assert metrics(client, device=other.device)["disk_used_bytes"]["labels"] == {"mount": ["/"]}


def test_a_series_in_two_layouts_counts_once(client: httpx2.Client, source: Source) -> None:
    source.write({ms(NOW): {"a": 1.0}, ms(NOW) + 1: {"a": 1.0, "b": 1.0}})
    assert {name: item["series"] for name, item in metrics(client, device=source.device).items()} == {"a": 1, "b": 1}


def test_globs_choose_metrics_and_take_nothing_else_for_a_wildcard(client: httpx2.Client, source: Source) -> None:
    source.write({ms(NOW): {"disk_a": 1.0, "disk_b": 1.0, "diskxa": 1.0, "a": 1.0}})
    chosen = {"disk_*": ["disk_a", "disk_b"], "disk_a": ["disk_a"], "*": ["a", "disk_a", "disk_b", "diskxa"], "*a": 3}
    for glob, expected in chosen.items():
        found = list(metrics(client, device=source.device, metric=glob))
        assert found == expected or len(found) == expected
        current = ok(client, "/api/v1/metrics/current", device=source.device, metric=glob)["items"]
        assert [item["metric"] for item in current] == found


def test_pages_of_metrics_hold_each_once(client: httpx2.Client, source: Source) -> None:
    names = [f"m{index}" for index in range(5)]
    source.write({ms(NOW): dict.fromkeys(names, 1.0)})
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = ok(client, "/api/v1/metrics", device=source.device, limit=2, **cursor)
        seen += [item["metric"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen == names


def test_of_a_label_with_very_many_values_the_first_are_told(client: httpx2.Client, source: Source) -> None:
    source.write({ms(NOW): {f'a{{id="{index:03}"}}': 1.0 for index in range(150)}})
    found = metrics(client, device=source.device)["a"]
    assert found["labels"] == {"id": [f"{index:03}" for index in range(100)]}
    assert found["series"] == 150


def test_a_device_whose_outbox_was_copied_shows_who_else_sends_it(
    client: httpx2.Client, database: str, source: Source
) -> None:
    source.write({ms(NOW): {"a": 1.0}})
    assert details(client, source)["conflicts"] == []
    copy = Source(database, f"copy-of-{source.device}", source.site, stream=source.stream, next_seq=2)
    with pytest.raises(AssertionError):  # it expects that nothing is rejected
        copy.write({ms(NOW): {"a": 2.0}})
    (conflict,) = details(client, source)["conflicts"]
    assert details(client, copy)["conflicts"] == [conflict]
    assert [conflict[name] for name in ("stream", "owner", "claimant", "messages")] == [
        str(source.stream),
        source.device,
        copy.device,
        1,
    ]
