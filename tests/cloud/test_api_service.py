"""What the API is beside its answers: its description, health, metrics, pages, and its ways without a database."""

import asyncio
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest
from fastapi import FastAPI
from harness.api import Source, ok, serving
from harness.ports import free_port
from harness.postgres import Server, new_database
from harness.wait import until
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families

from cloud_ingest import config
from cloud_ingest.api import main, problems
from cloud_ingest.api.answers import accepts_gzip
from cloud_ingest.api.listening import listen
from cloud_ingest.errors import CloudError, ConfigError, StoreError
from cloud_ingest.store import pool
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.pool import ReadPool

MINUTE = 60_000


@pytest.fixture
def client(database_url: str) -> Iterator[httpx2.Client]:
    migrate(database_url)
    with serving(database_url) as client:
        yield client


@pytest.fixture
def stored(client: httpx2.Client, database_url: str) -> Source:
    """Some minutes of readings until now."""
    now = time.time_ns() // 1_000_000
    source = Source(database_url, "pump")
    source.write(
        {
            now - ago: {"a_total": None if ago % 7 == 0 else 1_000_000.0 - ago, 'b_bytes{x="1"}': 0.5}
            for ago in range(0, 20 * MINUTE, 5_000)
        }
    )
    assert ok(client, "/health")["readings"] == 240
    return source


