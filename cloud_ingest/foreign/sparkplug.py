"""Sparkplug B -> readings: births say what the numbers of later messages mean.

A node announces its metrics with NBIRTH and those of its devices with DBIRTH, and then sends what has changed, with an
alias in place of the name. So messages are understood only in the session that the NBIRTH began, which the sequence
numbers prove: where one is missing, what it may have changed is not known, nothing more is taken from the node, and
it is asked for its births. (Eclipse Sparkplug 3.0 specification, sections 5.4 to 5.9 and 6.4.)
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cloud_ingest.foreign.identity import NoIdentity, device_of
from cloud_ingest.foreign.interpretation import Interpretation, Problem, Reading
from cloud_ingest.foreign.sparkplug_payload import MalformedSparkplug, Metric, Payload, decode_payload, sample_of
from cloud_ingest.message import Message
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.series import SeriesKey

ONLINE: Final = "sparkplug_online"  # 1 from a birth on, 0 from a death on

_NAMESPACE: Final = "spBv1.0"
_OF_NODE: Final = frozenset({"NBIRTH", "NDATA", "NDEATH"})
_OF_DEVICE: Final = frozenset({"DBIRTH", "DDATA", "DDEATH"})
_NODE_LEVELS: Final = 4
_SEQUENCE: Final = 256
_MAX_NODES: Final = 10_000
_CONTROL: Final = ("Node Control/", "Device Control/")
_BD_SEQ: Final = "bdSeq"
_NOT_IN_METRIC: Final = re.compile(r"[^a-zA-Z0-9_:]")

RequestRebirth = Callable[[str, str], None]


class _Topic(NamedTuple):
    """`device` is "" for what a node says of itself."""

    group: str
    kind: str
    node: str
    device: str


class _Meaning(NamedTuple):
    """What a birth said of a metric. `key` is None where it is no series."""

    key: str | None
    datatype: int


@dataclass(slots=True)
class _Birth:
    """What a node or device announced."""

    by_name: dict[str, _Meaning] = field(default_factory=dict)
    by_alias: dict[int, _Meaning] = field(default_factory=dict)


@dataclass(slots=True)
class _Node:
    """A node in its session: `seq` is of its last message, `births` are its own under "" and those of its devices."""

    bd_seq: int | None
    seq: int
    births: dict[str, _Birth] = field(default_factory=dict)


class _NoBirth(Exception):
    """Without a birth that did not come the message means nothing."""


class SparkplugInterpreter:
    """Messages of any number of nodes. Each metric is a reading of its own: nodes send whatever has changed."""

    def __init__(self, publisher: str, site: str | None, rebirth_ms: int, request_rebirth: RequestRebirth) -> None:
        """`request_rebirth` is called with group and node, at most every `rebirth_ms` for a node."""
        self._publisher = publisher
        self._site = site
        self._rebirth_ms = rebirth_ms
        self._request_rebirth = request_rebirth
        self._nodes: dict[tuple[str, str], _Node] = {}
        self._requested: dict[tuple[str, str], int] = {}

    def interpret(self, message: Message, data: bytes, now_ms: int) -> Interpretation:
        """See Interpreter."""
        found = Interpretation()
        topic = _topic(message.topic)
        # None: commands, and states of other hosts. What was retained belongs to a session that may be over.
        if topic is None or message.retained:
            return found
        try:
            self._check_identity(topic)
            self._read(found, topic, decode_payload(data), now_ms)
        except MalformedSparkplug as exc:
            found.problems.append(Problem("malformed", str(exc)))
        except NoIdentity as exc:
            found.problems.append(Problem("invalid_device", str(exc)))
        except _NoBirth as exc:
            found.problems.append(Problem("birth_missing", str(exc)))
            self._ask(topic, now_ms)
        return found

    def _read(self, found: Interpretation, topic: _Topic, payload: Payload, now_ms: int) -> None:
        key = topic.group, topic.node
        if topic.kind == "NBIRTH":
            self._begin(key, payload)
        elif topic.kind == "NDEATH":
            self._end(found, topic, payload, now_ms)
            return
        node = self._in_sequence(key, topic.kind, payload)
        if topic.kind == "DDEATH":
            if node.births.pop(topic.device, None) is not None:
                found.readings.append(self._online(topic, now_ms, 0.0))
            return
        if topic.kind in ("NBIRTH", "DBIRTH"):
            node.births[topic.device] = _birth(payload, found)
            found.readings.append(self._online(topic, payload.timestamp_ms, 1.0))
        birth = node.births.get(topic.device)
        if birth is None:
            raise _NoBirth(f"device {topic.device} of node {topic.node} has sent data before its birth")
        self._add(found, topic, payload, birth)

    def _begin(self, key: tuple[str, str], payload: Payload) -> None:
        if payload.seq is None:
            raise MalformedSparkplug("an NBIRTH has no sequence number")
        if key not in self._nodes and len(self._nodes) >= _MAX_NODES:
            raise MalformedSparkplug(f"there are {_MAX_NODES} other nodes already")
        bd_seq = next((int(it.raw) for it in payload.metrics if it.name == _BD_SEQ and it.raw is not None), None)
        self._nodes[key] = _Node(bd_seq, payload.seq)
        self._requested.pop(key, None)

    def _end(self, found: Interpretation, topic: _Topic, payload: Payload, now_ms: int) -> None:
        """The death of the session that has its bdSeq; one of an earlier session comes late and means nothing."""
        key = topic.group, topic.node
        node = self._nodes.get(key)
        bd_seq = next((int(it.raw) for it in payload.metrics if it.name == _BD_SEQ and it.raw is not None), None)
        if node is None or bd_seq != node.bd_seq:
            return
        del self._nodes[key]
        for device in node.births:
            found.readings.append(self._online(topic._replace(device=device), now_ms, 0.0))

    def _in_sequence(self, key: tuple[str, str], kind: str, payload: Payload) -> _Node:
        """The node, where this message follows the last one or is the last one again."""
        node = self._nodes.get(key)
        if node is None:
            raise _NoBirth(f"{kind} of node {key[1]} came before its birth")
        if payload.seq not in (node.seq, (node.seq + 1) % _SEQUENCE):
            del self._nodes[key]
            raise _NoBirth(f"{kind} of node {key[1]} has sequence number {payload.seq} after {node.seq}")
        node.seq = int(payload.seq or 0)
        return node

    def _ask(self, topic: _Topic, now_ms: int) -> None:
        key = topic.group, topic.node
        if now_ms - self._requested.get(key, -self._rebirth_ms) >= self._rebirth_ms:
            if len(self._requested) >= _MAX_NODES:
                self._requested.clear()
            self._requested[key] = now_ms
            self._request_rebirth(topic.group, topic.node)

    def _add(self, found: Interpretation, topic: _Topic, payload: Payload, birth: _Birth) -> None:
        for metric in payload.metrics:
            found.texts += metric.is_text
            meaning = _meaning(metric, birth)
            if meaning is None:
                _note(found, "birth_missing", f"no birth tells what {_shown(metric)} is")
            elif meaning.key is not None and metric.raw is not None and not metric.is_transient:
                time_ms = payload.timestamp_ms if metric.timestamp_ms is None else metric.timestamp_ms
                if metric.is_historical and metric.timestamp_ms is None:
                    _note(found, "malformed", f"historical {_shown(metric)} has no time")
                    continue
                value = sample_of(metric.raw, meaning.datatype)
                if value is not None and math.isfinite(value):
                    found.readings.append(self._reading(topic, time_ms, meaning.key, value))

    def _online(self, topic: _Topic, time_ms: int | None, value: float) -> Reading:
        return self._reading(topic, time_ms, ONLINE, value)

    def _reading(self, topic: _Topic, time_ms: int | None, key: str, value: float) -> Reading:
        return Reading(self._speaker(topic), self._site or topic.group, _device(topic), time_ms, (key,), (value,))

    def _speaker(self, topic: _Topic) -> str:
        """Group and all: two devices of different groups or nodes may come to the same name."""
        return f"{self._publisher} {topic.group}/{topic.node}" + (f"/{topic.device}" if topic.device else "")

    def _check_identity(self, topic: _Topic) -> None:
        device_of(self._site or topic.group, "the group of the topic")
        device_of(_device(topic), "the node and device of the topic")


def _topic(text: str) -> _Topic | None:
    """The parts of a topic of births, data and deaths; None for any other."""
    levels = text.split("/")
    if levels[0] != _NAMESPACE or len(levels) < _NODE_LEVELS:
        return None
    if len(levels) == _NODE_LEVELS and levels[2] in _OF_NODE:
        return _Topic(levels[1], levels[2], levels[3], "")
    if len(levels) == _NODE_LEVELS + 1 and levels[2] in _OF_DEVICE and levels[4]:
        return _Topic(levels[1], levels[2], levels[3], levels[4])
    return None


def _device(topic: _Topic) -> str:
    return f"{topic.node}.{topic.device}" if topic.device else topic.node


def _birth(payload: Payload, found: Interpretation) -> _Birth:
    """What the metrics of a birth mean from now on."""
    birth = _Birth()
    names: dict[str, str] = {ONLINE: "(births and deaths)"}
    for metric in payload.metrics:
        if metric.name is None or metric.datatype is None:
            _note(found, "malformed", f"{_shown(metric)} has no name or no data type in its birth")
            continue
        key = None if metric.name == _BD_SEQ or metric.name.startswith(_CONTROL) else _key(metric.name)
        if key is not None and names.setdefault(key, metric.name) != metric.name:
            _note(found, "name_clash", f"metrics {names[key]!r:.80} and {metric.name!r:.80} would be one series")
            key = None
        meaning = birth.by_name[metric.name] = _Meaning(key, metric.datatype)
        if metric.alias is not None:
            birth.by_alias[metric.alias] = meaning
    return birth


def _meaning(metric: Metric, birth: _Birth) -> _Meaning | None:
    if metric.name is not None:
        return birth.by_name.get(metric.name)
    return None if metric.alias is None else birth.by_alias.get(metric.alias)


def _key(name: str) -> str | None:
    """`Motor 1/Temperature` -> `Motor_1_Temperature`; None where nothing is left or it is too long."""
    metric = _NOT_IN_METRIC.sub("_", name)
    try:
        return str(SeriesKey.of(f"_{metric}" if metric[:1].isdigit() else metric))
    except InvalidSeriesKey:
        return None


def _shown(metric: Metric) -> str:
    return f"metric {metric.name!r:.80}" if metric.name is not None else f"alias {metric.alias}"


def _note(found: Interpretation, reason: str, detail: str) -> None:
    if len(found.problems) < 20:  # noqa: PLR2004 - enough to see what is wrong
        found.problems.append(Problem(reason, detail))
