"""The execd collector, with real programs."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from harness.processes import is_gone
from harness.wait import until

from edge_agent.collectors import execd as module
from edge_agent.collectors import line_program
from edge_agent.collectors.execd import Execd
from edge_agent.collectors.inbox import FORGOTTEN_AFTER_TICKS, Inbox
from edge_agent.collectors.line_program import MAX_BYTES_PER_SECOND, MAX_LINE_BYTES, Timing
from edge_agent.config import Execd as ExecdConfig
from edge_agent.errors import CollectorError

IDLE = "exec sleep 1000"
QUICK = Timing(first_pause_seconds=0.02, max_pause_seconds=0.1, grace_seconds=2)

Values = dict[str, float | None]


class Running:
    """An execd collector, what it was told to count, and what it gave."""

    def __init__(self, *command: str, line_format: str = "json", timing: Timing = QUICK) -> None:
        self.rejected = 0
        self.superseded = 0
        config = ExecdConfig.of({"name": "meter", "command": command, "format": line_format})
        self.collector = Execd(config, self._reject, self._supersede, timing=timing)

    def collect(self) -> Values:
        return self.collector.collect()

    def next(self, timeout: float = 10) -> Values:
        """The next values that there are, whatever happens before."""

        def look() -> Values:
            try:
                return self.collector.collect()
            except CollectorError:
                return {}

        return until(look, timeout, "values")

    def trouble(self, timeout: float = 10) -> str:
        """The next reason why there is nothing."""

        def look() -> str:
            try:
                self.collector.collect()
            except CollectorError as exc:
                return str(exc)
            return ""

        return until(look, timeout, "a failure")

    def _reject(self, count: int) -> None:
        self.rejected += count

    def _supersede(self, count: int) -> None:
        self.superseded += count


@contextmanager
def running(*command: str, line_format: str = "json", timing: Timing = QUICK) -> Iterator[Running]:
    it = Running(*command, line_format=line_format, timing=timing)
    try:
        yield it
    finally:
        it.collector.close()


def shell(script: str, line_format: str = "json", timing: Timing = QUICK) -> AbstractContextManager[Running]:
    return running("sh", "-c", script, line_format=line_format, timing=timing)


@contextmanager
def dictated(line_format: str = "json", timing: Timing = QUICK) -> Iterator[tuple[Running, Callable[[bytes], None]]]:
    """A program that prints what it is told, piece by piece."""
    with TemporaryDirectory() as directory:
        pipe = Path(directory) / "pipe"
        os.mkfifo(pipe)
        end = os.open(pipe, os.O_RDWR)  # both ways, as opening one waits for the other
        try:
            with running("cat", str(pipe), line_format=line_format, timing=timing) as meter:
                yield meter, lambda piece: _write_all(end, piece)
        finally:
            os.close(end)


def _write_all(end: int, piece: bytes) -> None:
    while piece:
        piece = piece[os.write(end, piece) :]


def test_each_line_is_what_was_measured_and_the_first_is_waited_for() -> None:
    printed = """{"flow": 1.5, "pump_up{line=\\"2\\",hall=\\"a\\"}": 1, "level": null}"""
    with shell(f"sleep 0.2; printf '%s\\n\\n' '{printed}'; {IDLE}") as meter:
        assert meter.collect() == {"flow": 1.5, 'pump_up{hall="a",line="2"}': 1.0, "level": None}
        assert meter.collect() == {}
        assert (meter.rejected, meter.superseded) == (0, 0)


def test_line_protocol() -> None:
    line = "weather,station=north temperature=21.5,raining=t 1763678400000000000"
    with shell(f"printf '# a comment\\n\\n%s\\r\\n' '{line}'; {IDLE}", "influx") as meter:
        assert meter.collect() == {
            'weather_temperature{station="north"}': 21.5,
            'weather_raining{station="north"}': 1.0,
        }
        assert meter.rejected == 0


def test_newest_value_of_each_series_wins_and_the_others_are_counted() -> None:
    with dictated() as (meter, write):
        write(b'{"a": 0}\n')
        assert meter.collect() == {"a": 0.0}
        write(b'{"a": 1, "b": 1}\n{"a": 2}\n{"a": 3}\n')
        until(lambda: meter.superseded == 2, 10, "three lines")
        assert meter.collect() == {"a": 3.0, "b": 1.0}
        assert meter.rejected == 0


def test_series_that_are_printed_at_different_times_make_one_set_of_keys() -> None:
    with dictated() as (meter, write):
        write(b'{"a": 1, "b": 1}\n')
        assert meter.collect() == {"a": 1.0, "b": 1.0}
        for tick in range(FORGOTTEN_AFTER_TICKS):
            write(f'{{"a": {tick}}}\n'.encode())
            assert meter.next() == {"a": float(tick), "b": None}
        write(b'{"a": 5}\n')
        assert meter.next() == {"a": 5.0}
        write(b'{"b": 5}\n')
        assert meter.next() == {"a": None, "b": 5.0}


def test_line_may_come_in_pieces() -> None:
    with dictated() as (meter, write):
        for piece in (b'{"a"', b": 1", b'}\n{"a": 2, "b":'):
            write(piece)
        assert meter.collect() == {"a": 1.0}
        assert meter.collect() == {}
        write(b" 3}\n")
        assert meter.next() == {"a": 2.0, "b": 3.0}
        assert meter.rejected == 0


@pytest.mark.parametrize(
    ("line_format", "bad", "good", "rejected"),
    [
        ("json", b"rubbish\n", b'{"a": 1}\n', 1),
        ("json", b'{"a b": 1, "c": true, "a": 1}\n', b"", 2),
        ("json", b"[1]\n\xff\n", b'{"a": 1}\n', 2),
        ("json", b'{"a": "' + b"x" * MAX_LINE_BYTES + b'"}\n', b'{"a": 1}\n', 1),
        ("influx", b"rubbish\n", b"a value=1\n", 1),
        ("influx", b'a value=1,note="dry"\n', b"", 1),
        ("influx", b"a,t=\xff value=2\n", b"a value=1\n", 1),
    ],
)
def test_what_can_not_be_used_is_left_out_and_counted(line_format: str, bad: bytes, good: bytes, rejected: int) -> None:
    with dictated(line_format) as (meter, write):
        write(b'{"first": 1}\n' if line_format == "json" else b"first value=1\n")
        assert meter.collect() == {"first": 1.0}
        write(bad + good)
        assert meter.next() == {"first": None, "a": 1.0}
        until(lambda: meter.rejected == rejected, 10, "the count")
        assert meter.collect() == {}


def test_program_that_prints_nothing_useful_is_a_failure_that_says_why() -> None:
    with dictated() as (meter, write):
        write(b"61.5\n")
        said = "printed JSON that is not an object of series key -> number: it begins with '61.5'"
        assert meter.trouble() == f"cat printed nothing that can be used: {said}"
        write(b'{"a": 1}\n')
        assert meter.next() == {"a": 1.0}
        write(b"61.5\n")
        until(lambda: meter.rejected == 2, 10, "the second count")
        assert meter.collect() == {}  # one bad line among good ones is counted and no failure


def test_more_series_than_anyone_can_want_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Inbox", lambda: Inbox(max_series=3))
    with dictated() as (meter, write):
        write(b'{"a": 1}\n')
        assert meter.collect() == {"a": 1.0}
        write(b'{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}\n{"a": 2, "f": 1}\n')
        until(lambda: meter.rejected == 3, 10, "both lines")
        assert meter.collect() == {"a": 2.0, "b": 1.0, "c": 1.0}


def test_program_that_ends_is_started_again_and_its_end_told() -> None:
    with shell("""echo '{"a": 1}'; echo 'no answer from \033[31mthe meter' >&2; exit 3""") as meter:
        assert meter.collect() == {"a": 1.0}
        assert meter.trouble().startswith(
            "sh ended with code 3: no answer from ?[31mthe meter; it is started again after"
        )
        assert meter.next() == {"a": 1.0}


def test_program_that_prints_rubbish_only_since_it_was_started_again_is_a_failure(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    script = f"""if [ -e {flag} ]; then echo rubbish; {IDLE}; else touch {flag}; echo '{{"a": 1}}'; fi"""
    with shell(script) as meter:
        assert meter.collect() == {"a": 1.0}
        until(lambda: "nothing that can be used" in meter.trouble(), 10, "the reason")


def test_program_that_is_killed_is_started_again() -> None:
    with shell("""echo "{\\"pid\\": $$}"; """ + IDLE) as meter:
        pid = meter.collect()["pid"]
        assert pid is not None
        os.kill(int(pid), signal.SIGKILL)
        assert "sh was killed by SIGKILL; it is started again after" in meter.trouble()
        assert meter.next()["pid"] != pid


def test_pauses_between_starts_grow_up_to_a_limit() -> None:
    timing = Timing(first_pause_seconds=0.05, max_pause_seconds=0.2)
    with shell("exit 1", timing=timing) as meter:
        said: list[str] = []

        def pauses() -> list[str]:
            trouble = meter.trouble().rpartition("after ")[2]
            if not said or said[-1] != trouble:
                said.append(trouble)
            return said if len(said) == 3 else []

        assert until(pauses, 10, "three pauses") == ["0.05 s", "0.1 s", "0.2 s"]


def test_pause_is_short_again_after_a_long_run(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    timing = Timing(first_pause_seconds=0.05, max_pause_seconds=0.2)
    with shell(f"echo x >> {runs}; sleep 0.3; exit 1", timing=timing) as meter:

        def pauses() -> set[str]:
            said.add(meter.trouble().rpartition("after ")[2])
            return said if runs.read_text().count("x") == 4 else set()

        said: set[str] = set()
        assert until(pauses, 20, "four runs") == {"0.05 s"}


def test_program_that_can_not_be_started_is_tried_again(tmp_path: Path) -> None:
    program = tmp_path / "later"
    with running(str(program)) as meter:
        assert f"{program} can't be started: No such file or directory; it is started again" in meter.trouble()
        ready = tmp_path / "ready"
        ready.write_text(f"#!/bin/sh\necho '{{\"a\": 1}}'; {IDLE}\n")
        ready.chmod(0o755)
        ready.rename(program)
        assert meter.next() == {"a": 1.0}


def test_what_was_printed_just_before_the_end_is_taken_and_a_line_without_end_is_not() -> None:
    timing = Timing(first_pause_seconds=60)
    with shell("""echo '{"a": 1}'; printf '{"a": 2, "b": 3}'""", timing=timing) as meter:
        assert meter.collect() == {"a": 1.0}
        until(lambda: meter.rejected == 1, 10, "the line without end")
        assert "ended with code 0" in meter.trouble()


def test_what_is_printed_while_the_end_is_noticed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def has_ended(process: subprocess.Popen[bytes]) -> bool:
        """Looks at a moment at which the program lives, and answers once it has printed and ended."""
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, 10, "the end")
        return True

    monkeypatch.setattr(line_program, "_has_ended", has_ended)
    script = f"""{line_program._LOOK_SECONDS + 0.3}; echo '{{"a": 1}}'"""  # noqa: SLF001 - after the first look
    with shell(f"sleep {script}", timing=Timing(first_pause_seconds=60)) as meter:
        assert meter.collect() == {"a": 1.0}


def test_program_whose_child_holds_its_output_is_over_with_its_own_end(tmp_path: Path) -> None:
    lingering = tmp_path / "pid"
    script = f"""sleep 1000 & echo $! > {lingering}; echo '{{"a": 1}}'; exit 5"""
    with shell(script, timing=Timing(first_pause_seconds=60)) as meter:
        assert meter.collect() == {"a": 1.0}
        assert "ended with code 5" in meter.trouble()
        assert_gone(int(lingering.read_text()))


def test_program_that_closes_its_output_and_lives_on_is_ended() -> None:
    with shell("""echo "{\\"pid\\": $$}"; exec >&-; sleep 1000""", timing=Timing(60, 60, grace_seconds=0.1)) as meter:
        pid = meter.collect()["pid"]
        assert pid is not None
        assert "sh was killed by SIGTERM" in meter.trouble()
        assert_gone(int(pid))


def test_silent_program_is_ended_where_that_is_asked_for() -> None:
    timing = Timing(first_pause_seconds=60, grace_seconds=0.1, max_silence_seconds=0.5)
    with shell("""echo '{"a": 1}'; """ + IDLE, timing=timing) as meter:
        assert meter.collect() == {"a": 1.0}
        assert "sh printed nothing for 0.5 s and was ended" in meter.trouble()


def test_max_silence_of_the_configuration_is_the_one_that_holds() -> None:
    config = ExecdConfig(name="x", command=("true",), max_silence_seconds=7)
    assert Execd(config, print, print)._timing == Timing(max_silence_seconds=7)  # noqa: SLF001


def assert_gone(pid: int) -> None:
    def gone() -> bool:
        try:
            return is_gone(psutil.Process(pid))
        except psutil.NoSuchProcess:
            return True

    until(gone, 5, f"the end of process {pid}")


def test_stop_asks_first_and_ends_all_that_was_started(tmp_path: Path) -> None:
    asked, pids = tmp_path / "asked", tmp_path / "pids"
    script = f"""
        trap 'echo yes > {asked}; exit 0' TERM
        (trap '' TERM; sleep 1000) & echo $! > {pids}
        echo '{{"a": 1}}'
        while :; do sleep 0.05; done
    """
    with shell(script) as meter:
        assert meter.collect() == {"a": 1.0}
        (program,) = [child for child in psutil.Process().children() if str(asked) in " ".join(child.cmdline())]
        meter.collector.close()
        assert asked.read_text() == "yes\n"
        assert not program.is_running()
        assert_gone(int(pids.read_text()))
        with pytest.raises(CollectorError, match="the agent is stopping"):
            meter.collect()


def test_stop_kills_what_does_not_listen() -> None:
    with shell("""trap '' TERM; echo "{\\"pid\\": $$}"; while :; do sleep 0.05; done""") as meter:
        pid = meter.collect()["pid"]
        assert pid is not None
        before = time.monotonic()
        meter.collector.close()
        assert time.monotonic() - before < QUICK.grace_seconds + 1
        assert_gone(int(pid))


@pytest.mark.parametrize("script", ["exit 1", "sleep 1000", "while :; do echo rubbish; done"])
def test_stop_is_quick_whatever_the_program_does(script: str) -> None:
    timing = Timing(first_pause_seconds=60)
    with shell(script, timing=timing) as meter:
        waiting = threading.Thread(target=lambda: suppressed(meter.collect))
        waiting.start()
        until(lambda: meter.collector._program is not None, 5, "the start")  # noqa: SLF001
        before = time.monotonic()
        meter.collector.close()
        waiting.join()
        assert time.monotonic() - before < 1


def suppressed(function: Callable[[], object]) -> None:
    with suppress(CollectorError):
        function()


def test_stop_before_the_first_tick_starts_nothing() -> None:
    meter = Running("sh", "-c", "exit 1")
    meter.collector.close()
    with pytest.raises(CollectorError, match="the agent is stopping"):
        meter.collect()
    assert meter.collector._program is None  # noqa: SLF001


def test_nothing_is_left_behind_after_many_runs() -> None:
    before = psutil.Process().num_fds(), threading.active_count()
    with shell("""echo "{\\"pid\\": $$}"; exit 1""") as meter:
        seen = set()

        def ten_runs() -> bool:
            seen.add(meter.next()["pid"])
            return len(seen) >= 10

        until(ten_runs, 30, "ten runs")
    assert (psutil.Process().num_fds(), threading.active_count()) == before


def test_program_hears_of_the_end_of_an_agent_that_was_killed(tmp_path: Path) -> None:
    ended, agent = tmp_path / "ended", tmp_path / "agent.py"
    agent.write_text(
        textwrap.dedent(f"""
            import time
            from edge_agent.collectors.execd import Execd
            from edge_agent.config import Execd as Config
            script = "(sleep 0.5; echo '{{\\"a\\": 1}}') & cat; echo yes > {ended}"
            print(Execd(Config(name="x", command=("sh", "-c", script)), print, print).collect(), flush=True)
            time.sleep(1000)
        """)
    )
    with subprocess.Popen([sys.executable, agent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "{'a': 1.0}\n"
        assert not ended.exists()
        process.kill()
    until(lambda: ended.exists() and ended.read_text(), 5, "the program to notice")


def test_standard_error_is_logged_in_moderation(caplog: pytest.LogCaptureFixture) -> None:
    script = """i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo "warning $i" >&2; done; echo '{"a": 1}'; """ + IDLE
    with caplog.at_level(logging.WARNING), shell(script) as meter:
        assert meter.collect() == {"a": 1.0}
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"collector execd.meter says: warning {number}" for number in range(1, 6)]


def test_endless_output_is_read_no_faster_than_is_good_for_the_others() -> None:
    with shell("""yes "$(printf '{"a": 1%990s}' '')" """) as meter:
        assert meter.collect() == {"a": 1.0}
        started = time.monotonic()
        lines = 3 * MAX_BYTES_PER_SECOND // 1_000
        until(lambda: meter.superseded > lines, 20, "what may be read in three seconds, the first second's at once")
        assert time.monotonic() - started > 1.5
        assert meter.collect() == {"a": 1.0}
