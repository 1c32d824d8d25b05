import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import log
from edge_agent.config import Logging
from edge_agent.errors import ConfigError
from edge_agent.log import Log, TextLines
from edge_agent.log_file import LogFile
from edge_agent.repetition import AT_ONCE, MAX_KINDS, Repetition

logger = logging.getLogger("edge_agent.test")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers, root.level
    yield
    for handler in root.handlers:
        if isinstance(handler, Log):
            handler.close()
    root.handlers = before
    root.setLevel(level)
    logging.getLogger("edge_agent").setLevel(logging.NOTSET)


def messages(file: Path) -> list[str]:
    return [line.split(" ", 1)[1] for line in file.read_text().splitlines()]


def test_everything_goes_to_one_file_and_what_needs_a_person_to_the_other_too(tmp_path: Path) -> None:
    log.configure(Logging(directory=tmp_path / "log"))
    logger.debug("d")
    logger.info("i")
    logger.warning("w %d", 1)
    logger.error("e")
    logging.getLogger("library").info("not ours")
    assert messages(tmp_path / "log" / "edge.log") == ["INFO    i", "WARNING w 1", "ERROR   e"]
    assert messages(tmp_path / "log" / "error.log") == ["WARNING w 1", "ERROR   e"]
    assert (tmp_path / "log").stat().st_mode & 0o007 == 0


def test_files_in_json(tmp_path: Path) -> None:
    log.configure(Logging(directory=tmp_path, format="json"))
    logger.info("i")
    assert json.loads((tmp_path / "edge.log").read_text())["message"] == "i"


def test_files_are_replaced_before_they_grow_too_large_and_the_oldest_go(tmp_path: Path) -> None:
    log.configure(Logging(directory=tmp_path, max_file_bytes=10_000, keep_files=3))
    for letter in "abcdefghij" * 60:
        logger.critical("%s", letter * 100)
    found = sorted(tmp_path.glob("edge.log*"))
    assert [file.name for file in found] == ["edge.log", "edge.log.1", "edge.log.2"]
    assert all(5_000 < file.stat().st_size <= 10_000 for file in found[1:])


def test_a_later_configuration_takes_the_place_of_the_first(tmp_path: Path) -> None:
    log.configure(Logging(directory=tmp_path / "a"))
    logger.info("one")
    log.configure(Logging(directory=tmp_path / "b", level="DEBUG"))
    logger.debug("two")
    assert messages(tmp_path / "a" / "edge.log") == ["INFO    one"]
    assert messages(tmp_path / "b" / "edge.log") == ["DEBUG   two"]


@pytest.mark.parametrize("name", ["edge.log", "error.log"])
def test_a_directory_that_can_not_be_used_is_told_and_changes_nothing(name: str, tmp_path: Path) -> None:
    log.configure(Logging(directory=tmp_path / "a"))
    (tmp_path / "b" / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"logging.directory {tmp_path}/b: Is a directory: {tmp_path}/b/{name}"):
        log.configure(Logging(directory=tmp_path / "b"))
    logger.info("still here")
    assert messages(tmp_path / "a" / "edge.log") == ["INFO    still here"]


def test_a_command_with_a_directory_that_can_not_be_used_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    directory = tmp_path / "file" / "log"
    environment = {**os.environ, "EDGE_AGENT_LOGGING__DIRECTORY": str(directory)}
    command = [sys.executable, "-m", "edge_agent.cli", "run", "--config", os.devnull]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == f"edge-agent: logging.directory {directory}: Not a directory: {directory}\n"


def test_a_dry_run_speaks_to_the_terminal(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "EDGE_AGENT_LOGGING__DIRECTORY": str(tmp_path / "log"),
        "EDGE_AGENT_COLLECTORS__EXEC": "[{name: boiler, command: [/nonexistent]}]",
    }
    command = [sys.executable, "-m", "edge_agent.cli", "run", "--once", "--dry-run", "--config", os.devnull]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "can't be started" in done.stderr
    assert not (tmp_path / "log").exists()


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
def test_a_full_disk_costs_lines_and_is_told_once_until_it_is_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "edge.log"
    file.symlink_to(FULL)
    full = LogFile(file, max_bytes=10_000, files=2)
    full.setFormatter(TextLines())
    record = logging.makeLogRecord({"msg": "x", "levelname": "INFO"})
    full.handle(record)
    full.handle(record)
    assert capsys.readouterr().err == f"edge-agent: {file} can't be written: [Errno 28] No space left on device\n"
    file.unlink()
    full.close()  # opens it again when there is something to write
    full.handle(record)
    full.handle(record)
    full.close()
    assert capsys.readouterr().err == f"edge-agent: {file} can be written again\n"
    assert len(file.read_text().splitlines()) == 2


