"""Hostile bytes on every topic that the ingester subscribes to: neighbours are stored, they are parked and counted."""

import hashlib
import random
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import psycopg
import pytest
import yaml
from harness.broker import Mosquitto
from harness.cloud import role
from harness.device import Device
from harness.publisher import Publisher
from harness.sparkplug import DOUBLE, INT64, Metric, payload
from harness.wait import until

from cloud_ingest.store.migrate import migrate
from telemetry_contract.codec import encode
from telemetry_contract.payload import Backlog, Tick

SEED = 20_261_121
ROUNDS = 40
NEIGHBOURS = 10  # good messages of each publisher, spread over the rounds
SOURCES = {
    "telegraf": {"format": "influx", "topics": ["telegraf/#"]},
    "sensors": {
        "format": "json",
        "topics": ["sensors/#"],
        "device": {"topic_level": 2},
        "time": {"field": "t", "unit": "ms"},
        "metrics": [{"field": "a", "metric": "a"}],
    },
    "plant": {"format": "sparkplug"},
}
SITE = "telemetry/v1/plant"
TOPICS = {
    "agent": [
        f"{SITE}/pump/samples",
        f"{SITE}/pump/backlog",
        f"{SITE}/p\u00fcmp/samples",
        f"{SITE}/{'x' * 65}/samples",
    ],
    "influx": ["telegraf/pump/cpu", "telegraf", "telegraf/ /cpu", f"telegraf/{'y' * 300}"],
    "json": ["sensors/pump", "sensors", "sensors//", "sensors/p\u00fcmp/state"],
    "sparkplug": [f"spBv1.0/north/{kind}" for kind in ("NBIRTH/edge", "NDATA/edge", "DBIRTH/edge/a", "DDATA/edge/a")],
}


class Sent(NamedTuple):
    topic: str
    payload: bytes


def examples(now_ms: int) -> dict[str, list[bytes]]:
    """Payloads that would be understood, were they not damaged."""
    stream = random.Random(SEED).randbytes(16).hex()  # noqa: S311 - the same bytes in each run are wanted
    tick = Tick(v=1, stream=stream, seq=1, low=1, t=now_ms, values={"a": 1.5})  # type: ignore[arg-type]
    backlog = Backlog(v=1, stream=stream, low=1, seq=[1, 2], t=[now_ms, now_ms], values={"a": [1.0, None]})  # type: ignore[arg-type]
    birth = [Metric("bdSeq", 0, INT64), Metric("Temp", 20.5, DOUBLE, alias=1)]
    return {
        "agent": [encode(tick).payload, encode(backlog).payload, encode(backlog, compress_above=0).payload],
        "influx": [f"cpu,host=a,cpu=cpu0 idle=1.5,user=2i {now_ms}000000\n".encode()],
        "json": [f'{{"t": {now_ms}, "a": 1.5, "b": ["x", {{"c": null}}]}}'.encode()],
        "sparkplug": [payload(*birth, seq=0, timestamp=now_ms)],
    }


def garbage(chance: random.Random) -> bytes:
    """Nothing that any format could be: no text, no compressed data, no protocol buffer."""
    return b"\xff" + chance.randbytes(chance.randrange(200)) + b"\xff"


def hostile(chance: random.Random) -> bytes:
    """What is made to do harm."""
    return chance.choice(
        [
            b"[" * 50_000,
            b'{"a":' * 20_000,
            zlib.compress(b" " * 50_000_000, 9),
            b'{"v":1,"v":2}' * 1_000,
            b'{"v":1e999999,"a":-1e999999}',
            b"m " + b"a=1," * 20_000,
            b"m,a=" + b"\\ " * 20_000 + b" a=1",
            b"m a=" + b"9" * 5_000 + b"i",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\x12\x02\x0a\x00" * 10_000,
            b"\x00" * 2_000_000,
        ]
    )


def damaged(chance: random.Random, good: bytes) -> bytes:
    """A payload with a few bytes changed, left out or doubled."""
    data = bytearray(good)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(data) or 1)
        match chance.randrange(4):
            case 0:
                data[at : at + 1] = chance.randbytes(1)
            case 1:
                del data[at : at + chance.randrange(1, 9)]
            case 2:
                data[at:at] = data[at : at + chance.randrange(1, 40)]
            case _:
                del data[at:]
    return bytes(data)


