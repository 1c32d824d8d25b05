"""The API role at work, and readings for it to serve, written the way the ingester writes them."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx2
import numpy as np

from cloud_ingest import config
from cloud_ingest.api import main
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from harness.ports import free_port
from harness.wait import until


@dataclass
class Source:
    """A device whose readings are stored by `write`."""

    database_url: str
    device: str
    site: str = "plant"
    stream: UUID = field(default_factory=uuid4)
    next_seq: int = 1

    def write(self, readings: Mapping[int, Mapping[str, float | None]]) -> None:
        """Store readings: time (ms) -> series key -> value. Readings with the same keys share a block."""
        by_keys: dict[tuple[str, ...], dict[int, list[float]]] = {}
        for time_ms, values in readings.items():
            row = [float("nan") if value is None else value for value in values.values()]
            by_keys.setdefault(tuple(values), {})[time_ms] = row
        blocks = [self._block(keys, rows) for keys, rows in by_keys.items()]
        with closing(BatchWriter(self.database_url)) as writer:
            outcome = writer.write(blocks, [])
        assert outcome.rejections == []

    def _block(self, keys: tuple[str, ...], rows: Mapping[int, Sequence[float]]) -> Block:
        first, self.next_seq = self.next_seq, self.next_seq + len(rows)
        return Block(
            message=Message(f"telemetry/v1/{self.site}/{self.device}/samples", b""),
            site=self.site,
            device=self.device,
            stream=self.stream,
            low=1,
            keys=keys,
            seqs=list(range(first, self.next_seq)),
            times_ms=np.array(list(rows), np.int64),
            samples=np.array(list(rows.values()), np.float64).reshape(len(rows), len(keys)),
        )


@contextmanager
def serving(
    database_url: str, *, host: str = "127.0.0.1", insecure: bool = False, **settings: str
) -> Iterator[httpx2.Client]:
    """A client of the role, which works in a thread until the block ends; then it must stop cleanly and soon.

    `settings` are environment names without their prefix.
    """
    port = free_port()
    loaded = config.load(
        None,
        {
            "CLOUD_INGEST_DATABASE_URL": database_url,
            "CLOUD_INGEST_API__LISTEN": f"{host}:{port}",
            **{f"CLOUD_INGEST_{name}": value for name, value in settings.items()},
        },
    )
    stop = threading.Event()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main.run(loaded, stop, insecure=insecure)))
    thread.start()
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=40) as client:
            until(lambda: _answers(client), 20, "the API to answer")
            yield client
    finally:
        stop.set()
        thread.join(20)
    assert codes == [0]


def ok(client: httpx2.Client, address: str, **parameters: Any) -> Any:
    """The content of an answer that must be a success. `label_x=` stands for `label.x=`."""
    named = {name.replace("label_", "label."): value for name, value in parameters.items()}
    response = client.get(address, params=named or None)  # an empty dictionary would remove the query of the address
    assert response.status_code == 200, response.text
    return response.json()


def _answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/liveness").status_code == 200
    except httpx2.TransportError:
        return False
