"""The exec collector, with real programs."""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from harness.wait import until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.collectors.base import Group, Member
from edge_agent.collectors.exec import MAX_OUTPUT_BYTES, Exec
from edge_agent.collectors.formats import json_object as parse
from edge_agent.config import Exec as ExecConfig
from edge_agent.errors import CollectorError
from edge_agent.scheduler import Scheduler
from edge_agent.statistics import Statistics
from telemetry_contract.series import SeriesKey


class Rejections:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, count: int) -> None:
        self.count += count


def running(
    *command: str,
    timeout_seconds: float = 20,
    rejected: Rejections | None = None,
    printed_format: Literal["json", "influx"] = "json",
) -> Exec:
    config = ExecConfig(name="boiler", command=command, format=printed_format, timeout_seconds=timeout_seconds)
    return Exec(config, rejected or Rejections())


def printing(text: str, **options: Any) -> Exec:
    return running("printf", "%s", text, **options)


def python(code: str, *arguments: str, **options: Any) -> Exec:
    return running(sys.executable, "-c", code, *arguments, **options)


def failure_of(collector: Exec) -> str:
    with pytest.raises(CollectorError) as caught:
        collector.collect()
    return str(caught.value)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def open_files() -> int:
    return psutil.Process().num_fds()


def test_what_the_program_prints_is_what_was_measured() -> None:
    rejected = Rejections()
    printed = '{"boiler_temperature_celsius": 61.5, "pump_up{line=\\"2\\",hall=\\"a\\"}": 1, "flow": null}\n'
    assert printing(printed, rejected=rejected).collect() == {
        "boiler_temperature_celsius": 61.5,
        'pump_up{hall="a",line="2"}': 1.0,
        "flow": None,
    }
    assert rejected.count == 0


def test_points_of_line_protocol() -> None:
    rejected = Rejections()
    printed = """# two rooms
weather,room=a temperature=21.5,value=3i 1763678400000000000
weather,room=b temperature=19,open=t,note="window"
rubbish
weather,room=b temperature=5
"""
    assert printing(printed, rejected=rejected, printed_format="influx").collect() == {
        'weather_temperature{room="a"}': 21.5,
        'weather{room="a"}': 3.0,
        'weather_temperature{room="b"}': 19.0,
        'weather_open{room="b"}': 1.0,
    }
    assert rejected.count == 3


@pytest.mark.parametrize(
    ("printed", "problem"),
    [
        ("", "printed nothing; expected points in InfluxDB line protocol"),
        ("rubbish\n", "printed nothing that can be used: line 1 column 8: expected a space and fields, got ''"),
        ("\\377", "printed what is not UTF-8 text: it begins with"),
    ],
)
def test_output_without_any_point_is_a_failure(printed: str, problem: str) -> None:
    assert problem in failure_of(running("printf", printed, printed_format="influx"))
    assert printing("# nothing to report\n", printed_format="influx").collect() == {}


def test_an_empty_object_is_nothing_to_report() -> None:
    assert printing("{}").collect() == {}


def test_no_shell_touches_the_arguments() -> None:
    assert failure_of(printing('$HOME; {"x": 1} && `id`')).endswith("it begins with '$HOME; {\"x\": 1} && `id`'")


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ('"1bad": 1', "metric name '1bad'"),
        ('"bad{": 1', "closing brace"),
        ('"": 1', "metric name ''"),
        ('"a b": 1', "metric name 'a b'"),
        ('"s": "5"', 's must be a number or null, got "5"'),
        ('"b": true', "b must be a number or null, got true"),
        ('"l": [1]', "l must be a number or null, got [1]"),
        ('"o": {"x": 1}', "o must be a number or null"),
        ('"good": 2', "good is given twice"),
        ('"x{l=\\"\\ud800\\"}": 1', "surrogate"),
    ],
)
def test_an_unusable_entry_is_left_out_and_counted_and_the_others_stay(entry: str, complaint: str) -> None:
    rejected = Rejections()
    assert printing(f'{{"good": 1, {entry}}}', rejected=rejected).collect() == {"good": 1.0}
    assert rejected.count == 1
    _, unusable = parse(f'{{"good": 1, {entry}}}'.encode())
    assert complaint in unusable[0]


def test_the_same_series_written_in_two_ways_counts_once() -> None:
    found, unusable = parse(b'{"x{a=\\"1\\",b=\\"2\\"}": 1, "x{b=\\"2\\",a=\\"1\\"}": 2}')
    assert found == {'x{a="1",b="2"}': 1.0}
    assert len(unusable) == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_a_number_that_no_double_holds_is_no_value(number: str) -> None:
    assert parse(f'{{"x": {number}}}'.encode()) == ({"x": None}, [])


def test_an_output_of_unusable_entries_alone_is_a_failure_that_names_one() -> None:
    assert failure_of(printing('{"a b": 1, "c": "d"}')) == (
        "printed nothing that can be used: metric name 'a b' does not match [a-zA-Z_:][a-zA-Z0-9_:]*"
    )


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (b"", "printed nothing"),
        (b" \n", "printed nothing"),
        (b"61.5", "not an object"),
        (b"[1]", "not an object"),
        (b"null", "not an object"),
        (b'{"x": 1} {"x": 2}', "not JSON"),
        (b'{"x": 1', "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b'{"x": ' + b"1" * 6_000 + b"}", "not JSON"),
    ],
    ids=lambda it: str(it[:20]),
)
def test_an_output_that_is_not_a_json_object_is_refused_as_a_whole(output: bytes, complaint: str) -> None:
    with pytest.raises(CollectorError, match=complaint):
        parse(output)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200) | st.from_regex(r'\{"[a-z"{}=\\,0-9]{0,20}": ?[-0-9e.a-z"]{1,9}\}').map(str.encode))
