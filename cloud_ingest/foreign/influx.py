"""InfluxDB line protocol -> readings: a line is a reading, its fields are the samples."""

from collections.abc import Collection, Mapping
from typing import Final

from cloud_ingest.foreign.identity import NoIdentity, device_of, topic_level
from cloud_ingest.foreign.interpretation import Interpretation, Problem, Reading
from cloud_ingest.foreign.settings import Identity, InfluxSource
from cloud_ingest.message import Message
from telemetry_contract.errors import InvalidLine
from telemetry_contract.line_protocol import Point, Precision, points, samples

_NS_A_MS: Final = 1_000_000
_MAX_PROBLEMS: Final = 20


class InfluxInterpreter:
    """Lines of a publisher. A line that can't be read does not keep its neighbours from being stored.

    Fields that are text are no samples and are left out, as a line with no others is. The tag that tells the device
    is no label, and neither are `drop_tags`: what only repeats who speaks would make each device's series a layout of
    its own.
    """

    def __init__(
        self, publisher: str, site: str, identity: Identity, precision: Precision, drop_tags: Collection[str]
    ) -> None:
        self._publisher = publisher
        self._site = site
        self._identity = identity
        self._precision = precision
        self._dropped = frozenset(drop_tags) | ({identity.tag} if identity.tag is not None else set())

    @classmethod
    def of_source(cls, name: str, source: InfluxSource) -> "InfluxInterpreter":
        """As a source of the configuration says."""
        return cls(name, source.site, source.device, Precision[source.precision], source.drop_tags)

    def interpret(self, message: Message, data: bytes, now_ms: int) -> Interpretation:
        """See Interpreter. At most a few of the problems are told."""
        del now_ms
        found = Interpretation()
        try:
            text = data.decode()
        except UnicodeDecodeError as exc:
            found.problems.append(Problem("malformed", f"not UTF-8 text: {exc}"))
            return found
        for point in points(text, self._precision):
            if isinstance(point, InvalidLine):
                _note(found, "malformed", str(point))
                continue
            try:
                self._add(found, point, self._device(message.topic, point.tags))
            except NoIdentity as exc:
                _note(found, "invalid_device", str(exc))
        return found

    def _add(self, found: Interpretation, point: Point, device: str) -> None:
        kept = point._replace(tags={name: text for name, text in point.tags.items() if name not in self._dropped})
        numbers = samples(kept)
        found.texts += sum(isinstance(value, str) for value in point.fields.values())
        if numbers.values:
            time_ms = None if point.time_ns is None else point.time_ns // _NS_A_MS
            ordered = sorted((str(key), value) for key, value in numbers.values.items())
            keys, values = zip(*ordered, strict=True)
            found.readings.append(Reading(self._publisher, self._site, device, time_ms, keys, values))
        elif not all(isinstance(value, str) for value in point.fields.values()):
            _note(found, "invalid_series_key", numbers.unusable[0])

    def _device(self, topic: str, tags: Mapping[str, str]) -> str:
        rule = self._identity
        if rule.topic_level is not None:
            return device_of(topic_level(topic, rule.topic_level), f"level {rule.topic_level} of the topic")
        if rule.tag is not None:
            return device_of(tags.get(rule.tag), f"tag {rule.tag}")
        return str(rule.name)


def _note(found: Interpretation, reason: str, detail: str) -> None:
    if len(found.problems) < _MAX_PROBLEMS:
        found.problems.append(Problem(reason, detail))
