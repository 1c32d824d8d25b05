"""InfluxDB line protocol: what is written is read back, and what is not of the protocol costs nothing else."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry_contract.errors import InvalidLine
from telemetry_contract.line_protocol import FieldValue, Point, Precision, points, samples

# Whatever a key or a tag may hold. A backslash at its end would escape what follows, and a tab at the beginning counts
# as space, which the protocol can't help.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1, max_size=8).filter(
    lambda text: not text.endswith("\\") and not text.startswith("\t")
)
measurements = names.filter(lambda text: text[0] not in "#\r")
values = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.text(max_size=12),
)
times = st.none() | st.integers(-(2**63), 2**63 - 1)
a_point = st.builds(
    Point,
    measurements,
    st.dictionaries(names, names, max_size=3),
    st.dictionaries(names, values, min_size=1, max_size=3),
    times,
)


def written(point: Point) -> str:
    """A point as the reference says to write it."""

    def escaped(text: str, special: str) -> str:
        return "".join(f"\\{it}" if it in special else it for it in text)

    def value(it: FieldValue) -> str:
        if isinstance(it, bool):
            return str(it).lower()
        if isinstance(it, int):
            return f"{it}i"
        return '"' + escaped(it, '"\\') + '"' if isinstance(it, str) else repr(it)

    key = ",".join(
        [escaped(point.measurement, ", ")]
        + [f"{escaped(name, ', =')}={escaped(text, ', =')}" for name, text in point.tags.items()]
    )
    fields = ",".join(f"{escaped(name, ', =')}={value(it)}" for name, it in point.fields.items())
    return f"{key} {fields}" + ("" if point.time_ns is None else f" {point.time_ns}")


def read_one(line: str) -> Point:
    (found,) = points(line)
    assert isinstance(found, Point), found
    return found


@given(st.lists(a_point, max_size=4), st.sampled_from(["\n", "\r\n", "\n\n", "\n# comment\n", "  \n \t\n"]))
def test_points_are_read_back_as_they_were_written(written_points: list[Point], between: str) -> None:
    text = between.join(written(point) for point in written_points)
    assert list(points(text)) == written_points
    assert list(points(text + between)) == written_points


@given(st.text(max_size=60) | st.text('mtf=, "\\\n\r1.e-iu#', max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for found in points(text):
        if isinstance(found, Point):
            assert read_one(written(found)) == found
            for value in samples(found).values.values():
                assert math.isfinite(value)


@given(a_point, st.text(max_size=20).filter(lambda text: "\n" not in text))
def test_bad_line_costs_no_other_line(point: Point, rubbish: str) -> None:
    line = written(point)
    text = f'{line}\nbad f="{rubbish}\n{line}\n{line}\n'
    if '"' not in line and "\n" not in line:  # else the text of one line may end in the next
        assert [found for found in points(text) if found == point] == [point] * 3


def test_line_of_the_reference_is_read() -> None:
    line = 'myMeasurement,tag1=value1,tag2=value2 fieldKey="fieldValue",n=-1.5e3 1556813561098000000'
    assert read_one(line) == Point(
        "myMeasurement",
        {"tag1": "value1", "tag2": "value2"},
        {"fieldKey": "fieldValue", "n": -1500.0},
        1556813561098000000,
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (r"a\ b\,c,t\=\ \,=v\=\ \, f\=\ \,=1i", Point("a b,c", {"t= ,": "v= ,"}, {"f= ,": 1})),
        (r"m=x,t=C:\path\\ok f=1", Point("m=x", {"t": r"C:\path\\ok"}, {"f": 1.0})),
        (r'm f="a \"b\" \\ \n , = c"', Point("m", {}, {"f": r'a "b" \ \n , = c'})),
        ('m f="two\nlines",g=2', Point("m", {}, {"f": "two\nlines", "g": 2.0})),
        ('"m",t="x" "f"=1', Point('"m"', {"t": '"x"'}, {'"f"': 1.0})),
        ("  m  f=1   5  ", Point("m", {}, {"f": 1.0}, 5)),
        ("m f=1 -5\r", Point("m", {}, {"f": 1.0}, -5)),
        ("m f=.5,g=5.,h=-0,i=1E+2,j=007i", Point("m", {}, {"f": 0.5, "g": 5.0, "h": 0.0, "i": 100.0, "j": 7})),
        ("m f=18446744073709551615u,g=-9223372036854775808i", Point("m", {}, {"f": 2**64 - 1, "g": -(2**63)})),
        ("m t=t,u=T,v=true,w=True,x=TRUE", Point("m", {}, dict.fromkeys("tuvwx", True))),
        ("m t=f,u=F,v=false,w=False,x=FALSE", Point("m", {}, dict.fromkeys("tuvwx", False))),
        ("température,öl=größe °C=21.5", Point("température", {"öl": "größe"}, {"°C": 21.5})),
    ],
)
def test_escapes_and_types(line: str, expected: Point) -> None:
    assert read_one(line) == expected
    assert {type(value) for value in read_one(line).fields.values()} == {type(it) for it in expected.fields.values()}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (",t=1 f=1", "column 1: expected a measurement, got ',t=1 f=1'"),
        ("m", "column 2: expected a space and fields, got ''"),
        ("m ", "column 3: expected a space and fields"),
        ("m,t f=1", "column 4: expected =, got ' f=1'"),
        ("m,t= f=1", "column 5: expected the value of a tag"),
        ("m,=v f=1", "column 3: expected a tag"),
        ("m,t=a=b f=1", "column 6: expected a space and fields, got '=b f=1'"),
        ("m,t=1,t=2 f=1", "column 9: expected another tag: 't' is given twice"),
        ("m f=1,f=2", "expected another field: 'f' is given twice"),
        ("m f=1,", "column 7: expected a field"),
        ("m f", "column 4: expected =, got ''"),
        ("m f=", "expected a number like"),
        ("m f=NaN", "expected a number like"),
        ("m f=+Inf", "expected a number like"),
        ("m f=1x", "column 5: expected a number like 1.5, 2i or 3u, true, false or \"text\", got '1x'"),
        ("m f=+1", "expected a number like"),
        ("m f=0x10", "expected a number like"),
        ("m f=1_000", "expected a number like"),
        ("m f=٣", "expected a number like"),
        ("m f=1.5i", "expected a number like"),
        ("m f=-1u", "expected a number like"),
        ("m f=tRUE", "expected a number like"),
        ('m f="open', "expected a number like"),
        ("m f=1e999", "column 5: expected a number within the range of its type, got '1e999'"),
        ("m f=9223372036854775808i", "within the range of its type"),
        ("m f=18446744073709551616u", "within the range of its type"),
        (f"m f={'9' * 5000}i", "within the range of its type"),
        ("m f=1 soon", "column 7: expected a timestamp or the end of the line, got 'soon'"),
        ("m f=1 1.5", "expected a timestamp or the end"),
        ("m f=1 1 2", "column 8: expected the end of the line, got ' 2'"),
        ("m f=1 9223372036854775808", "expected a timestamp between the years 1677 and 2262"),
        (f"m f=1 {'9' * 5000}", "expected a timestamp or the end"),
    ],
)
def test_what_is_not_of_the_protocol_is_refused_with_its_place(line: str, problem: str) -> None:
    (found,) = points(line)
    assert isinstance(found, InvalidLine)
    assert problem in str(found)
    assert str(found).startswith("line 1 column ")


def test_bad_lines_are_numbered_as_a_person_counts() -> None:
    bad = [str(it) for it in points('# one\n\nm f="a\nb"\nbad\nm f=1\nbad') if isinstance(it, InvalidLine)]
    assert [it.partition(" column")[0] for it in bad] == ["line 5", "line 7"]


@pytest.mark.parametrize(
    ("precision", "expected"), [("ns", 1_763_678_400), ("us", 1_763_678_400_000), ("s", 1_763_678_400_000_000_000)]
)
def test_timestamps_are_of_the_precision_agreed_on(precision: str, expected: int) -> None:
    (found,) = points("m f=1 1763678400", Precision[precision])
    assert isinstance(found, Point)
    assert found.time_ns == expected


def test_timestamp_beyond_what_nanoseconds_can_say_is_refused() -> None:
    (found,) = points("m f=1 1763678400000", Precision.s)
    assert isinstance(found, InvalidLine)
    assert "in the unit agreed on" in str(found)


def test_point_becomes_one_series_a_number() -> None:
    found = samples(read_one('weather,station=north\\ 1 temperature=21.5,value=3i,raining=t,note="dry"'))
    assert {str(key): value for key, value in found.values.items()} == {
        'weather_temperature{station="north 1"}': 21.5,
        'weather{station="north 1"}': 3.0,
        'weather_raining{station="north 1"}': 1.0,
    }
    assert found.unusable == ["weather_note is text, not a number"]


def test_names_become_what_a_series_may_be_called() -> None:
    found = samples(read_one("3d-printer,nozzle.id=1 °C=200,bed\\ temp=60"))
    assert {str(key): value for key, value in found.values.items()} == {
        '_3d_printer__C{nozzle_id="1"}': 200.0,
        '_3d_printer_bed_temp{nozzle_id="1"}': 60.0,
    }


@pytest.mark.parametrize(
    ("line", "values", "problem"),
    [
        ("m,a.b=1,a-b=2 f=1", 0, "m has tags whose names become one label"),
        ("m a.b=1,a-b=2", 1, "m_a_b is given twice"),
        ("m,t=a\tb f=1", 0, "control character"),
        (f"m,t={'x' * 2000} f=1", 0, "longer than"),
    ],
)
def test_what_can_not_be_a_series_is_named(line: str, values: int, problem: str) -> None:
    found = samples(read_one(line))
    assert len(found.values) == values
    (unusable,) = found.unusable
    assert problem in unusable
