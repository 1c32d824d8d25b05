"""A device as the cloud sees one: publishes what a test tells it to, and keeps what it is sent."""

import threading
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from cloud_ingest.store.ranges import runs_of
from harness.broker import Mosquitto
from harness.wait import until
from telemetry_contract.codec import decode_ack, encode
from telemetry_contract.payload import Backlog, CommitAck, DesiredState, Status, Tick


class Device:
    """Connected on entry. `stream` is its own unless a test says otherwise."""

    def __init__(self, broker: Mosquitto, name: str = "pump", site: str = "plant") -> None:
        self.name = name
        self.stream: UUID = uuid4()
        self.acks: list[CommitAck] = []
        self.configs: list[bytes] = []
        self._broker = broker
        self._prefix = f"telemetry/v1/{site}/{name}"
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._subscribed.set()

    def __enter__(self) -> Self:
        self._client.connect(self._broker.host, self._broker.port)
        self._client.loop_start()
        self._client.subscribe([(f"{self._prefix}/ack", 1), (f"{self._prefix}/config", 1)])
        assert self._subscribed.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # No cycle, in which the collector may find the client's sockets before the client that closes them
        self._client.on_message = self._client.on_subscribe = None

    def send_raw(self, payload: bytes, kind: str = "samples", *, retain: bool = False) -> None:
        """Publish with QoS 1 and wait for the broker's PUBACK."""
        self._client.publish(f"{self._prefix}/{kind}", payload, qos=1, retain=retain).wait_for_publish(10)

    def send_tick(self, seq: int, t: int, values: dict[str, float | None], *, low: int = 1) -> None:
        tick = Tick(v=1, stream=self.stream, seq=seq, low=low, t=t, values=values)
        self.send_raw(encode(tick).payload)

    def send_backlog(
        self, seqs: list[int], times: list[int], values: dict[str, list[float | None]], *, low: int = 1
    ) -> None:
        backlog = Backlog(v=1, stream=self.stream, low=low, seq=seqs, t=times, values=values)
        self.send_raw(encode(backlog, compress_above=0).payload, "backlog")

    def send_status(self, *, online: bool = True, desired: DesiredState | None = None, time: int | None = None) -> None:
        status = Status(
            v=1, online=online, stream=self.stream, boot_id="boot", agent_version="1.2.3", desired=desired, time=time
        )
        self.send_raw(encode(status).payload, "status", retain=True)

    def committed(self) -> list[tuple[int, int]]:
        """The ranges of the newest commit ack for its stream."""
        mine = [ack for ack in self.acks if ack.stream == self.stream]
        return list(mine[-1].committed) if mine else []

    def wait_committed(self, *ranges: tuple[int, int], timeout: float = 15) -> None:
        """Until the cloud says that exactly these are committed."""
        until(lambda: self.committed() == list(ranges), timeout, f"commit ack {ranges} for {self.name}")

    def wait_told_committed(self, last: int, timeout: float = 15) -> None:
        """Until acks, taken together, said of each number up to `last` that it is committed.

        Of several ingesters one may tell later what it knew earlier; an agent forgets nothing that it was told.
        """

        def told() -> list[tuple[int, int]]:
            return runs_of(it for ack in list(self.acks) if ack.stream == self.stream for it in ack.committed)

        until(lambda: told() == [(1, last)], timeout, f"commit acks up to {last} for {self.name}")

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        if message.topic.endswith("/config"):
            self.configs.append(bytes(message.payload))
        else:
            self.acks.append(decode_ack(bytes(message.payload)))
