"""Series keys: what is written is read back, in one canonical form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.series import LABEL_PATTERN, MAX_KEY_CHARACTERS, METRIC_PATTERN, SeriesKey

metrics = st.from_regex(METRIC_PATTERN, fullmatch=True).filter(lambda name: len(name) < 50)
label_names = st.from_regex(LABEL_PATTERN, fullmatch=True).filter(lambda name: len(name) < 20)
label_values = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from(["\n", "\\", '"', ",", "{", "}", "="]), max_size=20
)


@given(metrics, st.dictionaries(label_names, label_values, max_size=4))
def test_key_is_read_back_as_it_was_written(metric: str, labels: dict[str, str]) -> None:
    key = SeriesKey.of(metric, labels)
    assert SeriesKey.parse(str(key)) == key
    assert dict(key.labels) == labels
    assert "\n" not in str(key)


def test_labels_in_any_order_are_one_series() -> None:
    assert str(SeriesKey.parse('m{b="2",a="1"}')) == 'm{a="1",b="2"}'
    assert SeriesKey.parse('m{b="2",a="1"}') == SeriesKey.of("m", {"a": "1", "b": "2"})


def test_empty_braces_and_trailing_comma_mean_what_prometheus_means() -> None:
    assert SeriesKey.parse("m{}") == SeriesKey("m")
    assert SeriesKey.parse('m{a="1",}') == SeriesKey.of("m", {"a": "1"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "metric name ''"),
        ("cpu usage", "metric name 'cpu usage'"),
        ("1m", "metric name '1m'"),
        ("m{", "closing brace"),
        ('m{a="1"', "closing brace"),
        ('m{a="1"}x', "closing brace"),
        ("m{a=1}", "expected NAME"),
        ('m{a="1""}', "expected NAME"),
        ('m{a="1" b="2"}', "expected NAME"),
        (r'm{a="\x"}', "expected NAME"),
        ('m{a="1",a="2"}', "twice"),
        ('m{a-b="1"}', "expected NAME"),
        ('m{a="\x00"}', "control character"),
        ("m" * (MAX_KEY_CHARACTERS + 1), "longer than"),
    ],
)
def test_bad_key_is_refused_and_named(text: str, problem: str) -> None:
    with pytest.raises(InvalidSeriesKey, match=problem):
        SeriesKey.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        key = SeriesKey.parse(text)
    except InvalidSeriesKey:
        return
    assert SeriesKey.parse(str(key)) == key


def test_label_value_is_limited_with_the_key() -> None:
    with pytest.raises(InvalidSeriesKey, match="longer than"):
        SeriesKey.of("m", {"a": "x" * MAX_KEY_CHARACTERS})
