"""The textfile collector, with real files."""

import logging
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collectors import textfile as module
from edge_agent.collectors.textfile import MAX_FILE_BYTES, Textfile
from edge_agent.config import Textfile as TextfileConfig
from edge_agent.errors import CollectorError
from edge_agent.prometheus_text import parse
from telemetry_contract.series import SeriesKey

T0 = 1_763_678_400.0

Values = dict[str, float | None]


class Folder:
    """A folder of files, a clock that the test sets, and a collector that reads them."""

    def __init__(self, path: Path, *, patterns: tuple[str, ...] = ("*.prom",), max_age_seconds: float = 600) -> None:
        self.path = path
        self.now = T0
        self.monotonic = 50.0
        self.rejected = 0
        config = TextfileConfig(
            files=tuple(str(path / pattern) for pattern in patterns), max_age_seconds=max_age_seconds
        )
        self.collector = Textfile(config, self._reject, now=lambda: self.now, monotonic=lambda: self.monotonic)

    def write(self, name: str, text: str | bytes, *, written: float | None = None) -> Path:
        """As writers should: under another name, then renamed."""
        file, new = self.path / name, self.path / "new"
        new.write_bytes(text.encode() if isinstance(text, str) else text)
        os.utime(new, (self.now, self.now if written is None else written))
        return new.rename(file)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.monotonic += seconds

    def values(self) -> Values:
        """What the files hold."""
        found = self.collector.collect()
        return {key: value for key, value in found.items() if not key.startswith("textfile_")}

    def about(self, name: str) -> tuple[float | None, float | None]:
        """Age and use of a file."""
        found = self.collector.collect()
        keys = [
            str(SeriesKey.of(metric, {"file": str(self.path / name)}))
            for metric in ("textfile_age_seconds", "textfile_used")
        ]
        return found[keys[0]], found[keys[1]]

    def _reject(self, count: int) -> None:
        self.rejected += count


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_series_of_all_files_make_one_tick(folder: Folder) -> None:
    folder.write("a.prom", '# HELP a Something.\n# TYPE a gauge\na{x="1"} 1.5 1234567890\n')
    folder.write("b.prom", "b_total 7\r\nc +Inf\nd NaN")
    folder.write("b.prom.tmp", "unfinished 1\n")
    assert folder.values() == {'a{x="1"}': 1.5, "b_total": 7.0, "c": None, "d": None}
    assert folder.about("a.prom") == (0.0, 1.0)
    assert folder.rejected == 0


def test_histograms_and_summaries_are_a_series_for_each_of_their_parts(folder: Folder) -> None:
    folder.write(
        "job.prom",
        """# TYPE job_seconds histogram
job_seconds_bucket{le="1"} 2
job_seconds_bucket{le="+Inf"} 3
job_seconds_sum 4.5
job_seconds_count 3
# TYPE wait_seconds summary
wait_seconds{quantile="0.5"} 0.25
wait_seconds_sum 9
wait_seconds_count 12
""",
    )
    assert folder.values() == {
        'job_seconds_bucket{le="1"}': 2.0,
        'job_seconds_bucket{le="+Inf"}': 3.0,
        "job_seconds_sum": 4.5,
        "job_seconds_count": 3.0,
        'wait_seconds{quantile="0.5"}': 0.25,
        "wait_seconds_sum": 9.0,
        "wait_seconds_count": 12.0,
    }


def test_no_file_is_nothing_to_report(folder: Folder, tmp_path: Path) -> None:
    assert folder.collector.collect() == {}
    assert Folder(tmp_path / "absent").collector.collect() == {}


