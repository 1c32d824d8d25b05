"""The `containers` collector against hosts of the test's making: folders of `testcases/containers`, and live ones."""

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.engine import Engine
from harness.wait import until

from edge_agent.collectors.base import Closeable
from edge_agent.collectors.containers.collector import Containers
from edge_agent.collectors.containers.keys import Keys
from edge_agent.config import Containers as Config
from telemetry_contract.series import SeriesKey

CASES = Path(__file__).parent / "testcases" / "containers"
PATIENCE_SECONDS = 30.0  # however busy this machine is; an engine that is there answers sooner
WEB, NEW = "ab" * 32, "cd" * 32


@pytest.fixture
def root() -> Iterator[Path]:
    """Not below tmp_path, which may be too long for the name of a socket."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "host"


@contextmanager
def collecting(root: Path, patience_seconds: float = PATIENCE_SECONDS, **wanted: Any) -> Iterator[Containers]:
    collector = Containers(Config(root=root, **wanted), patience_seconds=patience_seconds)
    try:
        yield collector
    finally:
        collector.close()


@pytest.mark.parametrize("case", sorted(it.name for it in CASES.iterdir()))
def test_a_host_gives_exactly(case: str, root: Path) -> None:
    """`host` is its file system without what can't be in a repository.

    That is beside it: `engines.json`, what is listed at which socket; `mapped.json`, the disks that are others' (with a
    colon in their name); `pod_logs.json`, the logs of Kubernetes.
    """
    files = CASES / case
    shutil.copytree(files / "host", root)
    for device in optional(files / "mapped.json", []):
        (root / "sys/dev/block" / device / "dm").mkdir(parents=True)
    for log in optional(files / "pod_logs.json", []):
        (root / "var/log/containers").mkdir(parents=True, exist_ok=True)
        (root / "var/log/containers" / log).touch()
    with ExitStack() as engines:
        for socket, listed in optional(files / "engines.json", {}).items():
            engines.enter_context(Engine(root / socket, listed))
        with collecting(root) as collector:
            assert collector.collect() == json.loads((files / "expected.json").read_text())


def optional(file: Path, default: Any) -> Any:
    return json.loads(file.read_text()) if file.exists() else default


class Host:
    """Control groups of version 2, and an engine at /run/docker.sock that names what runs in them."""

    def __init__(self, root: Path) -> None:
        self.groups = root / "sys/fs/cgroup"
        self.groups.mkdir(parents=True)
        (self.groups / "cgroup.controllers").write_text("cpu io memory pids\n")
        self.engine = Engine(root / "run/docker.sock", [])
        self.now = 100.0

    def start(
        self, container_id: str, name: str | None = None, *, cpu_seconds: float = 0.0, parent: str = "system.slice"
    ) -> Path:
        group = self.groups / parent / f"docker-{container_id}.scope"
        group.mkdir(parents=True)
        (group / "cgroup.events").write_text("populated 1\nfrozen 0\n")
        (group / "memory.current").write_text("1000\n")
        (group / "memory.stat").write_text("anon 700\ninactive_file 250\n")
        (group / "pids.current").write_text("3\n")
        _spend(group, cpu_seconds)
        if name is not None:
            self.engine.containers.append({"Id": container_id, "Names": [f"/{name}"]})
        return group

    def spend(self, container_id: str, cpu_seconds: float) -> None:
        _spend(self.groups / "system.slice" / f"docker-{container_id}.scope", cpu_seconds)

    def end(self, container_id: str) -> None:
        shutil.rmtree(self.groups / "system.slice" / f"docker-{container_id}.scope")
        self.engine.containers = [it for it in self.engine.containers if it["Id"] != container_id]

    def monotonic(self) -> float:
        return self.now


def _spend(group: Path, cpu_seconds: float) -> None:
    (group / "cpu.stat").write_text(f"usage_usec {round(cpu_seconds * 1e6)}\nuser_usec 0\n")


@pytest.fixture
def host(root: Path) -> Iterator[Host]:
    host = Host(root)
    with host.engine:
        yield host


@pytest.fixture
def collector(host: Host, root: Path) -> Iterator[Containers]:
    collector = Containers(Config(root=root), monotonic=host.monotonic, patience_seconds=PATIENCE_SECONDS)
    yield collector
    collector.close()


def called(found: dict[str, float | None]) -> set[str]:
    """The containers that there are values of."""
    labels = [dict(SeriesKey.parse(key).labels) for key in found]
    return {it.get("container") or f"id {it['id']}" for it in labels}


def test_a_host_without_containers_has_nothing_to_report(collector: Containers, host: Host, tmp_path: Path) -> None:
    assert collector.collect() == {}
    assert not host.engine.asked
    with collecting(tmp_path / "nothing") as elsewhere:
        assert elsewhere.collect() == {}
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    with collecting(tmp_path) as empty:
        assert empty.collect() == {}


def test_this_machine_can_be_asked() -> None:
    with collecting(Path("/")) as collector:
        for key in collector.collect():
            assert SeriesKey.parse(key).metric.startswith("container_")


def test_cpu_usage_is_measured_between_calls(collector: Containers, host: Host) -> None:
    host.start(WEB, "web", cpu_seconds=7)
    assert collector.collect()['container_cpu_percent{container="web"}'] is None
    host.spend(WEB, 22)
    host.now += 10
    found = collector.collect()
    assert found['container_cpu_percent{container="web"}'] == pytest.approx(150)
    assert found['container_cpu_seconds_total{container="web"}'] == 22


def test_cpu_usage_has_no_value_when_the_counter_begins_anew_or_no_time_has_passed(
    collector: Containers, host: Host
) -> None:
    host.start(WEB, "web", cpu_seconds=7)
    collector.collect()
    assert collector.collect()['container_cpu_percent{container="web"}'] is None
    host.spend(WEB, 1)
    host.now += 10
    assert collector.collect()['container_cpu_percent{container="web"}'] is None
    host.spend(WEB, 2)
    host.now += 10
    assert collector.collect()['container_cpu_percent{container="web"}'] == pytest.approx(10)


def test_a_container_that_is_made_anew_goes_on_with_its_series(collector: Containers, host: Host) -> None:
    host.start(WEB, "web", cpu_seconds=7)
    before = collector.collect()
    host.end(WEB)
    host.start(NEW, "web", cpu_seconds=0)
    host.now += 5
    after = collector.collect()
    assert after.keys() == before.keys()
    assert after['container_cpu_percent{container="web"}'] is None
    assert after['container_cpu_seconds_total{container="web"}'] == 0


def test_a_group_that_is_left_over_neither_counts_nor_takes_a_name(collector: Containers, host: Host) -> None:
    left = host.start("00" * 32, "web")
    (left / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    host.start(WEB, "web")
    assert called(collector.collect()) == {"web"}


def test_containers_of_one_name_are_both_shown(collector: Containers, host: Host) -> None:
    host.start(WEB, "web")
    host.start(NEW, "web")
    assert called(collector.collect()) == {"web", "web-2"}


def test_names_can_be_left_out(host: Host, root: Path) -> None:
    host.start(WEB, "build-7")
    host.start(NEW, "web")
    with collecting(root, exclude_names=("build-*",)) as collector:
        assert called(collector.collect()) == {"web"}


def test_without_an_engine_containers_are_called_by_their_ids(host: Host, root: Path) -> None:
    host.start(WEB, "web")
    with collecting(root, engine_sockets=()) as collector:
        assert called(collector.collect()) == {f"id {WEB[:12]}"}
    assert not host.engine.asked


def test_series_of_any_number_of_containers_are_put_together_once() -> None:
    keys = Keys()
    asked = [("container_pids", (("container", f"c{number}"),)) for number in range(5_000)]
    before = [keys.of(*it) for it in asked]
    keys.turn()
    assert all(keys.of(*it) is key for it, key in zip(asked, before, strict=True))
    keys.turn()
    keys.turn()
    again = keys.of(*asked[0])
    assert again == before[0] == 'container_pids{container="c0"}'
    assert again is not before[0]


def test_an_engine_that_hangs_costs_names_only_and_its_answer_counts_when_it_comes(root: Path, host: Host) -> None:
    with collecting(root, patience_seconds=0.01) as collector:
        host.start(WEB, "web")
        host.engine.answering.clear()
        assert collector.collect() == {}  # it may be named by the next look
        assert called(collector.collect()) == {f"id {WEB[:12]}"}
        host.engine.answering.set()
        until(lambda: called(collector.collect()) == {"web"}, 10, "the name")


def test_an_engine_that_talks_rubbish_costs_names_only(collector: Containers, host: Host) -> None:
    host.start(WEB, "web")
    host.engine.answer = b"\x00\xff"
    assert called(collector.collect()) == {f"id {WEB[:12]}"}


def test_a_hostile_name_stays_a_label(collector: Containers, host: Host) -> None:
    host.start(WEB, 'x",pod="y\n\\' + "z" * 5000)
    (name,) = called(collector.collect())
    assert name == ("x?,pod=?y??" + "z" * 5000)[:180]


def test_a_sandbox_is_left_out_where_the_other_containers_of_its_pod_have_names(
    collector: Containers, host: Host, root: Path
) -> None:
    pod = "kubepods.slice/kubepods-pod0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0.slice"
    host.start(WEB, parent=pod)
    host.start(NEW, parent=pod)
    assert called(collector.collect()) == {f"id {WEB[:12]}", f"id {NEW[:12]}"}
    logs = root / "var/log/containers"
    logs.mkdir(parents=True)
    (logs / f"web-5d9c_shop_web-{WEB}.log").touch()
    assert called(collector.collect()) == {"web"}


def test_a_container_that_goes_while_it_is_read_costs_nothing_but_itself(collector: Containers, host: Host) -> None:
    host.start(WEB, "web")
    going = host.start(NEW, "going")
    assert called(collector.collect()) == {"web", "going"}
    (going / "memory.current").unlink()
    os.mkfifo(going / "memory.current")
    found: dict[str, float | None] = {}
    reading = threading.Thread(target=lambda: found.update(collector.collect()))
    reading.start()
    with (going / "memory.current").open("w"):  # opens when the collector does
        going.rename(host.groups / "aside")
    reading.join()
    assert called(found) == {"web"}


def test_a_container_of_version_1_that_goes_while_it_is_read_costs_nothing_but_itself(root: Path) -> None:
    groups = {it: root / "sys/fs/cgroup" / it / "docker" / WEB for it in ("cpuacct", "memory", "pids")}
    for group in groups.values():
        group.mkdir(parents=True)
        (group / "cgroup.procs").write_text("4711\n")
    (groups["cpuacct"] / "cpuacct.usage").write_text("5000000000\n")
    (groups["pids"] / "pids.current").write_text("3\n")
    os.mkfifo(groups["memory"] / "memory.usage_in_bytes")
    found: dict[str, float | None] = {}
    with collecting(root) as collector:
        reading = threading.Thread(target=lambda: found.update(collector.collect()))
        reading.start()
        with (groups["memory"] / "memory.usage_in_bytes").open("w"):
            groups["cpuacct"].rename(root / "aside")
        reading.join()
    assert found == {}


def test_it_lets_go_when_it_is_closed(collector: Containers, host: Host) -> None:
    assert isinstance(collector, Closeable)
    host.start(WEB, "web")
    collector.collect()
    collector.close()
    until(lambda: not [it for it in threading.enumerate() if it.name == "container names"], 5, "the thread's end")
