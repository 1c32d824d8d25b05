"""Readings that devices nearby publish to an MQTT broker, the agent's own or another.

Each tick holds the newest value of every series since the tick before and carries the time of the tick. Retained
messages are not taken: nobody knows how old they are.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from edge_agent.collectors.formats import READERS, Found
from edge_agent.collectors.inbox import Inbox
from edge_agent.config import Broker, MqttTopic
from edge_agent.config import MqttInput as MqttInputConfig
from edge_agent.errors import CollectorError
from edge_agent.limited_log import LimitedLog
from edge_agent.mqtt import Connected, Disconnected, Event, Link, Received
from edge_agent.topic_pattern import TopicPattern
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.series import SeriesKey

MAX_PAYLOAD_BYTES: Final = 65_536
# So long it may take to connect before that counts as a failure.
_PATIENCE_SECONDS: Final = 10.0

_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_TRUTH: Final = {"true": 1.0, "on": 1.0, "false": 0.0, "off": 0.0}

logger = logging.getLogger(__name__)

Read = Callable[[Mapping[str, str], bytes], Found]


class MqttInput:
    """Connects with the first `collect`. `rejected` is told of entries left out, `superseded` of values replaced."""

    def __init__(
        self,
        config: MqttInputConfig,
        broker: Broker,
        client_id: str,
        rejected: Callable[[int], None],
        superseded: Callable[[int], None],
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._rejected = rejected
        self._superseded = superseded
        self._topics = [(TopicPattern.parse(topic.topic), reader(topic)) for topic in config.topics]
        self._inbox = Inbox()
        self._log = LimitedLog(logger, f"collector mqtt_input.{config.name} leaves out")  # for the link's thread
        self._lock = threading.Lock()  # guards all below
        self._closed = False
        self._link: Link | None = None
        self._connected = False
        self._lost_at = 0.0

    def collect(self) -> dict[str, float | None]:
        """What came since the last call; raises CollectorError while there is no connection, and nothing came."""
        with self._lock:
            if self._link is None and not self._closed:
                self._link = self._connecting()
                self._lost_at = time.monotonic()
            away = self._link is not None and not self._connected
            lost = away and time.monotonic() - self._lost_at >= _PATIENCE_SECONDS
        taken = self._inbox.take()
        if lost and not taken:
            raise CollectorError(f"is not connected to the broker at {self._broker.host}:{self._broker.port}")
        return taken

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            self._closed = True
            link, self._link = self._link, None
        if link is not None:
            link.close()  # not under the lock, which the link's thread takes

    def _connecting(self) -> Link:
        link = Link(
            self._broker,
            client_id=self._client_id,
            subscriptions=[pattern.filter for pattern, _ in self._topics],
            listener=self._hear,
        )
        link.start()
        return link

    def _hear(self, event: Event) -> None:
        """In the link's thread."""
        match event:
            case Connected():
                with self._lock:
                    self._connected = True
            case Disconnected():
                with self._lock:
                    self._connected, self._lost_at = False, time.monotonic()
            case Received(retained=False):
                self._take(event.topic, event.payload)

    def _take(self, topic: str, payload: bytes) -> None:
        for pattern, read in self._topics:
            labels = pattern.labels(topic)
            if labels is None:
                continue
            values, unusable = _found(read, labels, payload)
            if superseded := self._inbox.put((values, unusable)):
                self._superseded(superseded)
            if unusable:
                self._rejected(len(unusable))
                self._log.warning(f"{topic}: {unusable[0]}")


def reader(topic: MqttTopic) -> Read:
    """What reads the payloads of a topic, given the labels that its name gives."""
    if topic.format == "number":
        assert topic.series is not None  # noqa: S101 - the configuration sees to it
        return partial(_number, SeriesKey.parse(topic.series))
    if topic.values:
        return partial(_mapped, {SeriesKey.parse(series): path.split(".") for series, path in topic.values.items()})
    return partial(_labelled, topic.format)


def _found(read: Read, labels: Mapping[str, str], payload: bytes) -> Found:
    if len(payload) > MAX_PAYLOAD_BYTES:
        return {}, [f"a message of {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}"]
    try:
        return read(labels, payload)
    except CollectorError as exc:
        return {}, [str(exc)]


def _number(series: SeriesKey, labels: Mapping[str, str], payload: bytes) -> Found:
    return _as_found([(series, payload.decode(errors="replace").strip())], labels)


def _mapped(paths: Mapping[SeriesKey, list[str]], labels: Mapping[str, str], payload: bytes) -> Found:
    """What stands at the paths of a JSON document; what is not there is not there."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise CollectorError(f"sent what is not JSON ({exc})") from exc
    there = [(series, _at(document, path)) for series, path in paths.items()]
    return _as_found([(series, value) for series, value in there if value is not None], labels)


def _labelled(format_: str, labels: Mapping[str, str], payload: bytes) -> Found:
    values, unusable = READERS[format_](payload, "sent")
    found, more = _as_found([(SeriesKey.parse(key), value) for key, value in values.items()], labels)
    return found, unusable + more


def _at(document: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(document, dict):
            document = document.get(part)
        elif isinstance(document, list) and part.isascii() and part.isdigit() and int(part) < len(document):
            document = document[int(part)]
        else:
            return None
    return document


def _as_found(values: list[tuple[SeriesKey, Any]], labels: Mapping[str, str]) -> Found:
    """The numbers among the values, their series with these labels added where they don't have them."""
    found: dict[str, float | None] = {}
    unusable: list[str] = []
    for series, value in values:
        number = value if value is None else _as_number(value)
        if number is None and value is not None:
            unusable.append(f"{series} must be a number, got {json.dumps(value)[:60]}")
            continue
        try:
            found[str(SeriesKey.of(series.metric, {**labels, **dict(series.labels)}))] = number
        except InvalidSeriesKey as exc:
            unusable.append(str(exc))
    return found, unusable


def _as_number(value: Any) -> float | None:
    """A number, a truth value as 1 or 0, or a text that is one of these; None for anything else."""
    if isinstance(value, str):
        if _NUMBER.fullmatch(value):
            return float(value)
        return _TRUTH.get(value.lower())
    if not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