def test_a_file_that_can_not_be_renamed_is_written_on(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "edge.log", max_bytes=50, files=2)
    (tmp_path / "edge.log.1" / "in the way").mkdir(parents=True)
    for number in range(5):
        file.handle(logging.makeLogRecord({"msg": f"{'x' * 40} {number}"}))
    file.close()
    assert len((tmp_path / "edge.log").read_text().splitlines()) == 5


def test_a_file_that_the_disk_refuses_to_close_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LogFile(tmp_path / "edge.log", max_bytes=50, files=2)
    file.handle(logging.makeLogRecord({"msg": "x" * 40}))
    first = file.stream
    assert first is not None

    def close() -> None:
        monkeypatch.undo()
        first.close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file, "stream", SimpleNamespace(close=close, seek=first.seek, tell=first.tell))
    file.handle(logging.makeLogRecord({"msg": "y" * 40}))
    file.close()
    assert (tmp_path / "edge.log").read_text().split() == ["x" * 40, "y" * 40]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def saying(handler: logging.Handler, message: str, level: int = logging.WARNING, name: str = "a") -> None:
    handler.handle(logging.makeLogRecord({"msg": message, "levelno": level, "levelname": "W", "name": name}))


def test_the_same_with_other_numbers_is_said_a_few_times_and_then_how_often() -> None:
    clock, kept = Clock(), Kept()
    handler = Log([kept], Repetition(clock))
    for attempt in range(100):
        saying(handler, f"no broker, again in {attempt} s")
        clock.now += 1
    assert len(kept.lines) == AT_ONCE
    saying(handler, "something else")
    assert kept.lines[-1] == "something else"
    clock.now += 60
    saying(handler, "no broker, again in 7 s")
    left_out = 100 - AT_ONCE
    assert kept.lines[-2:] == [f"{left_out} lines like the next one were left out", "no broker, again in 7 s"]
    clock.now += 86_400
    for attempt in range(AT_ONCE + 3):
        saying(handler, f"no broker, again in {attempt} s")
    assert len(kept.lines) == 2 * AT_ONCE + 3
    handler.close()
    assert kept.lines[-1] == "3 lines that repeated others were left out"


def test_nothing_is_told_of_repetition_where_there_was_none() -> None:
    kept = Kept()
    handler = Log([kept])
    saying(handler, "a")
    handler.close()
    assert kept.lines == ["a"]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.CRITICAL])
def test_what_somebody_looks_for_and_what_is_worst_is_never_left_out(level: int) -> None:
    kept = Kept()
    handler = Log([kept])
    for _ in range(50):
        saying(handler, "x", level)
    assert len(kept.lines) == 50


def test_lines_of_other_loggers_and_other_words_are_other_lines() -> None:
    kept = Kept()
    handler = Log([kept])
    for name in "abc":
        for what in ("x", "y"):
            for _ in range(AT_ONCE):
                saying(handler, what, name=name)
    assert len(kept.lines) == 3 * 2 * AT_ONCE


@given(st.lists(st.text(alphabet="ab1", min_size=1, max_size=3), max_size=60))
def test_each_line_is_written_or_counted(said: list[str]) -> None:
    repetition = Repetition(Clock())
    passed = [
        before
        for text in said
        if (before := repetition.left_out_before(logging.makeLogRecord({"msg": text, "levelno": logging.INFO})))
        is not None
    ]
    assert len(passed) + sum(passed) + repetition.left_out() == len(said)


def test_the_memory_of_what_was_said_is_bounded() -> None:
    repetition = Repetition(Clock())
    words = [f"{chr(97 + first)}{chr(97 + second)}" for first in range(26) for second in range(26)]
    assert len(words) > MAX_KINDS
    for word in words:
        repetition.left_out_before(logging.makeLogRecord({"msg": word, "levelno": logging.INFO}))
    assert len(repetition._kinds) == MAX_KINDS  # noqa: SLF001
