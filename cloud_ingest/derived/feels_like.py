"""The feels-like temperature of each place where temperature and humidity are measured in one tick."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from cloud_ingest.config import FeelsLike as FeelsLikeConfig
from cloud_ingest.derived import formulas
from cloud_ingest.derived.formulas import Booleans, Floats
from cloud_ingest.store.batch import Block
from cloud_ingest.store.readings import Integers
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.series import SeriesKey

APPARENT: Final = "apparent_temperature_celsius"
IN_DOMAIN: Final = "apparent_temperature_in_domain"

_SUMMER: Final = range(5, 10)
_MAX_PLANS: Final = 100_000
_EPOCH: Final = datetime.fromtimestamp(0, ZoneInfo("UTC"))

# Times in ms, temperature, humidity and wind, each of shape (n,) -> feels like, and where the formula holds.
Formula = Callable[[Integers, Floats, Floats, Floats], tuple[Floats, Booleans]]

# What tells a place from others.
_Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Inputs:
    """What the measured series are called, and which label may differ between those of one place."""

    temperature: str
    humidity: str
    wind: str
    ignored_label: str | None


class _Place(NamedTuple):
    """Positions in a tick of what one place measures; `wind` is None where it does not."""

    temperature: int
    humidity: int
    wind: int | None


class _Plan(NamedTuple):
    """What is added to ticks of one set of keys: `keys` are all of theirs, two new ones a place at the end."""

    places: list[_Place]
    keys: tuple[str, ...]


class FeelsLike:
    """Adds two series a place: `APPARENT`, and `IN_DOMAIN`, which is 1 where the formula holds.

    Where it does not, as without wind for a formula that needs it, the apparent temperature is that of the air. A tick
    that lacks the temperature or the humidity lacks both series. Not thread-safe.
    """

    def __init__(self, name: str, formula: Formula, inputs: Inputs) -> None:
        self._name = name
        self._formula = formula
        self._inputs = inputs
        self._plans: dict[tuple[str, ...], _Plan | None] = {}

    def __call__(self, block: Block) -> Block:
        """The block with what can be computed from it; the very same where that is nothing."""
        plan = self._plan(block.keys)
        return block if plan is None or block.rejection is not None else self._extended(block, plan)

    def _plan(self, keys: tuple[str, ...]) -> _Plan | None:
        try:
            return self._plans[keys]
        except KeyError:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[keys] = planned(keys, self._inputs, self._name)
            return plan

    def _extended(self, block: Block, plan: _Plan) -> Block:
        columns = [block.samples]
        nowhere = np.full(len(block.seqs), np.nan)
        for place in plan.places:
            temperature = block.samples[:, place.temperature]
            humidity = block.samples[:, place.humidity]
            wind = nowhere if place.wind is None else block.samples[:, place.wind]
            with np.errstate(all="ignore"):  # any double may be called a temperature
                felt, holds = self._formula(block.times_ms, temperature, humidity, wind)
            missing = np.isnan(temperature) | np.isnan(humidity)
            columns.append(np.where(missing, np.nan, np.where(holds, felt, temperature))[:, None])
            columns.append(np.where(missing, np.nan, holds)[:, None])
        return replace(block, keys=plan.keys, samples=np.concatenate(columns, axis=1))


def planned(keys: Sequence[str], inputs: Inputs, name: str) -> _Plan | None:
    """Which series of a tick belong together; None where nothing can be computed.

    Temperature and humidity are of one place where their labels are the same, apart from the ignored one. Where a
    place has several of humidity or wind, nobody knows which is meant, and none is used; a tick's only wind series
    blows everywhere. What the tick already says of itself is not computed.
    """
    try:
        series = [SeriesKey.parse(key) for key in keys]
    except InvalidSeriesKey:
        return None  # such a tick is rejected
    humid = _by_place(series, inputs.humidity, inputs.ignored_label)
    windy = _by_place(series, inputs.wind, inputs.ignored_label)
    everywhere = [position for positions in windy.values() for position in positions]
    present = {str(key) for key in series}
    places, added = [], []
    for position, key in enumerate(series):
        place = _place(key, inputs.ignored_label)
        if key.metric != inputs.temperature or len(humid.get(place, ())) != 1:
            continue
        wind = windy.get(place, everywhere)
        new = _derived_keys(key, name)
        if new is None or not present.isdisjoint(new):
            continue
        places.append(_Place(position, humid[place][0], wind[0] if len(wind) == 1 else None))
        added += new
    return _Plan(places, (*keys, *added)) if places else None


def feels_like(config: FeelsLikeConfig) -> Callable[[Block], Block]:
    """What the configuration says; each call makes one of its own."""
    if config.formula is None:
        return lambda block: block
    inputs = Inputs(config.temperature_metric, config.humidity_metric, config.wind_metric, config.ignored_label)
    made = {"kma-summer": kma_summer, "kma-winter": kma_winter, "nws": nws}
    formula = kma(ZoneInfo(config.time_zone)) if config.formula == "kma" else made[config.formula]()
    return FeelsLike(config.formula, formula, inputs)


def nws() -> Formula:
    """The heat index of the National Weather Service."""

    def formula(_times: Integers, temperature: Floats, humidity: Floats, _wind: Floats) -> tuple[Floats, Booleans]:
        return formulas.heat_index(temperature, humidity), formulas.heat_index_holds(temperature, humidity)

    return formula


def kma_summer() -> Formula:
    """That of KMA for the warm half of the year, all year long."""

    def formula(_times: Integers, temperature: Floats, humidity: Floats, _wind: Floats) -> tuple[Floats, Booleans]:
        return formulas.kma_summer(temperature, humidity), formulas.wet_bulb_holds(temperature, humidity)

    return formula


def kma_winter() -> Formula:
    """That of KMA for the cold half of the year, all year long."""

    def formula(_times: Integers, temperature: Floats, _humidity: Floats, wind: Floats) -> tuple[Floats, Booleans]:
        return formulas.wind_chill(temperature, wind), formulas.wind_chill_holds(temperature, wind)

    return formula


def kma(zone: ZoneInfo) -> Formula:
    """KMA's for the season: from May to September, by the date in that zone, the one of summer, else of winter."""
    summer, winter = kma_summer(), kma_winter()

    def formula(times: Integers, temperature: Floats, humidity: Floats, wind: Floats) -> tuple[Floats, Booleans]:
        warm = np.array([_month(time, zone) in _SUMMER for time in times.tolist()])
        in_summer, in_winter = (each(times, temperature, humidity, wind) for each in (summer, winter))
        return np.where(warm, in_summer[0], in_winter[0]), np.where(warm, in_summer[1], in_winter[1])

    return formula


def _month(time_ms: int, zone: ZoneInfo) -> int:
    return (_EPOCH + timedelta(milliseconds=time_ms)).astimezone(zone).month


def _by_place(series: Sequence[SeriesKey], metric: str, ignored: str | None) -> dict[_Labels, list[int]]:
    found: dict[_Labels, list[int]] = {}
    for position, key in enumerate(series):
        if key.metric == metric:
            found.setdefault(_place(key, ignored), []).append(position)
    return found


def _place(key: SeriesKey, ignored: str | None) -> _Labels:
    return tuple(label for label in key.labels if label[0] != ignored)


def _derived_keys(temperature: SeriesKey, formula: str) -> list[str] | None:
    """The keys of what is computed from this temperature; None where they would be too long."""
    labels = {**dict(temperature.labels), "formula": formula}
    try:
        return [str(SeriesKey.of(metric, labels)) for metric in (APPARENT, IN_DOMAIN)]
    except InvalidSeriesKey:
        return None
