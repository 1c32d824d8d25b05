"""POST /api/v1/write on real servers."""

import gzip
import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
from backports import zstd
from harness.api import serving
from harness.postgres import Server, new_database

from cloud_ingest.store.migrate import migrate
from telemetry_contract.codec import encode
from telemetry_contract.payload import Backlog, Tick

WRITE = "/api/v1/write"
NOW_MS = time.time_ns() // 1_000_000


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
def device() -> str:
    return f"d{uuid4().hex[:10]}"


def write(
    client: httpx2.Client, body: bytes, headers: dict[str, str] | None = None, **parameters: str
) -> httpx2.Response:
    return client.post(WRITE, params={"format": "influx", **parameters}, content=body, headers=headers)


def stored(database: str, device: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(
            "select site, metric, labels, value, (extract(epoch from time) * 1000)::bigint - %s"
            " from telemetry.sample where device = %s order by time, metric, value",
            [NOW_MS, device],
        ).fetchall()


def refusal(response: httpx2.Response, status: int = 422) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()


def lines(device: str, *values: float) -> bytes:
    return b"".join(
        f"load,host={device},cpu=all value={value} {(NOW_MS - 1000 * number) * 1_000_000}\n".encode()
        for number, value in enumerate(values)
    )


def tick(stream: UUID, seq: int, value: float) -> bytes:
    return encode(Tick(v=1, stream=stream, seq=seq, low=1, t=NOW_MS, values={"a": value})).payload


# Line protocol


def test_line_protocol_is_stored_once_however_often_it_is_sent(
    client: httpx2.Client, database: str, device: str
) -> None:
    for _ in range(2):
        response = write(client, lines(device, 1.5, 2.5), site="plant")
        assert (response.status_code, response.content) == (204, b"")
    assert stored(database, device) == [
        ("plant", "load", {"cpu": "all"}, 2.5, -1000),
        ("plant", "load", {"cpu": "all"}, 1.5, 0),
    ]


@pytest.mark.parametrize(("precision", "factor"), [("ms", 1), ("us", 1_000), ("ns", 1_000_000)])
def test_precision_tells_the_unit_of_times(
    client: httpx2.Client, database: str, device: str, precision: str, factor: int
) -> None:
    body = f"t value=1 {NOW_MS * factor}".encode()
    assert write(client, body, device=device, precision=precision).status_code == 204
    assert [row[-1] for row in stored(database, device)] == [0]


def test_device_is_told_by_a_parameter_or_by_a_tag(client: httpx2.Client, database: str, device: str) -> None:
    assert write(client, b"t,host=else value=1", device=device).status_code == 204
    assert write(client, f"u,name={device} value=1".encode(), device_tag="name").status_code == 204
    assert [row[1:4] for row in stored(database, device)] == [("t", {"host": "else"}, 1.0), ("u", {}, 1.0)]
    assert refusal(write(client, b"t value=1"))["errors"][0]["message"].startswith("tag host is None")


def test_bad_line_is_named_and_nothing_is_stored(client: httpx2.Client, database: str, device: str) -> None:
    told = refusal(write(client, lines(device, 1.0) + b"t value=\n" + lines(device, 2.0)))
    assert [error["field"] for error in told["errors"]] == ["body"]
    assert told["errors"][0]["message"].startswith("line 2 column 9")
    assert stored(database, device) == []


@pytest.mark.parametrize("coding", ["gzip", "zstd", "identity", "GZIP"])
def test_compressed_body_is_read(client: httpx2.Client, database: str, device: str, coding: str) -> None:
    plain = lines(device, 3.5)
    bodies = {"gzip": gzip.compress(plain), "zstd": zstd.compress(plain), "identity": plain}
    response = write(client, bodies[coding.lower()], {"Content-Encoding": coding})
    assert response.status_code == 204, response.text
    assert [row[3] for row in stored(database, device)] == [3.5]


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("br", b"x", 415),
        ("gzip", b"x", 422),
        ("gzip", gzip.compress(b"t value=1")[:-9], 422),
        ("gzip", gzip.compress(b"t value=1") + b"x", 422),
        ("gzip", gzip.compress(bytes(16 * 1024 * 1024 + 1)), 413),
        ("zstd", b"x", 422),
        ("zstd", zstd.compress(bytes(16 * 1024 * 1024 + 1)), 413),
        ("identity", bytes(16 * 1024 * 1024 + 1), 413),
    ],
)
def test_body_that_can_not_be_read_is_refused(client: httpx2.Client, coding: str, body: bytes, status: int) -> None:
    refusal(write(client, body, {"Content-Encoding": coding}), status)


