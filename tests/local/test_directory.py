import os
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry_bridge.directory import DataDirectory
from telemetry_bridge.errors import CannotStart

HOLD = """
import sys
from pathlib import Path
from telemetry_bridge.directory import DataDirectory
with DataDirectory(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_run_at_a_time_and_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data")
    command = [sys.executable, "-c", HOLD, str(directory.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(
                CannotStart, match=rf"in use by telemetry-bridge up \(process {holder.pid}\).*--data-dir"
            ):
                directory.held().__enter__()
        finally:
            holder.kill()
    with directory.held():
        assert f"process {os.getpid()}" in (directory.root / "lock").read_text()


def test_a_new_directory_is_private_and_stays_out_of_git(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "a" / "b")
    with directory.held():
        assert directory.root.stat().st_mode & 0o777 == 0o700
        assert (directory.root / ".gitignore").read_text() == "*\n"
        assert directory.logs.is_dir()


def test_a_directory_that_was_there_gets_nothing_hidden_into_it(tmp_path: Path) -> None:
    with DataDirectory(tmp_path).held():
        assert not (tmp_path / ".gitignore").exists()


def test_a_path_that_can_not_be_a_directory_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CannotStart, match=r"can't be used.*--data-dir"):
            DataDirectory(path).held().__enter__()
