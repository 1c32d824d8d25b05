"""Which alerts a silence keeps from being told. They are recorded all the same."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from cloud_ingest.alerts.definition import Identifier, LocationPath, Text
from cloud_ingest.alerts.precedence import glob, is_below
from telemetry_contract.series import LABEL_PATTERN


class About(NamedTuple):
    """What an alert is about, as a silence sees it; `threshold` is a name."""

    threshold: str | None
    device: str
    site: str
    location: str | None
    metric: str
    labels: Mapping[str, str]


class Scope(BaseModel):
    """What is silenced: all that is given must hold, and something must be given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: Annotated[Text, Field(min_length=1, max_length=128)] | None = Field(
        default=None, description="The name of a threshold; * stands for any text and ? for one sign."
    )
    device: Identifier | None = None
    site: Identifier | None = None
    location: LocationPath | None = Field(default=None, description="This location and all below it.")
    metric: Annotated[Text, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="A metric, or a pattern with * and ?."
    )
    labels: dict[
        Annotated[str, Field(pattern=f"^{LABEL_PATTERN}$")],
        Annotated[Text, Field(max_length=256)],
    ] = Field(default={}, max_length=16, description="Label -> value, in which * and ? stand for text.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self == type(self).model_construct():
            raise PydanticCustomError(
                "scope", "must name a threshold, device, site, location, metric or label: this would silence everything"
            )
        return self

    def covers(self, about: About) -> bool:
        """Whether the alert is silenced."""
        globs = [(self.threshold, about.threshold), (self.metric, about.metric)]
        globs += [(pattern, about.labels.get(label)) for label, pattern in self.labels.items()]
        return (
            self.device in {None, about.device}
            and self.site in {None, about.site}
            and (self.location is None or is_below(about.location, self.location))
            and all(
                pattern is None or (value is not None and glob(pattern).fullmatch(value) is not None)
                for pattern, value in globs
            )
        )
