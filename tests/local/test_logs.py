from pathlib import Path

import pytest

from telemetry_bridge import logs
from telemetry_bridge.logs import KEPT_STARTS, PartLog


def written(log: PartLog, text: str) -> None:
    with log.open_fresh() as file:
        file.write(text.encode())


def test_each_start_begins_an_empty_file_and_keeps_a_few_older_ones(tmp_path: Path) -> None:
    log = PartLog(tmp_path / "agent.log")
    for number in range(KEPT_STARTS + 3):
        written(log, f"start {number}\n")
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["agent.log", *(f"agent.log.{number}" for number in range(1, KEPT_STARTS + 1))]
    assert log.path.read_text() == f"start {KEPT_STARTS + 2}\n"
    assert (tmp_path / "agent.log.1").read_text() == f"start {KEPT_STARTS + 1}\n"
    assert (tmp_path / f"agent.log.{KEPT_STARTS}").read_text() == "start 2\n"


def test_starts_that_wrote_nothing_displace_nothing(tmp_path: Path) -> None:
    log = PartLog(tmp_path / "agent.log")
    written(log, "something\n")
    for _ in range(5):
        written(log, "")
    assert (tmp_path / "agent.log.1").read_text() == "something\n"


def test_a_log_that_grows_too_large_is_emptied_under_its_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 100)
    log = PartLog(tmp_path / "agent.log")
    with log.open_fresh() as writer:
        writer.write(b"x" * 100)
        writer.flush()
        log.trim()
        assert log.path.stat().st_size == 100, "not too large yet"
        writer.write(b"y")
        writer.flush()
        log.trim()
        writer.write(b"after")
    assert log.path.read_bytes() == b"after"
    assert (tmp_path / "agent.log.1").read_bytes() == b"x" * 100 + b"y"


def test_tail_is_the_end_without_what_a_terminal_would_obey(tmp_path: Path) -> None:
    log = PartLog(tmp_path / "agent.log")
    assert log.tail(3) == []
    written(log, "x" * 10_000 + "\none\n\n\x1b[2Jtwo\x07\n")
    assert log.tail(2) == ["one", " [2Jtwo "]
    assert len(log.tail(3)) == 3