def test_every_described_address_answers_as_described(client: httpx2.Client, stored: Source) -> None:
    description = ok(client, "/openapi.json")
    assert description["openapi"].startswith("3.1")
    examples = {
        "/api/v1/devices": ["", "?site=nowhere"],
        "/api/v1/devices/{device}": [""],
        "/api/v1/devices/{device}/config": [""],
        "/api/v1/devices/{device}/gaps": ["", "?limit=1"],
        "/api/v1/metrics": ["", "?metric=a*", "?site=nowhere"],
        "/api/v1/metrics/current": ["", "?limit=1", "?device=nobody"],
        "/api/v1/metrics/history": [
            "?metric=a_total",
            "?metric=a_total&step=1m",
            "?metric=a_total&step=60s&aggregate=rate&start=-2h",
            "?metric=b_bytes&label.x=1&aggregate=last&step=1m",
            "?metric=b_bytes&step=1s&start=-5m",
            "?metric=none",
        ],
        "/api/v1/thresholds": ["", "?limit=1"],
        "/api/v1/thresholds/{id}": [""],
        "/api/v1/thresholds/explain": [f"?device={stored.device}&metric=b_bytes&label.x=1"],
        "/api/v1/locations": ["", "?below=plant", "?limit=1"],
        "/api/v1/locations/{path}": [""],
        "/api/v1/devices/{device}/location": [""],
        "/api/v1/devices/{device}/sensors": [""],
        "/api/v1/alerts": ["", "?state=firing&severity=critical"],
        "/api/v1/alerts/history": ["", "?date=2026-11-20&tz=Asia/Seoul"],
        "/api/v1/alerts/{id}": [""],
        "/api/v1/realtime": ["", "?explain=true", "?location=plant"],
        "/api/v1/silences": ["", "?state=all"],
        "/api/v1/silences/{id}": [""],
        "/api/v1/metrics/summary": ["", "?metric=*&period=-1d", "?site=nowhere"],
        "/api/v1/aggregation/{metric}": ["", "?by=site&step=1d&tz=Asia/Seoul", "?by=location&depth=1"],
        "/health": [""],
        "/readiness": [""],
        "/liveness": [""],
    }
    described = {path for path, operations in description["paths"].items() if "get" in operations}
    described -= {"/metrics", "/api/v1/alerts/stream", "/api/v1/live/stream"}  # which are text
    assert described == set(examples)
    threshold = client.post("/api/v1/thresholds", json={"name": "b", "metric": "b*", "operator": ">", "warning": 1})
    client.post("/api/v1/locations", json={"path": "plant", "name": "Plant"})
    sensor = {"metric": "b_bytes", "labels": {"x": "1"}, "location": "plant"}
    assert client.put(f"/api/v1/devices/{stored.device}/sensors", json=sensor).status_code == 200
    stored.write({time.time_ns() // 1_000_000 + 1_000: {"b": 2.0}})  # the first of each has the number 1
    silence = {
        "scope": {"device": "pump"},
        "by": "kim",
        "ends_at": f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
    }
    assert client.post("/api/v1/silences", json=silence).status_code == 201
    names = {"{device}": stored.device, "{id}": str(threshold.json()["id"]), "{path}": "plant", "{metric}": "a_total"}
    for path, queries in examples.items():
        schema = description["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        address = path
        for placeholder, name in names.items():
            address = address.replace(placeholder, name)
        for query in queries:
            validate(ok(client, address + query), schema, description)
    for address in ("/nothing", "/api/v1/metrics/history", "/api/v1/devices?limit=0", "/api/v1/devices/nobody"):
        schema = description["paths"]["/api/v1/devices"]["get"]["responses"]["422"]["content"][
            "application/problem+json"
        ]["schema"]
        validate(client.get(address).json(), schema, description)
    assert stored.device in client.get("/api/v1/devices").text


def validate(content: Any, schema: dict[str, Any], description: dict[str, Any]) -> None:
    """Against the schema, and without fields that it does not name."""
    closed = json.loads(json.dumps(description["components"]))
    for component in closed["schemas"].values():
        if component.get("type") == "object":
            component["additionalProperties"] = component.get("additionalProperties", False)
    checker = Draft202012Validator.FORMAT_CHECKER
    Draft202012Validator({**schema, "components": closed}, format_checker=checker).validate(content)


def test_the_description_names_every_parameter_that_is_accepted(client: httpx2.Client) -> None:
    paths = ok(client, "/openapi.json")["paths"]
    named = {
        path: {it["name"] for operation in operations.values() for it in operation.get("parameters", [])}
        for path, operations in paths.items()
    }
    assert named["/api/v1/write"] == {"format", "precision", "device", "device_tag", "site"}
    assert named["/api/v1/devices"] == {"site", "limit", "cursor"}
    assert named["/api/v1/devices/{device}"] == {"device"}
    assert named["/api/v1/metrics"] == {"device", "metric", "site", "limit", "cursor"}
    assert named["/api/v1/metrics/current"] == {"device", "metric", "site", "since", "limit", "cursor"}
    assert named["/api/v1/metrics/history"] == {
        "device", "metric", "site", "start", "end", "step", "aggregate", "tz", "format", "label.NAME",
    }  # fmt: skip


def test_a_large_answer_is_compressed_for_those_who_can_read_that(client: httpx2.Client, stored: Source) -> None:
    address = f"/api/v1/metrics/history?metric=a_total&device={stored.device}&end=now"
    plain = client.get(address, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    with client.stream("GET", address, headers={"Accept-Encoding": "gzip"}) as response:
        raw = b"".join(response.iter_raw())
    assert (response.headers["content-encoding"], response.headers["vary"]) == ("gzip", "Accept, Accept-Encoding")
    assert len(raw) < len(plain.content) / 3
    assert json.loads(gzip.decompress(raw)) == plain.json()


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0", False),
        ("xgzip", False),
        ("", False),
    ],
)
def test_gzip_is_used_only_where_it_is_accepted(header: str, accepted: bool) -> None:  # noqa: FBT001 - a parameter
    assert accepts_gzip(header) is accepted


def test_no_value_ever_leaves_as_nan(client: httpx2.Client, stored: Source) -> None:
    for query in ("", "&step=1m", "&step=1m&aggregate=rate"):
        text = client.get(f"/api/v1/metrics/history?metric=a_total&device={stored.device}{query}").text
        assert "null" in text or "step" in query
        assert "NaN" not in text
        assert "Infinity" not in text


def test_health_tells_what_is_stored(client: httpx2.Client, stored: Source) -> None:
    health = ok(client, "/health")
    assert (health["status"], health["devices"], health["readings"]) == ("ok", 1, 240)
    assert ok(client, f"/api/v1/devices?site={stored.site}")["items"][0]["newest_reading"] == health["newest_reading"]


def test_head_is_answered_like_get_without_a_body(client: httpx2.Client) -> None:
    response = client.head("/liveness")
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) == len(client.get("/liveness").content)


def test_requests_are_counted_by_route_and_unknown_addresses_under_one_name(client: httpx2.Client) -> None:
    for address in ("/api/v1/devices?limit=1", "/api/v1/devices?limit=0", "/x1", "/x2"):
        client.get(address)
    client.request("INVENTED", "/x3")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    counted = {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if sample.name == "api_requests_total"
    }
    assert counted["GET", "/api/v1/devices", "200"] == 1
    assert counted["GET", "/api/v1/devices", "422"] == 1
    assert counted["GET", "none", "404"] == 2
    assert counted["other", "none", "404"] == 1
    assert {route for _, route, _ in counted} == {"/api/v1/devices", "/liveness", "none"}


# Pages


def test_pages_load_nothing_from_elsewhere_and_are_told_so_to_the_browser(client: httpx2.Client) -> None:
    todo, seen = ["/", "/docs"], set()
    while todo:
        address = todo.pop()
        seen.add(address)
        response = client.get(address)
        assert response.status_code == 200, address
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        text = response.text.replace("http://www.w3.org/2000/svg", "")  # a name, which nobody loads
        assert "//" not in re.sub(r"(?m)^\s*//.*$|; //.*$", "", text), address
        assert not re.search(r"\son\w+=|style=|<script>|javascript:|innerHTML", text), address
        for reference in re.findall(r'(?:href|src)="([^"]+)"', text):
            assert urlsplit(reference).netloc == ""
            if reference not in seen | {"/openapi.json", "/api/v1/metrics/current"}:
                todo.append(reference)
    assert seen == {"/", "/docs", "/live.js", "/docs.js", "/page.css", "/icon.svg"}
    assert {path.name for path in (files("cloud_ingest") / "dashboard").iterdir()} == {
        "live.html", "live.js", "docs.html", "docs.js", "page.css", "icon.svg",
    }  # fmt: skip


# Without a database


def test_an_unmigrated_database_is_told_with_what_to_do(database_url: str) -> None:
    with serving(database_url) as client:
        for address in ("/readiness", "/health", "/api/v1/devices", "/api/v1/metrics/history?metric=a"):
            response = client.get(address)
            assert response.status_code == 503, address
            assert "cloud-ingest migrate" in response.json()["detail"]
        assert client.get("/liveness").status_code == 200
        migrate(database_url)
        assert ok(client, "/readiness") == {"status": "ready"}


def test_a_database_that_dies_is_told_quickly_and_one_that_returns_is_used(own_database_server: Server) -> None:
    with new_database(own_database_server) as url:
        migrate(url)
        Source(url, "pump").write({time.time_ns() // 1_000_000: {"a": 1.0}})
        with serving(url) as client:
            assert len(ok(client, "/api/v1/metrics/current")["items"]) == 1
            own_database_server.kill()
            for address in ("/readiness", "/health", "/api/v1/metrics/current"):
                started = time.monotonic()
                response = client.get(address)
                assert (response.status_code, response.headers["retry-after"]) == (503, "2"), address
                assert response.headers["content-type"] == "application/problem+json"
                assert time.monotonic() - started < 5
            assert client.get("/liveness").status_code == 200
            own_database_server.start()
            until(lambda: client.get("/readiness").status_code == 200, 4, "the API to see the database again")
            assert len(ok(client, "/api/v1/metrics/current")["items"]) == 1

            own_database_server.kill()
            own_database_server.start()
            # Nobody asked meanwhile: the connections at hand are all broken, and nobody notices
            assert len(ok(client, "/api/v1/metrics/current")["items"]) == 1


@pytest.fixture
def locked(database_url: str) -> Iterator[None]:
    """Whoever reads readings waits until the test ends."""
    migrate(database_url)
    Source(database_url, "pump").write({time.time_ns() // 1_000_000: {"a": 1.0}})
    with psycopg.connect(database_url) as connection:
        connection.execute("lock table telemetry.reading in access exclusive mode")
        yield
        connection.rollback()


@pytest.mark.usefixtures("locked")
def test_a_statement_that_takes_too_long_is_given_up_and_the_next_one_served(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "STATEMENT_SECONDS", 1)
    with serving(database_url) as client:
        response = client.get("/api/v1/metrics/current")
        assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json")
        assert "within 1 s: ask for less at once" in response.json()["detail"]
        assert len(ok(client, "/api/v1/devices")["items"]) == 1
    assert "the database is away" not in caplog.text


@pytest.mark.usefixtures("locked")
def test_who_finds_all_connections_busy_is_told_so_and_when_to_try_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(pool, "STATEMENT_SECONDS", 4)
    with serving(database_url) as client, ThreadPoolExecutor(1) as other:
        first = other.submit(client.get, "/api/v1/metrics/current")
        until(lambda: used_connections(client) == 1, 10, "the first request to have the connection")
        response = client.get("/api/v1/devices")
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")
        assert "all 1 connections to the database are busy" in response.json()["detail"]
        assert first.result(20).status_code == 503
        assert len(ok(client, "/api/v1/devices")["items"]) == 1
    assert "the database is away" not in caplog.text


def used_connections(client: httpx2.Client) -> float:
    return next(
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "api_database_connections" and sample.labels["state"] == "used"
    )


def test_it_starts_without_a_database(free_port_url: str) -> None:
    with serving(free_port_url) as client:
        assert client.get("/readiness").status_code == 503
        assert client.get("/liveness").status_code == 200


@pytest.fixture
def free_port_url() -> str:
    return f"postgresql://nobody:secret-word@127.0.0.1:{free_port()}/nothing"


def test_neither_answers_nor_logs_give_the_database_password_away(
    free_port_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(free_port_url) as client:
        response = client.get("/health")
    assert response.status_code == 503
    assert "secret-word" not in response.text + caplog.text
    assert "the database is away" in caplog.text


def test_readers_can_not_write(database_url: str) -> None:
    with (
        ReadPool(database_url, "test") as readers,
        pytest.raises(StoreError, match="read-only"),
        readers.connection() as connection,
    ):
        connection.execute("create table forbidden ()")


# Starting and stopping


def settings(listen: str) -> config.Config:
    return config.load(
        None, {"CLOUD_INGEST_DATABASE_URL": "postgresql://127.0.0.1:1/x", "CLOUD_INGEST_API__LISTEN": listen}
    )


def stopped() -> threading.Event:
    """Lets a role that starts, though it should not, end at once."""
    stop = threading.Event()
    stop.set()
    return stop


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.0.2.1:0", "[::]:0", "telemetry.example:80"])
def test_an_address_that_others_can_reach_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        main.run(settings(listen), stopped())


def test_small_answers_do_not_wait_for_an_acknowledgement() -> None:
    with (
        listen(config.Address("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_taken_port_is_named_with_the_way_to_choose_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CloudError, match=rf"127\.0\.0\.1:{port}.*in use.*CLOUD_INGEST_API__LISTEN"):
            main.run(settings(f"127.0.0.1:{port}"), stopped())


def test_a_host_that_nobody_knows_is_told() -> None:
    with pytest.raises(CloudError, match=r"cannot listen on nowhere\.invalid:80"):
        main.run(settings("nowhere.invalid:80"), stopped(), insecure=True)


def test_an_error_of_the_program_is_a_problem_without_its_inside() -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    def broken() -> None:
        raise RuntimeError("the inside")

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/")

    response = asyncio.run(ask())
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "inside" not in response.text


def test_every_address_parameter_and_metric_is_documented(client: httpx2.Client) -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    for path, operations in ok(client, "/openapi.json")["paths"].items():
        for method, operation in operations.items():
            assert f"{method.upper()} {path}" in text
            for parameter in operation.get("parameters", []):
                assert f"`{parameter['name']}`" in text or parameter["in"] == "path", (path, parameter["name"])
    for family in text_string_to_metric_families(client.get("/metrics").text):
        if family.name.startswith("api_") and not family.name.endswith("_created"):
            assert f"`{family.name}" in text, family.name
