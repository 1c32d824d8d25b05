"""A threshold as people write it, in the API or in a file: checked at entry, with words for the one who wrote it."""

import re
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from cloud_ingest.alerts.message import DEFAULT_TEMPLATE, problem_of
from cloud_ingest.alerts.rule import NoData, Operator, Rule
from telemetry_contract.series import LABEL_PATTERN, METRIC_PATTERN
from telemetry_contract.topics import IDENTIFIER_PATTERN

MAX_SECONDS: Final = 31 * 86_400
PATH_PATTERN: Final = r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,15}"
_METRIC_GLOB: Final = r"[a-zA-Z_:*?][a-zA-Z0-9_:*?]*"
_METRIC = re.compile(METRIC_PATTERN)


def _template(text: str) -> str:
    problem = problem_of(text)
    if problem is not None:
        raise PydanticCustomError("template", "{problem}", {"problem": problem})
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise PydanticCustomError("printable", "must hold no control characters")
    return text


Text = Annotated[str, AfterValidator(_printable)]
Identifier = Annotated[str, Field(pattern=f"^{IDENTIFIER_PATTERN}$")]
LocationPath = Annotated[str, Field(pattern=f"^{PATH_PATTERN}$", max_length=512, examples=["factory.building.floor"])]
Level = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Selector(_Part):
    """Which series a threshold is meant for: all that is given must hold."""

    device: Identifier | None = None
    site: Identifier | None = None
    location: LocationPath | None = Field(default=None, description="This location and all below it.")
    sensor_type: Annotated[Text, Field(min_length=1, max_length=64)] | None = None
    labels: dict[
        Annotated[str, Field(pattern=f"^{LABEL_PATTERN}$")],
        Annotated[Text, Field(max_length=256)],
    ] = Field(
        default={}, max_length=16, description="Label -> value, in which * stands for any text and ? for one sign."
    )


class Silence(_Part):
    """When a series that sends nothing is silent, and what that means."""

    after_seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)] = 300
    then: NoData = NoData.UNKNOWN


class Definition(_Part):
    """A threshold. At least one of `warning` and `critical` is needed."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$", description="Unique among thresholds.")]
    metric: Annotated[
        str,
        Field(pattern=f"^{_METRIC_GLOB}$", max_length=256, description="A metric, or a pattern with * and ?."),
    ]
    selector: Selector = Selector()
    operator: Operator
    warning: Level | None = None
    critical: Level | None = None
    clear_level: Level | None = Field(default=None, description="An episode ends with a value not beyond this.")
    clear_percent: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = Field(
        default=None, description="The clear level, so many percent from the nearest level. Instead of clear_level."
    )
    for_seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)] = 0
    no_data: Silence = Silence()
    enabled: bool = True
    priority: Annotated[int, Field(ge=-1_000, le=1_000)] = Field(
        default=0, description="The highest wins where several apply to a series; then the most specific."
    )
    message: Annotated[Text, Field(max_length=1_000), AfterValidator(_template)] = DEFAULT_TEMPLATE

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if self.warning is None and self.critical is None:
            raise PydanticCustomError("levels", "warning or critical must be set")
        direction = self.operator.direction
        if self.warning is not None and self.critical is not None:
            if self.warning == self.critical or (direction and (self.critical - self.warning) * direction < 0):
                raise PydanticCustomError(
                    "levels",
                    "critical must lie beyond warning: {operator} {critical} does not lie beyond {operator} {warning}",
                    {"operator": self.operator.value, "warning": self.warning, "critical": self.critical},
                )
            if self.operator is Operator.UNEQUAL:
                raise PydanticCustomError("levels", "!= takes one level: warning or critical")
        return self

    @model_validator(mode="after")
    def _clear(self) -> Self:
        if self.clear_level is None and self.clear_percent is None:
            return self
        if self.clear_level is not None and self.clear_percent is not None:
            raise PydanticCustomError("clear", "clear_level and clear_percent exclude each other")
        if not self.operator.direction:
            raise PydanticCustomError(
                "clear",
                "{operator} has no clear level: it ends where it does not hold",
                {"operator": self.operator.value},
            )
        rule = self.rule()
        if rule.clear is not None and (rule.nearest - rule.clear) * self.operator.direction < 0:
            raise PydanticCustomError(
                "clear",
                "clear_level must not lie beyond the nearest level {level}, got {clear}",
                {"level": rule.nearest, "clear": rule.clear},
            )
        return self

    @property
    def is_exact(self) -> bool:
        """Whether `metric` is one metric and not a pattern."""
        return _METRIC.fullmatch(self.metric) is not None

    def rule(self, version: int = 0, valid_from_ms: int = 0) -> Rule:
        """The part that judges."""
        nearest = self.critical if self.warning is None else self.warning
        clear = self.clear_level
        if self.clear_percent is not None and nearest is not None:
            clear = nearest - self.operator.direction * abs(nearest) * self.clear_percent / 100
        return Rule(
            version=version,
            operator=self.operator,
            warning=self.warning,
            critical=self.critical,
            clear=clear,
            for_ms=round(self.for_seconds * 1000),
            silence_ms=round(self.no_data.after_seconds * 1000),
            no_data=self.no_data.then,
            valid_from_ms=valid_from_ms,
        )
