import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from harness.wait import until

from edge_agent import cli
from edge_agent import config as config_module
from edge_agent.config import Config
from edge_agent.preflight import warnings
from telemetry_contract.metrics import CATALOGUE
from telemetry_contract.series import SeriesKey
from telemetry_contract.version import __version__

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "edge_agent.cli"]


@pytest.fixture(autouse=True)
def _without_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("EDGE_AGENT_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr(config_module, "DEFAULT_FILE", tmp_path / "absent.yaml")


def written(directory: Path, text: str) -> str:
    file = directory / "edge.yaml"
    file.write_text(text)
    return str(file)


def edge_agent(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_console_script_says_its_version() -> None:
    script = Path(sys.executable).with_name("edge-agent")
    said = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == f"{__version__}\n"


def test_dry_run_shows_a_line_for_each_series_of_this_machine() -> None:
    done = edge_agent("run", "--once", "--dry-run")
    assert done.returncode == 0
    assert done.stderr == ""
    lines = {line.split("  ")[0].rstrip(): line.split() for line in done.stdout.splitlines()}
    assert {SeriesKey.parse(key).metric for key in lines} <= CATALOGUE.keys()
    assert 0 <= float(lines["cpu_usage_percent"][1]) <= 100
    assert lines["memory_total_bytes"][2] == "bytes"
    assert float(lines["memory_total_bytes"][1]) > 1e6


def test_dry_run_as_json_has_ticks_as_the_wire_has_them() -> None:
    before_ms = time.time_ns() // 1_000_000
    programs = '[{name: boiler, command: [echo, "{\\"boiler_temperature_celsius\\": 61.5}"]}]'
    done = edge_agent(
        "run", "--once", "--dry-run", "--json", EDGE_AGENT_DEVICE="pump-1", EDGE_AGENT_COLLECTORS__EXEC=programs
    )
    assert done.returncode == 0
    printed = json.loads(done.stdout)
    assert (printed["device"], printed["site"]) == ("pump-1", "default")
    machine, connections, boiler = printed["readings"]
    assert {SeriesKey.parse(key).metric for key in connections["values"]} == {"network_connections"}
    assert boiler["values"] == {"boiler_temperature_celsius": 61.5}
    assert machine["values"]["agent_heartbeat_total"] == 1
    assert machine["values"]["cpu_usage_percent"] is not None
    assert list(machine["values"]) == sorted(machine["values"])
    assert before_ms <= machine["t"] <= time.time_ns() // 1_000_000


def test_dry_run_needs_neither_broker_nor_outbox_and_writes_nothing(tmp_path: Path) -> None:
    done = edge_agent(
        "run",
        "--once",
        "--dry-run",
        EDGE_AGENT_OUTBOX__PATH=str(tmp_path / "outbox.db"),
        EDGE_AGENT_BROKER__HOST="nowhere.invalid",
    )
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_dry_run_with_a_failing_program_shows_the_rest_and_says_so() -> None:
    done = edge_agent(
        "run", "--once", "--dry-run", EDGE_AGENT_COLLECTORS__EXEC="[{name: boiler, command: [/nonexistent]}]"
    )
    assert done.returncode == 1
    assert "cpu_usage_percent" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.endswith("WARNING collector exec.boiler: /nonexistent can't be started: No such file or directory")


def test_log_lines_as_json() -> None:
    done = edge_agent(
        "run",
        "--once",
        "--dry-run",
        EDGE_AGENT_COLLECTORS__EXEC="[{name: boiler, command: [/nonexistent]}]",
        EDGE_AGENT_LOGGING__FORMAT="json",
    )
    record = json.loads(done.stderr)
    assert (record["level"], record["logger"]) == ("WARNING", "edge_agent.scheduler")
    assert record["message"].startswith("collector exec.boiler: ")


def test_output_into_a_pipe_that_closes_early_ends_without_a_traceback() -> None:
    process = subprocess.Popen([*COMMAND, "check-config"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 1


def test_interrupt_ends_without_a_traceback(tmp_path: Path) -> None:
    started = tmp_path / "started"
    programs = f'[{{name: slow, command: [sh, -c, "touch {started}; exec sleep 60"], timeout_seconds: 60}}]'
    process = subprocess.Popen(
        [*COMMAND, "run", "--once", "--dry-run"],
        env={**os.environ, "EDGE_AGENT_COLLECTORS__EXEC": programs},
        stderr=subprocess.PIPE,
        text=True,
    )
    until(started.exists, 30, "the program to run")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_bad_configuration_ends_with_2_and_every_problem_on_a_line(tmp_path: Path) -> None:
    file = written(tmp_path, "broker:\n  port: x\nsampling: {interval_seconds: -5}\n")
    for command in (["check-config"], ["run"], ["run", "--once"], ["run", "--once", "--dry-run"]):
        done = edge_agent(*command, "--config", file)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.splitlines() == [
            f"edge-agent: broker.port must be a whole number, got 'x' ({file} line 2)",
            f"edge-agent: sampling.interval_seconds must be at least 0.05, got -5 ({file} line 3)",
        ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["run", "--dry-run"], "--dry-run needs --once"),
        (["run", "--once", "--json"], "--json needs --dry-run"),
        (["run", "--timeout", "5"], "--timeout needs --once"),
        (["run", "--once", "--dry-run", "--timeout", "5"], "--timeout needs --once and no --dry-run"),
        (["run", "--once", "--timeout", "0"], "must be a number of seconds above 0"),
        (["run", "--once", "--timeout", "nan"], "must be a number of seconds above 0"),
        (["run", "--once", "--timeout", "soon"], "must be a number of seconds above 0"),
        (["check-config", "--once"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_check_config_shows_what_is_in_effect_as_a_file_that_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_AGENT_OUTBOX__PATH", str(tmp_path / "outbox.db"))
    file = written(tmp_path, "device: pump-1\nsite: plant\ncollectors: {exec: [{name: x, command: [sh, -c, exit]}]}\n")
    assert cli.main(["check-config", "--config", file]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith("# OK")
    shown = Config.of(yaml.safe_load(printed.out))
    assert (shown.device, shown.site, str(shown.outbox.path)) == ("pump-1", "plant", str(tmp_path / "outbox.db"))
    assert shown.collectors.exec[0].command == ("sh", "-c", "exit")


def config_of(tmp_path: Path, text: str) -> Config:
    values = {"outbox": {"path": str(tmp_path / "outbox.db")}, **yaml.safe_load(text)}
    return Config.of(values)


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("secret\n")
    file.chmod(0o600)
    return file


def test_nothing_to_warn_of(tmp_path: Path, password_file: Path) -> None:
    text = f"broker: {{username: x, password_file: {password_file}, host: 127.0.0.1}}"
    assert list(warnings(config_of(tmp_path, text))) == []


def test_warnings_name_what_will_probably_not_work(tmp_path: Path, password_file: Path) -> None:
    password_file.chmod(0o644)
    text = f"""
outbox: {{path: {tmp_path}}}
broker: {{username: x, password_file: {password_file}, host: broker.example.org}}
collectors:
  exec: [{{name: boiler, command: [no-such-program], interval_seconds: 1}}]
  execd: [{{name: meter, command: [no-such-meter]}}, {{name: shell, command: [sh]}}]
"""
    assert list(warnings(config_of(tmp_path, text))) == [
        f"outbox.path: {tmp_path} is a directory; it must be a file or not exist",
        f"broker.password_file: every user of this machine can read {password_file}",
        "broker.tls: without it the password goes to broker.example.org for all on the way to read",
        "collectors.execd: meter: no-such-meter is not a program that this user can run",
        "collectors.exec: boiler: no-such-program is not a program that this user can run",
        "collectors.exec: boiler: with timeout_seconds 5 above its interval of 1 s a slow run costs ticks",
    ]


def test_an_outbox_below_something_that_is_no_directory_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = f"outbox: {{path: {tmp_path}/file/x/outbox.db}}"
    assert list(warnings(config_of(tmp_path, text))) == [f"outbox.path: {tmp_path}/file is not a directory"]


# Root may write everywhere, so another user must ask; it imports before, since it may not be let into the checkout.
AS_NOBODY = """
import os, sys
from pathlib import Path
from edge_agent.config import Config, Outbox
from edge_agent.preflight import warnings
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for path in sys.argv[1:]:
    print(*warnings(Config(outbox=Outbox(path=Path(path)))), sep="\\n")
"""


def test_an_outbox_that_this_user_can_not_write_is_warned_of() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "/proc/sys/outbox.db", "/etc/passwd"],
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("outbox.path: this user can't write to /proc/sys; set EDGE_AGENT_OUTBOX__PATH")
    assert second == "outbox.path: this user can't write /etc/passwd"