def test_readings_outside_the_time_bounds_are_refused(client: httpx2.Client, device: str) -> None:
    for offset in (7_200, -400 * 86_400):
        body = f"t value=1 {NOW_MS // 1000 + offset}".encode()
        assert "readings lie more than" in refusal(write(client, body, device=device, precision="s"))["detail"]


def test_device_of_an_agent_is_not_written_to_with_line_protocol(
    client: httpx2.Client, database: str, device: str
) -> None:
    write(client, tick(uuid4(), 1, 1.0), format="bridge", device=device)
    told = refusal(write(client, lines(device, 5.0) + lines(f"{device}-2", 5.0)))
    assert told["errors"][0]["message"] == f"device_taken: device {device} has an agent of its own"
    assert [row[3] for row in stored(database, device)] == [1.0]
    assert stored(database, f"{device}-2") == []


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"format": "csv"}, "format"),
        ({"precision": "h"}, "precision"),
        ({"device": "a/b"}, "device"),
        ({"bucket": "x"}, "bucket"),
        ({"format": "bridge"}, "device"),
    ],
)
def test_parameter_that_can_not_be_used_is_named(client: httpx2.Client, parameters: dict[str, str], field: str) -> None:
    assert [error["field"] for error in refusal(write(client, b"t value=1", None, **parameters))["errors"]] == [field]


def test_page_of_another_origin_can_not_write(client: httpx2.Client, database: str, device: str) -> None:
    refusal(write(client, lines(device, 1.0), {"Origin": "https://elsewhere.example"}), 403)
    assert stored(database, device) == []
    own = {"Origin": str(client.base_url).rstrip("/")}
    assert write(client, lines(device, 1.0), own).status_code == 204


# Our own payload


def test_payload_of_an_agent_is_stored_and_settled(client: httpx2.Client, database: str, device: str) -> None:
    stream = uuid4()
    backlog = Backlog(
        v=1, stream=stream, low=1, seq=[2, 3], t=[NOW_MS - 2, NOW_MS - 1], values={"a": [2.0, None], "b": [2.5, 3.5]}
    )
    sent = [(tick(stream, 1, 1.0), 1, 0, 1), (encode(backlog).payload, 2, 0, 3), (tick(stream, 1, 1.0), 0, 1, 0)]
    for body, new, duplicate, samples in sent:
        response = write(client, body, format="bridge", device=device)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert (answer["stored"], answer["duplicate"], answer["samples"]) == (new, duplicate, samples)
    assert answer["committed"] == [[1, 3]]
    assert [row[3] for row in stored(database, device)] == [2.0, 2.5, 3.5, 1.0]


@pytest.mark.parametrize("body", [b"", b"rubbish", b"{}", json.dumps({"v": 2}).encode()])
def test_payload_that_is_none_is_refused(client: httpx2.Client, device: str, body: bytes) -> None:
    assert refusal(write(client, body, format="bridge", device=device))["errors"][0]["field"] == "body"


def test_payload_speaks_for_no_other_device(client: httpx2.Client, database: str, device: str) -> None:
    stream = uuid4()
    write(client, tick(stream, 1, 1.0), format="bridge", device=device)
    told = refusal(write(client, tick(stream, 2, 2.0), format="bridge", device=f"{device}-2"))
    assert "belongs to another device" in told["detail"]
    assert [row[3] for row in stored(database, device)] == [1.0]


def test_description_names_every_answer(client: httpx2.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"][WRITE]["post"]
    assert set(operation["responses"]) >= {"200", "204", "403", "413", "415", "422", "503"}
    assert set(operation["requestBody"]["content"]) == {"text/plain", "application/json"}


def test_without_a_database_it_says_when_to_try_again() -> None:
    with serving("postgresql://nobody@127.0.0.1:1/none") as client:
        response = write(client, b"t value=1", device="d")
    refusal(response, 503)
    assert response.headers["retry-after"]
