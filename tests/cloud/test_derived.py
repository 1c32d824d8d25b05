"""Feels-like temperatures: the formulas beside published values and another implementation, and where they are used."""

from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import psycopg
import pytest
import thermofeel
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.config import FeelsLike as Config
from cloud_ingest.derived import formulas
from cloud_ingest.derived.feels_like import Inputs, feels_like, planned
from cloud_ingest.message import Message
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.rejected import Rejection

KELVIN = 273.15
INPUTS = Inputs("temperature_celsius", "humidity_percent", "wind_speed_meters_per_second", "sensor")
CLIMATE = ("temperature_celsius", "humidity_percent", "wind_speed_meters_per_second")
FELT = 'apparent_temperature_celsius{formula="%s"}'
HOLDS = 'apparent_temperature_in_domain{formula="%s"}'
SUMMER = datetime(2026, 7, 20, tzinfo=UTC)
WINTER = datetime(2026, 1, 20, tzinfo=UTC)
nan = float("nan")


def arrays(*values: float) -> Any:
    return [np.array([value]) for value in values]


def block(rows: list[list[float]], *, keys: tuple[str, ...] = CLIMATE, at: datetime = SUMMER) -> Block:
    start_ms = int(at.timestamp() * 1000)
    return Block(
        message=Message("telemetry/v1/plant/shed/samples", b"{}"),
        site="plant",
        device="shed",
        stream=uuid4(),
        low=1,
        keys=keys,
        seqs=list(range(1, len(rows) + 1)),
        times_ms=np.array([start_ms + 1000 * n for n in range(len(rows))], np.int64),
        samples=np.array(rows, np.float64).reshape(len(rows), len(keys)),
    )


def felt(
    row: list[float], formula: Literal["kma", "kma-summer", "kma-winter", "nws"], at: datetime = SUMMER
) -> tuple[float, float]:
    """The apparent temperature of one reading, rounded to a tenth, and whether the formula holds."""
    made = feels_like(Config(formula=formula))(block([row], at=at))
    assert made.keys == (*CLIMATE, FELT % formula, HOLDS % formula)
    value, holds = made.samples[0, 3:].tolist()
    return round(value, 1), holds


# The formulas


@pytest.mark.parametrize(
    ("temperature", "humidity", "expected"),
    [
        (33, 50, 32.5),  # KMA, both
        (35, 60, 35.5),
    ],
)
def test_kma_summer_gives_what_kma_publishes(temperature: float, humidity: float, expected: float) -> None:
    assert felt([temperature, humidity, nan], "kma-summer") == (expected, 1)


def test_kma_winter_gives_what_kma_publishes() -> None:
    assert felt([-5, 50, 20 / 3.6], "kma-winter") == (-11.6, 1)


@pytest.mark.parametrize(
    ("fahrenheit", "humidity", "expected"),
    [(80, 40, 80), (90, 60, 100), (96, 50, 108), (100, 40, 109), (86, 90, 105)],  # the table of the NWS, rounded
)
def test_the_heat_index_is_that_of_the_table(fahrenheit: float, humidity: float, expected: float) -> None:
    (index,) = formulas.heat_index(*arrays((fahrenheit - 32) / 1.8, humidity))
    assert index * 1.8 + 32 == pytest.approx(expected, abs=0.6)


@given(st.floats(-20, 50), st.floats(5, 99))
def test_wet_bulb_equals_another_implementation(temperature: float, humidity: float) -> None:
    theirs = thermofeel.calculate_wbt(np.array([temperature + KELVIN]), np.array([humidity])) - KELVIN
    assert formulas.wet_bulb(*arrays(temperature, humidity)) == pytest.approx(theirs, abs=1e-6)


@given(st.floats(-50, 10), st.floats(1.3, 40))
def test_wind_chill_equals_another_implementation(temperature: float, wind: float) -> None:
    theirs = thermofeel.calculate_wind_chill(np.array([temperature + KELVIN]), np.array([wind])) - KELVIN
    assert formulas.wind_chill(*arrays(temperature, wind)) == pytest.approx(theirs, abs=1e-6)


@given(st.floats(20, 50), st.floats(-10, 45))
def test_the_heat_index_equals_another_implementation_where_it_holds(temperature: float, dew_point: float) -> None:
    kelvin, dew = np.array([temperature + KELVIN]), np.array([min(dew_point, temperature) + KELVIN])
    humidity = thermofeel.calculate_relative_humidity_percent(kelvin, dew)
    own = np.array([temperature])
    if not formulas.heat_index_holds(own, humidity)[0]:
        return
    theirs = thermofeel.calculate_heat_index_adjusted(kelvin, dew) - KELVIN
    assert formulas.heat_index(own, humidity) == pytest.approx(theirs, abs=1e-4)


# Their domains


@pytest.mark.parametrize(
    ("row", "formula"),
    [
        ([51, 50, nan], "kma-summer"),
        ([30, 4, nan], "kma-summer"),
        ([30, 100, nan], "kma-summer"),
        ([30, -20, nan], "kma-summer"),
        ([10.1, 50, 5], "kma-winter"),
        ([-5, 50, 1.2], "kma-winter"),
        ([-5, 50, nan], "kma-winter"),
        ([20, 50, nan], "nws"),
        ([35, 101, nan], "nws"),
        ([1e308, 50, 5], "nws"),
    ],
)
def test_outside_its_domain_a_formula_gives_the_air_temperature_and_says_so(row: list[float], formula: Any) -> None:
    assert felt(row, formula) == (row[0], 0)


