"""The cloud as the edge sees it: keeps the ticks it gets and answers with commit acks."""

import threading
from collections import defaultdict
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from harness.wait import until
from telemetry_contract.codec import decode_samples, decode_status, encode
from telemetry_contract.payload import VERSION, Backlog, CommitAck, Status, Tick
from telemetry_contract.topics import Kind, Topic


@dataclass(frozen=True)
class Arrival:
    """One message with samples."""

    kind: Kind
    message: Tick | Backlog
    content_type: str | None

    @property
    def seqs(self) -> list[int]:
        return [self.message.seq] if isinstance(self.message, Tick) else self.message.seq


class Committer:
    """Subscribes like an ingester. With `acknowledging` it commits what it gets, and says so after each message.

    `time_ms` is what it says that the time is.
    """

    def __init__(self, host: str, port: int, *, protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5) -> None:
        self.acknowledging = True
        self.time_ms = 1
        self.arrivals: list[Arrival] = []
        self.statuses: list[tuple[Status, bool]] = []
        self.committed: dict[UUID, set[int]] = defaultdict(set)
        self._address = host, port
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)

    def __enter__(self) -> Self:
        self._client.connect(*self._address)
        self._client.loop_start()
        until(self._subscribed.is_set, 10, "the subscription")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def seqs(self) -> list[int]:
        """Every sequence number that arrived, in order, repeated where it came again."""
        return [seq for arrival in list(self.arrivals) for seq in arrival.seqs]

    def acknowledge(self, stream: UUID, ranges: list[tuple[int, int]], *, topic: Topic | None = None) -> None:
        """Sends a commit ack, whatever is true."""
        ack = CommitAck(v=VERSION, stream=stream, committed=ranges, server_time=self.time_ms)
        self.publish(encode(ack).payload, topic=topic)

    def publish(self, payload: bytes, *, topic: Topic | None = None) -> None:
        """Sends anything on the ack topic."""
        self._client.publish(str(topic or Topic("plant", "pump", Kind.ACK)), payload)

    def desire(self, payload: bytes) -> None:
        """Sends anything on the config topic, retained."""
        self._client.publish(str(Topic("plant", "pump", Kind.CONFIG)), payload, qos=1, retain=True)

    def wait_for(self, count: int, timeout: float = 20.0) -> list[Arrival]:
        """The arrivals once there are so many."""
        until(lambda: len(self.arrivals) >= count, timeout, f"{count} messages")
        return list(self.arrivals)

    def _on_connect(self, client: Client, *_: Any) -> None:
        client.subscribe([(f"telemetry/v1/+/+/{kind}", 1) for kind in (Kind.SAMPLES, Kind.BACKLOG, Kind.STATUS)])

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        topic = Topic.parse(message.topic)
        if topic.kind is Kind.STATUS:
            self.statuses.append((decode_status(bytes(message.payload)), message.retain))
            return
        samples = decode_samples(bytes(message.payload))
        arrival = Arrival(topic.kind, samples, getattr(message.properties, "ContentType", None))
        self.arrivals.append(arrival)
        if self.acknowledging:
            self.committed[samples.stream].update(arrival.seqs)
            ranges = _ranges(self.committed[samples.stream])
            self.acknowledge(samples.stream, ranges, topic=topic._replace(kind=Kind.ACK))


def _ranges(seqs: set[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for seq in sorted(seqs):
        if ranges and seq == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], seq)
        else:
            ranges.append((seq, seq))
    return ranges
