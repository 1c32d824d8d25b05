"""The `containers` collector on this machine's own control groups, where the test may make some."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psutil
import pytest
from harness.wait import until

from edge_agent.collectors.containers.collector import Containers
from edge_agent.config import Containers as Config

GROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpuacct", "cpu", "pids", "blkio")  # of version 1; where memory is charged is left as it is
ID = os.urandom(32).hex()


class Group:
    """A control group that looks like a container, beside the one of this process."""

    def __init__(self) -> None:
        own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
        if not GROUPS.is_dir():
            pytest.skip("no control groups are mounted here")
        if (GROUPS / "cgroup.controllers").exists():
            parents = [GROUPS / own[""].lstrip("/")]
        else:
            by_name = {name: own[names] for names in own for name in names.split(",")}
            mounts = [GROUPS / name for name in CONTROLLERS if by_name.get(name) == by_name["cpuacct"]]
            parents = [mount / by_name["cpuacct"].lstrip("/") for mount in mounts]
        self.directories = sorted({parent.resolve() / ID for parent in parents})  # some share a hierarchy

    def __enter__(self) -> Self:
        with ExitStack() as made:
            try:
                for directory in self.directories:
                    directory.mkdir()
                    made.callback(directory.rmdir)
            except OSError as exc:
                pytest.skip(f"this user may not make control groups here: {exc}")
            self._made = made.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def add(self, pid: int) -> None:
        for directory in self.directories:
            (directory / "cgroup.procs").write_text(str(pid))

    def is_empty(self) -> bool:
        return not any((directory / "cgroup.procs").read_text() for directory in self.directories)


@pytest.fixture
def collector() -> Iterator[Containers]:
    collector = Containers(Config(engine_sockets=()))
    yield collector
    collector.close()


def test_the_kernel_tells_what_a_container_uses_until_it_ends(collector: Containers) -> None:
    def found() -> dict[str, float | None]:
        mine = f'{{id="{ID[:12]}"}}'
        return {key.removesuffix(mine): value for key, value in collector.collect().items() if key.endswith(mine)}

    with Group() as group:
        assert not found()  # nothing runs in it
        with subprocess.Popen([sys.executable, "-S", "-E", "-c", "while True: pass"]) as busy:
            try:
                group.add(busy.pid)
                process = psutil.Process(busy.pid)
                at_first, began, before = found(), time.monotonic(), process.cpu_times().user
                until(lambda: process.cpu_times().user > before + 0.5, 60, "half a second of CPU time")
                now, elapsed, spent = found(), time.monotonic() - began, process.cpu_times().user - before
            finally:
                busy.kill()
        used_before, used = at_first["container_cpu_seconds_total"], now["container_cpu_seconds_total"]
        assert used_before is not None
        assert used is not None
        assert used - used_before == pytest.approx(spent, rel=0.35)
        assert now["container_cpu_percent"] == pytest.approx(100 * spent / elapsed, rel=0.35)
        assert now.get("container_pids", 1) == 1  # absent where it is not switched on for this group
        until(group.is_empty, 10, "the end of the process")
        assert not found()
    assert not found()
