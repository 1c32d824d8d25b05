from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import field

from edge_agent.config_source import Source
from edge_agent.errors import ConfigError
from edge_agent.scalar import Unfit
from edge_agent.section import Bounds, From, Section, leaves, plain


def even(number: int) -> int:
    if number % 2:
        raise Unfit("must be even")
    return number


def first_word(text: Any) -> Any:
    return text.partition(" ")[0] if isinstance(text, str) else text


class Pump(Section, frozen=True, kw_only=True):
    name: Annotated[str, From(first_word)]
    stages: Annotated[int, Bounds(1, 8), even] = 2
    pressure: Annotated[float, Bounds(above=0)] | None = 1.5

    def contradictions(self) -> Iterator[str]:
        if self.stages > 4:
            yield "must be smaller"
            yield "must be cheaper"


class Plant(Section, frozen=True):
    null_is_a_value: ClassVar[bool] = True

    pumps: tuple[Pump, ...] = ()
    lead: Pump | None = Pump(name="lead")
    log: Path = Path("/var/log")
    mode: Literal["auto", 1] = "auto"
    on: bool = True
    limits: dict[str, Annotated[float, Bounds(at_most=9)]] = field(default_factory=dict)
    anything: Any = None


def refused(values: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Plant.of(values)
    return str(caught.value).splitlines()


def test_values_become_what_the_annotations_say() -> None:
    values = {"pumps": [{"name": "a b", "stages": "4", "pressure": 2}, {"name": "c"}], "log": "x", "limits": {"a": "1"}}
    plant = Plant.of(values)
    assert plant.pumps == (Pump(name="a", stages=4, pressure=2.0), Pump(name="c"))
    assert (plant.log, plant.limits) == (Path("x"), {"a": 1.0})
    assert isinstance(plant.pumps[0].pressure, float)


def test_null_means_the_default_where_it_is_no_value() -> None:
    assert Plant.of({"lead": None}).lead is None
    assert Plant.of({"pumps": [{"name": "a", "pressure": None}]}).pumps[0].pressure == 1.5
    assert refused({"pumps": [{"name": None}]}) == ["pumps[0].name is required"]
    assert refused({"on": None}) == ["on must be true or false, got None"]


def test_every_problem_is_told_in_the_order_of_the_keys() -> None:
    assert refused(
        {
            "whatever": 1,
            "limits": {"a": 10, "b": "x", "c": 3},
            "pumps": [{"name": "a", "stages": 3, "presure": 1}, 5, {"stages": 9}, {"name": "b", "stages": 6}],
            "mode": True,
        }
    ) == [
        "pumps[0].stages must be even, got 3",
        "pumps[0].presure is not a known key; did you mean pressure?",
        "pumps[1] must be a section: keys and values below it",
        "pumps[2].name is required",
        "pumps[2].stages must be at most 8, got 9",
        "pumps[3] must be smaller",
        "pumps[3] must be cheaper",
        "mode must be 'auto' or 1, got True",
        "limits.a must be at most 9, got 10",
        "limits.b must be a number, got 'x'",
        "whatever is not a known key",
    ]


@pytest.mark.parametrize("given", [None, [], "x", 5])
def test_what_is_no_section_is_not_repeated(given: Any) -> None:
    assert refused(given) == ["the configuration must be a section: keys and values below it"]


def test_a_problem_names_where_its_value_is_written() -> None:
    source = Source(origins={("pumps", 0): "a.yaml line 7", ("on",): "a.yaml line 2"})
    with pytest.raises(ConfigError) as caught:
        Plant.of({"pumps": [{"name": 5}], "on": "maybe", "log": ""}, source)
    assert str(caught.value).splitlines() == [
        "pumps[0].name must be text (in quotes where it looks like a number or a date), got 5 (a.yaml line 7)",
        "log must be the path of a file, got ''",
        "on must be true or false, got 'maybe' (a.yaml line 2)",
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(4, 4), ("4", 4), (4.0, 4), ("4.0", 4), (" 4 ", 4)],
)
def test_whole_numbers_may_be_written_otherwise(given: Any, expected: int) -> None:
    stages = Pump.of({"name": "x", "stages": given}).stages
    assert (stages, type(stages)) == (expected, int)


@pytest.mark.parametrize("given", [4.5, "4.5", "four", "", [], float("inf"), "nan", "9" * 5_000, {}])
def test_what_is_no_whole_number_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^stages must be a whole number, got "):
        Pump.of({"name": "x", "stages": given})


@pytest.mark.parametrize(("given", "what"), [(True, "a number"), ("inf", "a finite number"), (10**400, "a finite")])
def test_what_is_no_finite_number_is_refused(given: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=f"^pressure must be {what}"):
        Pump.of({"name": "x", "pressure": given})


@pytest.mark.parametrize(
    ("given", "expected"),
    [(True, True), (0, False), ("off", False), ("YES", True), ("1", True), ("f", False)],
)
def test_truth_has_many_words(given: Any, expected: bool) -> None:  # noqa: FBT001 - what is expected
    assert Plant.of({"on": given}).on is expected


@pytest.mark.parametrize("given", [2, "", "nope", 1.0, []])
def test_what_is_neither_true_nor_false_is_refused(given: Any) -> None:
    assert len(refused({"on": given})) == 1


PUMPS = st.builds(
    Pump,
    name=st.text("abc", min_size=1),
    stages=st.sampled_from([2, 4]),
    pressure=st.floats(0.1, 1e9),
)
PLANTS = st.builds(
    Plant,
    pumps=st.lists(PUMPS, max_size=3).map(tuple),
    lead=st.none() | PUMPS,
    log=st.sampled_from([Path("a"), Path("/b/c")]),
    mode=st.sampled_from(["auto", 1]),
    on=st.booleans(),
    limits=st.dictionaries(st.text(), st.floats(0, 9)),
    anything=st.none() | st.integers() | st.lists(st.text()),
)


@given(PLANTS)
def test_what_a_section_is_written_as_makes_it_again(plant: Plant) -> None:
    assert Plant.of(plain(plant)) == plant
    assert Plant.of(plain(plant, others=lambda value: value)) == plant


def test_leaves_are_the_keys_that_are_no_sections() -> None:
    assert [path for path, _ in leaves(Plant)] == [
        ("pumps",),
        *(("lead", name) for name in ("name", "stages", "pressure")),
        ("log",),
        ("mode",),
        ("on",),
        ("limits",),
        ("anything",),
    ]