def test_parse_raises_nothing_but_its_own_error_and_gives_canonical_keys(output: bytes) -> None:
    try:
        found, _ = parse(output)
    except CollectorError:
        return
    assert all(str(SeriesKey.parse(key)) == key for key in found)


def test_a_program_that_is_not_there() -> None:
    message = failure_of(running("/nonexistent/read-boiler"))
    assert message == "/nonexistent/read-boiler can't be started: No such file or directory"


def test_a_program_that_may_not_be_run(tmp_path: Path) -> None:
    file = tmp_path / "read-boiler"
    file.write_text("#!/bin/sh\n")
    assert failure_of(running(str(file))) == f"{file} can't be started: Permission denied"


def test_a_failing_program_tells_the_first_line_of_its_standard_error() -> None:
    collector = running("sh", "-c", 'printf "no bus \\033[1m\\nsecond line\\n" >&2; echo "{}"; exit 3')
    assert failure_of(collector) == "sh ended with code 3: no bus ?[1m"


def test_a_program_ended_by_a_signal() -> None:
    assert failure_of(running("sh", "-c", "kill -SEGV $$")) == "sh was killed by SIGSEGV"


def test_standard_error_of_a_program_that_ends_well_is_no_failure_however_long() -> None:
    code = "import sys; sys.stderr.write('warning ' * 100_000); print('{\"x\": 1}')"
    assert python(code).collect() == {"x": 1.0}


def test_output_up_to_the_cap_is_taken_and_beyond_it_refused() -> None:
    fitting = '{"x":1}'.ljust(MAX_OUTPUT_BYTES)
    assert python("import sys; sys.stdout.write('{\"x\":1}'.ljust(int(sys.argv[1])))", str(len(fitting))).collect()
    message = failure_of(running("yes"))
    assert message == f"yes printed more than {MAX_OUTPUT_BYTES} bytes"


def test_what_the_program_reads_is_empty() -> None:
    assert python("import sys; print('{\"read\": %d}' % len(sys.stdin.read()))").collect() == {"read": 0.0}


STARTS_A_GRANDCHILD = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
with open(sys.argv[1] + ".new", "w") as file: file.write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


def pids_in(file: Path) -> list[int]:
    return [int(pid) for pid in file.read_text().split()]


@pytest.mark.parametrize("then", ["time.sleep(600)", "os.close(1); os.close(2); time.sleep(600)"])
def test_at_the_timeout_the_program_and_what_it_started_are_killed(tmp_path: Path, then: str) -> None:
    file = tmp_path / "pids"
    started = time.monotonic()
    message = failure_of(python(STARTS_A_GRANDCHILD + then, str(file), timeout_seconds=2))
    assert time.monotonic() - started < 10
    assert message == f"{sys.executable} took longer than 2 s and was killed"
    until(lambda: not any(alive(pid) for pid in pids_in(file)), 10, "the end of the whole group")


def test_a_program_that_has_ended_but_left_a_child_with_its_output_times_out_and_the_child_is_killed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "pids"
    assert "took longer than 2 s" in failure_of(python(STARTS_A_GRANDCHILD, str(file), timeout_seconds=2))
    until(lambda: not any(alive(pid) for pid in pids_in(file)), 10, "the end of the whole group")


def test_a_program_that_ignores_signals_is_killed_all_the_same() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    assert "took longer" in failure_of(python(code, timeout_seconds=1))


def test_close_kills_a_running_program_at_once_and_starts_none_after(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    collector = python(STARTS_A_GRANDCHILD + "time.sleep(600)", str(file), timeout_seconds=600)
    failures: list[str] = []
    thread = threading.Thread(target=lambda: failures.append(failure_of(collector)))
    thread.start()
    until(file.exists, 20, "the program to run")
    collector.close()
    thread.join(10)
    assert failures == [f"{sys.executable} was killed by SIGKILL"]
    until(lambda: not any(alive(pid) for pid in pids_in(file)), 10, "the end of the whole group")
    assert failure_of(collector) == "the agent is stopping"


def test_nothing_is_left_behind_by_many_runs() -> None:
    collectors = [printing('{"x": 1}'), running("false"), running("sleep", "9", timeout_seconds=0.05)]

    def run_all() -> None:
        for collector in collectors:
            try:
                collector.collect()
            except CollectorError:
                continue

    run_all()
    before = open_files(), psutil.Process().children()
    for _ in range(10):
        run_all()
    assert (open_files(), psutil.Process().children()) == before


def test_stopping_the_scheduler_ends_the_program_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    collector = python(STARTS_A_GRANDCHILD + "time.sleep(600)", str(file), timeout_seconds=600)
    group = Group(60, 601, (Member("exec.boiler", collector),))
    scheduler = Scheduler([group], lambda _: None, Statistics())
    scheduler.start()
    until(file.exists, 20, "the program to run")
    assert scheduler.stop(10)
    until(lambda: not any(alive(pid) for pid in pids_in(file)), 10, "the end of the whole group")


def test_the_program_has_a_process_group_of_its_own() -> None:
    found = python('import os; print(\'{"group": %d, "session": %d}\' % (os.getpgid(0), os.getsid(0)))').collect()
    assert found["group"] == found["session"] != os.getpgid(0)
