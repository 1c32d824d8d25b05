"""The configuration of sources: what other publishers send, where, in which format, and whose it is."""

import re
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.series import LABEL_PATTERN, METRIC_PATTERN, SeriesKey
from telemetry_contract.topics import IDENTIFIER_PATTERN, PREFIX

_DAY_SECONDS = 86_400


def _check_filter(text: str) -> str:
    # MQTT 5, section 4.7.1: `+` and `#` stand alone in their level, `#` in the last
    levels = text.split("/")
    plain = all(level in ("+", "#") or not re.search(r"[+#\x00]", level) for level in levels)
    if not plain or "#" in levels[:-1] or not text or len(text.encode()) > 65_535:  # noqa: PLR2004 - section 1.5.4
        raise PydanticCustomError("topic_filter", "must be a topic filter like telegraf/# or sensors/+/state")
    if levels[0] == "$share":
        raise PydanticCustomError("topic_filter", "can't be shared: the session of a source is its alone")
    if text.startswith(PREFIX) or levels[0] in ("+", "#"):
        raise PydanticCustomError("topic_filter", f"must leave out {PREFIX}, which is for our own agents")
    return text


Identifier = Annotated[str, Field(pattern=f"^{IDENTIFIER_PATTERN}$")]
Metric = Annotated[str, Field(pattern=f"^{METRIC_PATTERN}$")]
Label = Annotated[str, Field(pattern=f"^{LABEL_PATTERN}$")]
TopicFilter = Annotated[str, AfterValidator(_check_filter)]
Level = Annotated[int, Field(ge=1, le=100)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(_Section):
    """What tells the device: a level of the topic (the first is 1), a tag or field of the payload, or a fixed name."""

    topic_level: Level | None = None
    tag: Annotated[str, Field(min_length=1)] | None = None
    field: Annotated[str, Field(min_length=1)] | None = None
    name: Identifier | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.topic_level, self.tag, self.field, self.name)) != 1:
            raise PydanticCustomError("identity", "must be told by one of topic_level, tag, field and name")
        return self


class _Source(_Section):
    """What every source has.

    `client_id` is what the broker knows the session by, default `cloud-ingest-` and the source's name; what comes
    while nobody listens is kept by the broker for `session_expiry_seconds`.
    """

    topics: Annotated[list[TopicFilter], Field(min_length=1)]
    site: Identifier = "default"
    client_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    session_expiry_seconds: Annotated[int, Field(ge=60, le=0xFFFFFFFF)] = 7 * _DAY_SECONDS


class InfluxSource(_Source):
    """InfluxDB line protocol, as Telegraf writes it by default."""

    format: Literal["influx"]
    device: Identity = Identity(topic_level=2)
    precision: Literal["ns", "us", "ms", "s"] = "ns"
    drop_tags: list[str] = ["host"]

    @model_validator(mode="after")
    def _no_field(self) -> Self:
        if self.device.field is not None:
            raise PydanticCustomError("identity", "a device is told by topic_level, tag or name, not by a field")
        return self


class JsonTime(_Section):
    """Where a JSON object holds its time, and in what unit; `rfc3339` is text like 2026-11-20T23:39:00Z."""

    field: Annotated[str, Field(min_length=1)]
    unit: Literal["s", "ms", "us", "ns", "rfc3339"] = "s"


class JsonMetric(_Section):
    """A field of a JSON object that is a sample: `value * scale + offset`, in the base unit that the metric names."""

    field: Annotated[str, Field(min_length=1)]
    metric: Metric
    labels: dict[Label, str] = {}
    scale: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _key_is_possible(self) -> Self:
        try:
            SeriesKey.of(self.metric, self.labels)
        except InvalidSeriesKey as exc:
            raise PydanticCustomError("series_key", "{why}", {"why": str(exc)}) from exc
        return self

    @property
    def key(self) -> str:
        """The series that it becomes."""
        return str(SeriesKey.of(self.metric, self.labels))


class JsonSource(_Source):
    """JSON objects, or lists of them, with a mapping from fields to series."""

    format: Literal["json"]
    device: Identity
    time: JsonTime | None = None
    metrics: Annotated[list[JsonMetric], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.device.tag is not None:
            raise PydanticCustomError("identity", "a device is told by topic_level, field or name, not by a tag")
        keys = [metric.key for metric in self.metrics]
        if len(set(keys)) < len(keys):
            raise PydanticCustomError("metrics", "must each be another series: two have the same metric and labels")
        return self


_SPARKPLUG_TOPICS = [
    *(f"spBv1.0/+/{kind}/+" for kind in ("NBIRTH", "NDATA", "NDEATH")),
    *(f"spBv1.0/+/{kind}/+/+" for kind in ("DBIRTH", "DDATA", "DDEATH")),
]


class SparkplugSource(_Section):
    """Sparkplug B: the topic tells group, node and device. `site` null is the group."""

    format: Literal["sparkplug"]
    topics: Annotated[list[TopicFilter], Field(min_length=1)] = _SPARKPLUG_TOPICS
    site: Identifier | None = None
    rebirth_seconds: Annotated[float, Field(ge=1, le=3_600, allow_inf_nan=False)] = 10
    client_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    session_expiry_seconds: Annotated[int, Field(ge=60, le=0xFFFFFFFF)] = 7 * _DAY_SECONDS


ForeignSource: TypeAlias = Annotated[InfluxSource | JsonSource | SparkplugSource, Field(discriminator="format")]
