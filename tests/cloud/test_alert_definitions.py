"""Thresholds as people write them, and which one applies."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.alerts.message import DEFAULT_TEMPLATE, FIELDS, problem_of, render
from cloud_ingest.alerts.precedence import Candidate, Sensor, explain, glob, winners

SENSOR = Sensor("pump", "plant", "temperature_celsius", {"sensor": "oil"}, "factory.hall.line1", "pt100")


def definition(**changes: Any) -> Definition:
    return Definition.model_validate(
        {"name": "hot", "metric": "temperature_celsius", "operator": ">", "warning": 80} | changes
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warning": None}, "warning or critical must be set"),
        ({"critical": 70}, "critical must lie beyond warning"),
        ({"critical": 80}, "critical must lie beyond warning"),
        ({"operator": "<", "critical": 90}, "critical must lie beyond warning"),
        ({"operator": "!=", "critical": 90}, "!= takes one level"),
        ({"clear_level": 81}, "clear_level must not lie beyond the nearest level 80"),
        ({"operator": "<", "clear_level": 79}, "clear_level must not lie beyond"),
        ({"clear_level": 70, "clear_percent": 5}, "exclude each other"),
        ({"operator": "==", "clear_level": 70}, "== has no clear level"),
        ({"warning": float("nan")}, "finite"),
        ({"operator": "=>"}, "operator"),
        ({"metric": "cpu usage"}, "metric"),
        ({"selector": {"location": "a..b"}}, "location"),
        ({"selector": {"devices": "a"}}, "devices"),
        ({"for_seconds": -1}, "for_seconds"),
        ({"no_data": {"after_seconds": 0}}, "after_seconds"),
        ({"message": "{device.__class__}"}, "knows no {device.__class__}"),
        ({"message": "{0}"}, "knows no {0}"),
        ({"message": "{device!r}"}, "must not convert"),
        ({"message": "{value:999999999}"}, "can't write"),
        ({"message": "{device:{value}}"}, "can't write"),
        ({"message": "{device"}, "is not a template"),
        ({"message": "a\nb"}, "control characters"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        definition(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "clear"),
    [
        ({"clear_percent": 10}, 72),
        ({"operator": "<", "clear_percent": 10}, 88),
        ({"warning": None, "critical": -20, "clear_percent": 10}, -22),
        ({"operator": "<", "warning": -20, "clear_percent": 10}, -18),
        ({"clear_level": 80}, 80),
        ({}, None),
    ],
)
def test_clear_level(changes: Mapping[str, Any], clear: float | None) -> None:
    assert definition(**changes).rule().clear == clear


def test_seconds_become_milliseconds() -> None:
    rule = definition(for_seconds=1.5, no_data={"after_seconds": 60, "then": "keep"}).rule(3, 7)
    assert (rule.for_ms, rule.silence_ms, rule.no_data, rule.version, rule.valid_from_ms) == (
        1_500,
        60_000,
        "keep",
        3,
        7,
    )


@pytest.mark.parametrize(
    ("selector", "applies"),
    [
        ({}, True),
        ({"device": "pump"}, True),
        ({"device": "pump2"}, False),
        ({"site": "plant"}, True),
        ({"site": "other"}, False),
        ({"location": "factory"}, True),
        ({"location": "factory.hall.line1"}, True),
        ({"location": "factory.hall.line"}, False),
        ({"location": "factory.hall.line1.zone"}, False),
        ({"sensor_type": "pt100"}, True),
        ({"sensor_type": "ntc"}, False),
        ({"labels": {"sensor": "oil"}}, True),
        ({"labels": {"sensor": "o?l"}}, True),
        ({"labels": {"sensor": "o*"}}, True),
        ({"labels": {"sensor": "o"}}, False),
        ({"labels": {"core": "*"}}, False),
    ],
)
def test_selector(selector: Mapping[str, Any], applies: bool) -> None:  # noqa: FBT001 - a column of the table
    assert bool(winners([Candidate(1, definition(selector=selector))], SENSOR)) is applies


# Each goes before all that stand after it
ORDER: list[Mapping[str, Any]] = [
    {"priority": 1},
    {"selector": {"device": "pump", "labels": {"sensor": "oil"}}},
    {"selector": {"device": "pump"}},
    {"selector": {"location": "factory.hall"}},
    {"selector": {"location": "factory"}},
    {"selector": {"site": "plant"}},
    {"selector": {"sensor_type": "pt100"}},
    {"selector": {"labels": {"sensor": "oil"}}},
    {},
    {},
    {"metric": "temperature_*"},
]


@given(st.permutations(list(range(len(ORDER)))), st.integers(1, len(ORDER)))
def test_the_most_specific_wins_in_whatever_order_they_are_looked_at(order: list[int], count: int) -> None:
    candidates = [Candidate(it, definition(name=f"t{it}", **ORDER[it])) for it in order[:count]]
    (winner,) = winners(candidates, SENSOR)
    assert winner.threshold_id == min(order[:count])
    verdicts = explain(candidates, SENSOR)
    assert [it.wins for it in verdicts] == [True] + [False] * (count - 1)
    assert all(f"t{winner.threshold_id} goes before it" in it.reason for it in verdicts[1:])


def test_thresholds_that_look_another_way_do_not_compete() -> None:
    above, below = definition(selector={"device": "pump"}), definition(name="cold", operator="<", warning=5)
    assert [it.threshold_id for it in winners([Candidate(2, below), Candidate(1, above)], SENSOR)] == [1, 2]


def test_explanations_say_why() -> None:
    candidates = [
        Candidate(1, definition()),
        Candidate(2, definition(name="own", selector={"device": "pump"})),
        Candidate(3, definition(name="off", enabled=False, priority=9)),
        Candidate(4, definition(name="elsewhere", selector={"location": "yard"})),
    ]
    assert [(it.name, it.wins, it.reason) for it in explain(candidates, SENSOR)] == [
        ("own", True, "no other one of its kind is more specific"),
        ("hot", False, "own goes before it: it is for the device"),
        ("off", False, "it is disabled"),
        ("elsewhere", False, "its location is yard, and the series is factory.hall.line1"),
    ]


def test_only_star_and_question_mark_mean_something_in_a_pattern() -> None:
    assert glob("a.[b]*?").fullmatch("a.[b]c")
    assert not glob("a.[b]*?").fullmatch("a.[b]")
    assert not glob("a.c").fullmatch("abc")
    assert glob("*" * 100 + "x").fullmatch("a" * 500 + "y") is None


def test_a_message_is_made_of_its_fields_and_what_they_hold_is_not_a_template() -> None:
    fields: dict[str, str | float] = {**dict.fromkeys(FIELDS, "{device}"), "value": 91.25, "unit": "celsius"}
    assert render("{{{device}}} {value:.1f} {value} {unit}", fields) == "{{device}} 91.2 91.25 celsius"
    assert problem_of(DEFAULT_TEMPLATE) is None
