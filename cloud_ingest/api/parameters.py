"""The types that query parameters of several addresses share. Unknown parameters are an error everywhere."""

from collections import Counter
from typing import Annotated, Final

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from cloud_ingest.api.problems import InvalidParameter
from cloud_ingest.api.times import TimeSpec, parse_time
from telemetry_contract.series import METRIC_PATTERN
from telemetry_contract.topics import IDENTIFIER_PATTERN


class Parameters(BaseModel):
    """The query parameters of one address."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_MAY_REPEAT: Final = "device"


def once_each(request: Request) -> None:
    """Refuses a parameter given twice, of which one would be ignored. Raises InvalidParameter."""
    counts = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in counts.items():
        if count > 1 and name != _MAY_REPEAT:
            raise InvalidParameter(name, "must be given once")


def _parsed_time(value: object) -> TimeSpec:
    # A default is a parsed time already
    return parse_time(value) if isinstance(value, str) else parse_time("")


Identifier = Annotated[str, Field(pattern=f"^{IDENTIFIER_PATTERN}$")]
Devices = Annotated[
    list[Identifier],
    Field(max_length=100, description="One or more device ids; default: all.", examples=[["pump-house-1"]]),
]
Site = Annotated[Identifier, Field(description="A site.", examples=["plant-a"])]
Metric = Annotated[
    str,
    Field(
        pattern=f"^{METRIC_PATTERN}$",
        max_length=1_024,
        description="The name of a metric, without labels.",
        examples=["cpu_usage_percent", "network_receive_bytes_total"],
    ),
]
MetricGlob = Annotated[
    str,
    Field(
        pattern=r"^[a-zA-Z_:*][a-zA-Z0-9_:*]*$",
        max_length=1_024,
        description="The name of a metric, without labels; `*` stands for anything, as in `disk_*`.",
        examples=["cpu_usage_percent", "disk_*"],
    ),
]
Time = Annotated[
    TimeSpec,
    PlainValidator(_parsed_time),
    WithJsonSchema({"type": "string", "examples": ["2026-11-20T23:39:00Z", "now", "-1h"]}),
]
