from hypothesis import given
from hypothesis import strategies as st

from edge_agent.constant_labels import ConstantLabels
from edge_agent.reading import Reading
from telemetry_contract.series import MAX_KEY_CHARACTERS, SeriesKey

ROOM = ConstantLabels({"room": "a", "building": "n"})


def test_every_series_gets_them_in_the_order_of_names() -> None:
    reading = Reading(1, 2, {"cpu_usage_percent": 1.0, 'disk_used_bytes{mount="/"}': None}, 5.0)
    assert ROOM.reading(reading) == Reading(
        1,
        2,
        {'cpu_usage_percent{building="n",room="a"}': 1.0, 'disk_used_bytes{building="n",mount="/",room="a"}': None},
        5.0,
    )


def test_without_any_a_reading_stays_itself() -> None:
    reading = Reading(1, 2, {"a": 1.0})
    assert ConstantLabels({}).reading(reading) is reading


def test_a_label_of_the_series_own_stays() -> None:
    assert ROOM.key('t{room="b"}') == 't{building="n",room="b"}'


def test_a_series_that_would_become_another_one_stays_as_it_is() -> None:
    both = {"t": 1.0, 't{building="n",room="a"}': 2.0}
    assert ROOM.values(both) == both


def test_a_series_that_would_become_too_long_stays_as_it_is() -> None:
    long = f'm{{l="{"x" * (MAX_KEY_CHARACTERS - 10)}"}}'
    assert ROOM.key(long) == long


keys = st.builds(
    lambda metric, labels: str(SeriesKey.of(metric, labels)),
    st.sampled_from(["a", "b"]),
    st.dictionaries(st.sampled_from(["room", "building", "x"]), st.sampled_from(["a", "n", '"\\']), max_size=3),
)


@given(st.dictionaries(keys, st.floats(allow_nan=False), min_size=1, max_size=12))
def test_no_value_is_lost_or_given_twice(values: dict[str, float | None]) -> None:
    labelled = ROOM.values(values)
    assert sorted(map(str, labelled.values())) == sorted(map(str, values.values()))
    assert list(labelled) == sorted(labelled)
    assert all(SeriesKey.parse(key) for key in labelled)