def parked(url: str) -> tuple[set[tuple[str, bytes]], int]:
    """Topic and digest of what is parked, and how often it came."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("select topic, digest, received_count from telemetry.rejected").fetchall()
    return {(topic, digest) for topic, digest, _ in rows}, sum(count for _, _, count in rows)


def values(url: str, device: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "select value from telemetry.sample where device = %s and metric in ('a', 'm_a', 'Temp') order by value",
            [device],
        ).fetchall()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_hostile_bytes_harm_nobody_else(
    database_url: str, tmp_path: Path, broker: Mosquitto, free_port: Callable[[], int]
) -> None:
    migrate(database_url)
    chance, now_ms = random.Random(SEED), time.time_ns() // 1_000_000  # noqa: S311 - the same bytes in each run
    file = tmp_path / "cloud.yaml"
    file.write_text(yaml.safe_dump({"sources": SOURCES}))
    listen = f"127.0.0.1:{free_port()}"
    ingest = role("ingest", tmp_path / "ingest", broker, database_url, CONFIG=str(file), INGEST__METRICS_LISTEN=listen)

    def count(metric: str) -> int:
        text = httpx2.get(f"http://{listen}/metrics").text
        return sum(int(float(value)) for value in re.findall(rf"^{metric}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    certain: list[Sent] = []
    with ingest, Device(broker, "good") as device, Publisher(broker) as publisher:
        until(lambda: "connected to the broker" in ingest.output(), 30, "the ingester to subscribe")
        until(lambda: count("ingest_source_up") == len(SOURCES), 30, "its sources")
        good = examples(now_ms)
        sent = 0

        def send(topic: str, data: bytes) -> None:
            nonlocal sent
            sent += 1
            publisher.send(topic, data)

        send(
            "spBv1.0/north/NBIRTH/node", payload(Metric("bdSeq", 0, INT64), Metric("Temp", 0.0, DOUBLE, alias=1), seq=0)
        )
        for number in range(ROUNDS):
            for kind, topics in TOPICS.items():
                certain.append(Sent(chance.choice(topics), garbage(chance)))
                send(*certain[-1])
                send(chance.choice(topics), damaged(chance, chance.choice(good[kind])))
                if number % 4 == 0:
                    send(chance.choice(topics), hostile(chance))
            if number % (ROUNDS // NEIGHBOURS) == 0:
                seq = number // (ROUNDS // NEIGHBOURS) + 1
                sent += 1
                device.send_tick(seq, now_ms + seq, {"a": float(seq)})
                send("telegraf/line/m", f"m a={seq} {now_ms + seq}000000\n".encode())
                send("sensors/flat", f'{{"t": {now_ms + seq}, "a": {seq}}}'.encode())
                metric = Metric(alias=1, value=float(seq), encode_as=DOUBLE, timestamp=now_ms + seq)
                send("spBv1.0/north/NDATA/node", payload(metric, seq=seq, timestamp=now_ms + seq))
        device.wait_committed((1, NEIGHBOURS), timeout=60)
        until(lambda: count("ingest_messages_received_total") >= sent, 60, "all to be received")
        until(lambda: count("ingest_queue_messages") == 0, 60, "all to be committed")
        found, times = parked(database_url)
        assert ingest.running
        assert count("ingest_messages_received_total") == sent
        assert count("ingest_messages_rejected_total") == times
        ingest.terminate()
        assert ingest.wait(30) == 0

    numbers = [(float(seq),) for seq in range(1, NEIGHBOURS + 1)]
    stored = {device: values(database_url, device) for device in ("good", "line", "flat", "node")}
    assert stored == {"good": numbers, "line": numbers, "flat": numbers, "node": [(0.0,), *numbers]}
    missing = [it for it in certain if (it.topic, hashlib.sha256(it.payload).digest()) not in found]
    assert missing == []
    assert "Traceback" not in ingest.output()