@pytest.mark.parametrize("row", [[nan, 50, 5], [30, nan, 5]])
def test_without_an_input_there_is_no_value(row: list[float]) -> None:
    made = feels_like(Config(formula="nws"))(block([row]))
    assert np.isnan(made.samples[0, 3:]).all()


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (datetime(2026, 4, 30, 14, 59, 59, tzinfo=UTC), (30.0, 0)),  # still April in Seoul: too warm for winter's
        (datetime(2026, 4, 30, 15, 0, 0, tzinfo=UTC), (29.5, 1)),
        (datetime(2026, 9, 30, 14, 59, 59, tzinfo=UTC), (29.5, 1)),
        (datetime(2026, 9, 30, 15, 0, 0, tzinfo=UTC), (30.0, 0)),
    ],
)
def test_kma_takes_the_season_by_the_date_of_the_zone(at: datetime, expected: tuple[float, float]) -> None:
    assert felt([30, 50, 5], "kma", at) == expected


def test_kma_of_winter_takes_the_wind() -> None:
    assert felt([-5, 50, 20 / 3.6], "kma", WINTER) == (-11.6, 1)


# Which series belong together


def places(*keys: str) -> list[tuple[int, int, int | None]]:
    plan = planned(keys, INPUTS, "nws")
    return [] if plan is None else [(it.temperature, it.humidity, it.wind) for it in plan.places]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (("temperature_celsius",), []),
        (("humidity_percent", "temperature_celsius"), [(1, 0, None)]),
        (('temperature_celsius{chip="a",sensor="temp"}', 'humidity_percent{chip="a",sensor="hum"}'), [(0, 1, None)]),
        (('temperature_celsius{chip="cpu"}', 'humidity_percent{chip="room"}'), []),
        (
            (
                'temperature_celsius{room="a"}',
                'temperature_celsius{room="b"}',
                'humidity_percent{room="b"}',
                'humidity_percent{room="a"}',
                'wind_speed_meters_per_second{mast="1"}',
            ),
            [(0, 3, 4), (1, 2, 4)],
        ),
        # Nobody knows which humidity, or which wind, is meant
        (("temperature_celsius", 'humidity_percent{sensor="1"}', 'humidity_percent{sensor="2"}'), []),
        (
            (
                'temperature_celsius{room="a"}',
                'humidity_percent{room="a"}',
                'wind_speed_meters_per_second{mast="1"}',
                'wind_speed_meters_per_second{mast="2"}',
            ),
            [(0, 1, None)],
        ),
        # The device says it itself
        (("temperature_celsius", "humidity_percent", FELT % "nws"), []),
        (("temperature_celsius", "humidity_percent", "not a {key"), []),
    ],
)
def test_series_of_one_place_are_found(keys: tuple[str, ...], expected: list[tuple[int, int, int | None]]) -> None:
    assert places(*keys) == expected


def test_a_key_that_would_become_too_long_is_left_out() -> None:
    labels = '{room="%s"}' % ("x" * 990)
    assert places(f"temperature_celsius{labels}", f"humidity_percent{labels}") == []


def test_a_block_without_inputs_or_with_a_rejection_stays_as_it_is() -> None:
    derive = feels_like(Config())
    other = block([[1.0]], keys=("cpu_usage_percent",))
    refused = block([[30, 50, 5]]).refused("too_old", "long ago")
    assert derive(other) is other
    assert derive(refused) is refused
    assert isinstance(refused.rejection, Rejection)


def test_nothing_is_computed_where_it_is_switched_off() -> None:
    given_block = block([[30, 50, 5]])
    assert feels_like(Config(formula=None))(given_block) is given_block


@given(st.lists(st.lists(st.floats(), min_size=3, max_size=3), min_size=1, max_size=5))
def test_any_numbers_are_taken(rows: list[list[float]]) -> None:
    formulas_: list[Literal["kma", "kma-summer", "kma-winter", "nws"]] = ["kma", "kma-summer", "kma-winter", "nws"]
    for formula in formulas_:
        made = feels_like(Config(formula=formula))(block(rows))
        assert made.samples.shape == (len(rows), 5)
        assert set(made.samples[:, 4][~np.isnan(made.samples[:, 4])].tolist()) <= {0.0, 1.0}


# In the database


def test_what_is_derived_is_stored_as_a_series_like_any(database_url: str) -> None:
    migrate(database_url)
    with closing(BatchWriter(database_url, feels_like(Config(formula="kma-summer")))) as writer:
        readings = block([[33, 50, nan], [35, 60, nan]], at=datetime.now(UTC))
        writer.write([readings], [])
        again = writer.write([readings], [])
    assert again.duplicate_ticks == 2
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "select metric, labels, round(value::numeric, 1)::float8 from telemetry.sample"
            " where metric like 'apparent%' order by time, metric"
        ).fetchall()
    labels = {"formula": "kma-summer"}
    assert rows == [
        ("apparent_temperature_celsius", labels, 32.5),
        ("apparent_temperature_in_domain", labels, 1.0),
        ("apparent_temperature_celsius", labels, 35.5),
        ("apparent_temperature_in_domain", labels, 1.0),
    ]
