"""JSON objects -> readings, by the mapping of their source: an object is a reading."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from cloud_ingest.foreign.identity import NoIdentity, device_of, topic_level
from cloud_ingest.foreign.interpretation import Interpretation, Problem, Reading
from cloud_ingest.foreign.settings import JsonSource
from cloud_ingest.message import Message

_NANOSECONDS: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_NS_A_MS: Final = 1_000_000
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


class _Unusable(ValueError):
    """An object can't be a reading."""


class JsonInterpreter:
    """Objects of a publisher. All have the series of the mapping; where a field is missing or null, no value.

    So that a publisher that leaves out what has not changed does not make a layout of each combination.
    """

    def __init__(self, publisher: str, source: JsonSource) -> None:
        self._publisher = publisher
        self._source = source
        self._metrics = sorted(source.metrics, key=lambda metric: metric.key)
        self._keys = tuple(metric.key for metric in self._metrics)
        time_field = None if source.time is None else source.time.field
        self._used = {source.device.field, time_field, *(metric.field for metric in self._metrics)}

    def interpret(self, message: Message, data: bytes, now_ms: int) -> Interpretation:
        """See Interpreter."""
        del now_ms
        found = Interpretation()
        try:
            content = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            found.problems.append(Problem("malformed", f"payload is not JSON: {exc}"))
            return found
        objects = content if isinstance(content, list) else [content]
        for number, each in enumerate(objects):
            place = f"object {number + 1}: " if isinstance(content, list) else ""
            try:
                reading = self._reading(message.topic, each)
                found.texts += sum(isinstance(it, str) and name not in self._used for name, it in each.items())
            except NoIdentity as exc:
                found.problems.append(Problem("invalid_device", f"{place}{exc}"))
            except _Unusable as exc:
                found.problems.append(Problem("malformed", f"{place}{exc}"))
            else:
                found.readings.append(reading)
        return found

    def _reading(self, topic: str, content: Any) -> Reading:
        if not isinstance(content, dict):
            raise _Unusable("payload is not a JSON object")
        values = tuple(_number(content.get(it.field), it.field) * it.scale + it.offset for it in self._metrics)
        if all(value != value for value in values):  # noqa: PLR0124 - NaN is not itself
            raise _Unusable(f"none of the fields {', '.join(it.field for it in self._metrics)} is a number")
        device = self._device(topic, content)
        return Reading(self._publisher, self._source.site, device, self._time_ms(content), self._keys, values)

    def _device(self, topic: str, content: dict[str, Any]) -> str:
        rule = self._source.device
        if rule.topic_level is not None:
            return device_of(topic_level(topic, rule.topic_level), f"level {rule.topic_level} of the topic")
        if rule.field is not None:
            return device_of(content.get(rule.field), f"field {rule.field}")
        return str(rule.name)

    def _time_ms(self, content: dict[str, Any]) -> int | None:
        rule = self._source.time
        if rule is None or content.get(rule.field) is None:
            return None
        value = content[rule.field]
        try:
            if rule.unit == "rfc3339":
                return _rfc3339_ms(value)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _Unusable(f"field {rule.field} is {value!r:.80}, not a time as a number of {rule.unit}")
            unit_ns = _NANOSECONDS[rule.unit]
            return value * unit_ns // _NS_A_MS if isinstance(value, int) else round(value * (unit_ns / _NS_A_MS))
        except (OverflowError, msgspec.ValidationError) as exc:
            raise _Unusable(f"field {rule.field} is {value!r:.80}, not a time: {exc}") from exc


def _number(value: Any, field: str) -> float:
    """The value as a double, NaN for none. Raises _Unusable."""
    if value is None:
        return float("nan")
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            pass
    raise _Unusable(f"field {field} is {value!r:.80}, not a number")


def _rfc3339_ms(value: Any) -> int:
    if not isinstance(value, str):
        raise _Unusable(f"{value!r:.80} is not a time as text")
    time = msgspec.convert(value, datetime)
    if time.tzinfo is None:
        raise _Unusable(f"{value!r:.80} has no time zone")
    return (time - _EPOCH) // timedelta(milliseconds=1)