def test_file_that_is_not_written_any_more_is_left_out_until_it_is(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write("a.prom", "a 1\n")
    folder.write("b.prom", "b 1\n")
    folder.wait(600)
    assert folder.values() == {"a": 1.0, "b": 1.0}
    folder.write("b.prom", "b 2\n")
    folder.wait(1)
    with caplog.at_level(logging.INFO):
        assert folder.values() == {"b": 2.0}
        assert folder.about("a.prom") == (601.0, 0.0)
        folder.write("a.prom", "a 3\n")
        assert folder.values() == {"a": 3.0, "b": 2.0}
        folder.collector.collect()
    a = folder.path / "a.prom"
    assert [record.getMessage() for record in caplog.records] == [
        f"collector textfile: {a}: it is left out: not written for longer than 600 s",
        f"collector textfile: {a}: it is used again, all of it",
    ]


def test_file_from_the_future_is_as_old_as_it_is_known(folder: Folder) -> None:
    """So a machine that starts in 1970 neither shows the values of before for ever nor hides those of now."""
    folder.write("a.prom", "a 1\n", written=T0 + 10_000_000)
    assert folder.values() == {"a": 1.0}
    folder.wait(599)
    assert folder.about("a.prom") == (599.0, 1.0)
    folder.wait(2)
    assert folder.values() == {}
    folder.write("a.prom", "a 2\n", written=T0 + 10_000_001)
    assert folder.values() == {"a": 2.0}


def test_file_is_read_again_only_when_it_was_written(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("a.prom", "a 1\n")
    assert folder.values() == {"a": 1.0}
    with monkeypatch.context() as patched:
        patched.setattr(module, "parse", None)
        assert folder.values() == {"a": 1.0}
    folder.write("a.prom", "a 2\n")
    assert folder.values() == {"a": 2.0}
    (folder.path / "a.prom").unlink()
    assert folder.collector.collect() == {}
    assert folder.collector._versions == {}  # noqa: SLF001 - what a long life with many files would fill


def test_a_series_of_two_files_is_that_of_the_first_and_the_other_is_counted(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write("a.prom", "a 1\nshared 1\n")
    folder.write("b.prom", "shared 2\nb 2\n")
    assert folder.values() == {"a": 1.0, "shared": 1.0, "b": 2.0}
    assert folder.rejected == 1
    assert folder.values() == {"a": 1.0, "shared": 1.0, "b": 2.0}
    assert folder.rejected == 2
    (record,) = caplog.records
    assert record.getMessage().endswith("b.prom: 1 entries of it are left out: shared is given by another file")
    folder.wait(601)
    folder.write("b.prom", "shared 2\n")
    assert folder.values() == {"shared": 2.0}


def test_file_that_two_patterns_name_is_read_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path, patterns=("*.prom", "a*"))
    folder.write("a.prom", "a 1\n")
    assert folder.values() == {"a": 1.0}
    assert folder.rejected == 0


def test_entries_that_can_not_be_series_cost_only_themselves(folder: Folder) -> None:
    folder.write("a.prom", 'a 1\n{"my.metric"} 2\nb{x="\x01"} 3\na 4\nc 5\n')
    assert folder.values() == {"a": 1.0, "c": 5.0}
    assert folder.rejected == 3
    assert folder.about("a.prom") == (0.0, 1.0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a 1\nrubbish\nb 1\n", "not in the Prometheus text format: could not convert string to float: 'rubbish'"),
        (b'{"q",\t="c"} 2\n', "not in the Prometheus text format: string index out of range"),
        (b"a 1\nb \xff\n", "not UTF-8 text: byte 6 is invalid start byte"),
        (b"a 1\n" * (MAX_FILE_BYTES // 4 + 1), f"larger than {MAX_FILE_BYTES} bytes"),
    ],
)
def test_file_that_can_not_be_used_costs_no_other_file(
    folder: Folder, content: bytes, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write("bad.prom", content)
    folder.write("good.prom", "a 2\n")
    assert folder.values() == {"a": 2.0}
    assert folder.about("bad.prom") == (0.0, 0.0)
    assert [record.getMessage() for record in caplog.records] == [
        f"collector textfile: {folder.path / 'bad.prom'}: it is left out: {problem}"
    ]
    folder.write("bad.prom", "b 1\n")
    assert folder.values() == {"a": 2.0, "b": 1.0}


def test_what_is_no_file_is_left_out_and_never_waited_for(folder: Folder) -> None:
    (folder.path / "folder.prom").mkdir()
    os.mkfifo(folder.path / "pipe.prom")
    (folder.path / "dangling.prom").symlink_to("nowhere")
    folder.now = (folder.path / "folder.prom").stat().st_mtime + 1
    folder.write("good.prom", "a 1\n")
    assert folder.values() == {"a": 1.0}
    assert folder.about("pipe.prom")[1] == 0.0
    assert folder.about("folder.prom")[1] == 0.0


def test_file_that_could_not_be_read_is_tried_again_once_its_rights_change(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder.write("a.prom", "a 1\n")

    def refused(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:  # root may read anything
        patched.setattr(Path, "read_text", refused)
        assert folder.values() == {}
    assert folder.about("a.prom") == (0.0, 0.0)
    file.chmod(0o604)
    assert folder.values() == {"a": 1.0}


@given(st.text(max_size=80) | st.text('a{}="\\\n #TYPEHL1.e+-Nn,_ ', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found, _ = parse(text)
    except CollectorError:
        return
    for key, value in found.items():
        assert str(SeriesKey.parse(key)) == key
        assert value is None or math.isfinite(value)
