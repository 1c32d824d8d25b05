"""The examples of docs/api.md: each command runs against a real API, and its answer has the shape that is shown."""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from harness.alerts import episode, threshold
from harness.api import Source, serving
from harness.postgres import Server, new_database

from cloud_ingest.store.database import connect
from cloud_ingest.store.locations import create_location, place_device
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.status import record_status
from telemetry_contract.payload import OutboxState, Status

TEXT = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```console\n(.*?)^```\n(?:```json\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
FREE_NAMES = {"labels", "settings"}  # of which each answer has others


class Example(NamedTuple):
    """A command, and what it answers where that is shown."""

    command: str
    answer: str | None


def examples() -> Iterator[Example]:
    for commands, answer in BLOCK.findall(TEXT):
        lines = [line.removeprefix("$ ") for line in commands.replace("\\\n", " ").splitlines()]
        yield from (Example(line, None) for line in lines[:-1])
        yield Example(lines[-1], answer or None)


@pytest.fixture(scope="module")
def client(database_server: Server) -> Iterator[httpx2.Client]:
    """An API of a device with two hours of readings, a gap, a status and a stream."""
    now = time.time_ns() // 1_000_000
    keys = {"cpu_usage_percent": 12.5, 'disk_used_bytes{mount="/"}': 9.1e10}
    with new_database(database_server) as url:
        migrate(url)
        source = Source(url, "pump-house-1", "plant-a")
        for minutes in (range(120, 60, -1), range(60, 0, -1)):
            source.write(
                {
                    now - ago * 60_000 + at: {**keys, 'network_receive_bytes_total{device="eth0"}': at - ago * 60_000.0}
                    for ago in minutes
                    for at in (0, 20_000, 40_000)
                }
            )
            source.next_seq += 10
        outbox = OutboxState(depth=5, bytes=20_480, low=1, next_seq=400, oldest_time=now - 1_000)
        status = Status(
            v=1, online=True, stream=source.stream, boot_id="b", agent_version="1", time=now, outbox=outbox,
            config_hash="c",
        )  # fmt: skip
        threshold(url, name="load", metric="container_load", warning=5, critical=None)
        web = 'container_load{container="web"}'
        episode(Source(url, "fan", "plant-a"), now - 30 * 60_000, now - 20 * 60_000, 7.5, web)
        source.write({now - 60 * 60_000: {"apparent_temperature_celsius": 31.5}})
        with connect(url, "test") as connection, connection.transaction():
            record_status(connection, source.site, source.device, status, datetime.now(UTC))
            for path in ("factory", "factory.main", "factory.main.ground", "factory.main.ground.paint"):
                create_location(connection, path, name=path)
            place_device(connection, source.device, "factory.main.ground.paint")
            place_device(connection, "fan", "factory.main")
        with serving(url) as client:
            yield client


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.command.split("/api/v1/")[-1][:40])
def test_an_example_is_answered_as_shown(client: httpx2.Client, example: Example) -> None:
    program, *arguments = shlex.split(example.command)
    assert program == "curl"
    here = [argument.replace("localhost:8000", f"localhost:{client.base_url.port}") for argument in arguments]
    assert here != arguments, "an example asks localhost:8000"
    if "-N" in arguments:
        follow(here)
        return
    run = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail-with-body", "--noproxy", "*", *here],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    if "text/csv" in example.command:
        header, *lines = run.stdout.splitlines()
        assert header in TEXT.replace("`", "\n").splitlines()
        assert lines
    elif example.answer is not None:
        compare(json.loads(run.stdout), json.loads(example.answer), "answer")
    else:
        found = json.loads(run.stdout)
        assert found.get("series") or found["acknowledged"]


def follow(arguments: list[str]) -> None:
    """A stream, which does not end by itself, until it has told where it begins."""
    command = ["curl", "--silent", "--fail", "--noproxy", "*", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert any(line.startswith("id: ") for line in run.stdout)
        run.kill()


def compare(found: Any, shown: Any, where: str) -> None:
    """The same fields of the same types; null may stand for anything."""
    if found is None or shown is None:
        return
    if isinstance(shown, dict):
        assert isinstance(found, dict), where
        if where.rpartition(".")[2] not in FREE_NAMES:
            assert set(found) == set(shown), where
            for name, value in shown.items():
                compare(found[name], value, f"{where}.{name}")
    elif isinstance(shown, list):
        assert found or not shown, f"{where} is empty"
        for one in found if shown else ():
            compare(one, shown[0], f"{where}[]")
    elif isinstance(shown, bool | str):
        assert type(found) is type(shown), where
    else:
        assert isinstance(found, int | float), where


def test_every_address_that_answers_with_readings_or_devices_has_an_example() -> None:
    commands = " ".join(example.command for example in examples())
    headings = re.findall(r"^## GET (/api/v1/\S+)$", TEXT, re.MULTILINE)
    assert len(headings) >= 8
    for address in headings:
        assert re.search(re.sub(r"\\\{\w+\\\}", r"[\\w-]+", re.escape(address)) + r"(?:['? ]|$)", commands), address
