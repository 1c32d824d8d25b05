"""Which series, over which time and in which buckets: what history, summary and aggregation are asked with."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from cloud_ingest.api.grids import Grid
from cloud_ingest.api.parameters import Devices, Parameters, Site
from cloud_ingest.api.problems import InvalidParameter
from cloud_ingest.api.times import TimeSpec, format_duration, parse_duration, resolve
from cloud_ingest.store.history import Window
from cloud_ingest.store.rollup.state import TierState, to_ms
from cloud_ingest.store.tier_choice import choose_tier, fitting_tier
from cloud_ingest.store.tiers import Tier
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.series import SeriesKey

MAX_POINTS: Final = 200_000
MAX_SERIES: Final = 5_000
_LABEL_PREFIX: Final = "label."
# Steps that people think in, and that nest: what a refused query is told to use.
_USUAL_STEPS: Final = (1, 5, 15, 30, 60, 300, 900, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 604_800)


def _duration(value: object) -> timedelta:
    return value if isinstance(value, timedelta) else parse_duration(value if isinstance(value, str) else "")


def _zone(value: object) -> ZoneInfo:
    try:
        return ZoneInfo(value if isinstance(value, str) else "")
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:  # OSError: the name of a folder of zones
        raise ValueError("must be a zone of the IANA database, like Asia/Seoul") from exc


Step = Annotated[
    timedelta, PlainValidator(_duration), WithJsonSchema({"type": "string", "examples": ["60", "5m", "1h", "1d"]})
]
Zone = Annotated[
    ZoneInfo,
    PlainValidator(_zone),
    WithJsonSchema({"type": "string", "examples": ["Asia/Seoul", "Europe/Berlin"]}),
    Field(description="The time zone by whose days and clock the buckets begin; default: UTC."),
]


class Selection(Parameters):
    """Which series; what is not a parameter of the address must be a `label.NAME`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    device: Devices = Field(default=[])
    site: Site | None = None

    @model_validator(mode="after")
    def _only_labels_beside(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if not name.startswith(_LABEL_PREFIX):
                raise InvalidParameter(name, "is not a parameter of this address")
            try:
                SeriesKey.of("m", {name.removeprefix(_LABEL_PREFIX): value})
            except InvalidSeriesKey as exc:
                raise InvalidParameter(name, f"can't be a label: {exc}") from exc
        return self

    @property
    def labels(self) -> Mapping[str, str]:
        """The `label.NAME` parameters by NAME."""
        return {name.removeprefix(_LABEL_PREFIX): value for name, value in (self.model_extra or {}).items()}


# OpenAPI can't describe a family of names; this stands for all of them.
LABEL_PARAMETER: Final = {
    "parameters": [
        {
            "name": "label.NAME",
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": "Only series whose label NAME has this value, as in `label.mount=/`; may be repeated.",
        }
    ]
}


def window_between(start: TimeSpec, end: TimeSpec, now: datetime) -> Window:
    """The time between the parameters `start` and `end`. Raises InvalidParameter."""
    window = Window(moment_of("start", start, now), moment_of("end", end, now))
    if window.end <= window.start:
        raise InvalidParameter("end", "must be after start")
    return window


def moment_of(field: str, spec: TimeSpec, now: datetime) -> datetime:
    """The moment that a parameter means. Raises InvalidParameter."""
    try:
        return resolve(spec, now)
    except ValueError as exc:
        raise InvalidParameter(field, str(exc)) from exc


@dataclass(frozen=True, slots=True)
class Buckets:
    """The tier that is read, and the buckets that are made of it; no grid is every reading of the raw tier."""

    tier: Tier
    grid: Grid | None
    zone: str


def choose_buckets(
    state: TierState, window: Window, step: timedelta | None, zone: ZoneInfo | None, series: int, *, finest: bool
) -> Buckets:
    """How to answer for a time, in a zone if one is given and a tier that is kept of that time can be cut so.

    Where none can, as days of an hour's zone that only rollups of days in UTC are left of, the buckets are those of
    UTC, which `zone` says. Raises InvalidParameter for more than MAX_POINTS.
    """
    start_ms, end_ms = to_ms(window.start), to_ms(window.end)
    if step is not None and zone is not None:
        _require_room(window, step, series)
        try:
            grid = Grid.in_zone(window, step, zone)
        except ValueError as exc:
            raise InvalidParameter("step", str(exc)) from exc
        tier = fitting_tier(
            state, grid.start_ms, grid.end_ms, grid.grain_ms, length_ms=end_ms - start_ms, finest=finest
        )
        if tier is not None:
            return Buckets(tier, grid, zone.key)
    step_ms = None if step is None else step // timedelta(milliseconds=1)
    choice = choose_tier(state, start_ms, end_ms, step_ms, finest=finest)
    if choice.step_ms is None:
        return Buckets(choice.tier, None, "UTC")
    chosen = timedelta(milliseconds=choice.step_ms)
    _require_room(window, chosen, series)
    return Buckets(choice.tier, Grid.around(window, chosen), "UTC")


def too_many_points(what: str, window: Window, series: int) -> InvalidParameter:
    """Says which step would do."""
    seconds = (window.end - window.start).total_seconds()
    fits = [step for step in _USUAL_STEPS if (seconds / step + 1) * max(series, 1) <= MAX_POINTS]
    advice = f"use step={format_duration(fits[0])} or more" if fits else "use a shorter time or fewer series"
    return InvalidParameter("step", f"{what} this would be more than {MAX_POINTS} points: {advice}")


def _require_room(window: Window, step: timedelta, series: int) -> None:
    count = -((window.start - window.end) // step)
    if (count + 1) * max(series, 1) > MAX_POINTS + max(series, 1):
        raise too_many_points(f"with {count} steps and {series} series", window, series)
