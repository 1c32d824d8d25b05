"""The command line as a person or a service manager meets it: output, exit codes, signals."""

import json
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest
import yaml
from harness.cloud import PROGRAM, cloud_ingest
from harness.ports import free_port
from harness.processes import NewProcess, Process
from harness.wait import until

from cloud_ingest.message import Message
from cloud_ingest.store.cardinality import NO_LIMIT, Layout, admit
from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.rejected import Rejection, park
from cloud_ingest.terminal import printable
from telemetry_contract import compression
from telemetry_contract.version import __version__

NO_DATABASE = "postgresql://nobody:secret-word@127.0.0.1:1/nothing"


def test_the_version_is_told() -> None:
    assert cloud_ingest("--version") == (f"{__version__}\n", "")


@pytest.mark.parametrize("args", [("--help",), ("api", "--help"), ("rejected", "--help")])
def test_help_is_given(args: tuple[str, ...]) -> None:
    assert "Usage: cloud-ingest" in cloud_ingest(*args)[0]


def test_a_wrong_command_is_told() -> None:
    assert "No such command" in cloud_ingest("ingets", code=2)[1]


@pytest.mark.parametrize("command", ["migrate", "ingest", "api", "worker", "run", "check-config"])
def test_bad_configuration_ends_every_command_with_code_2(command: str) -> None:
    _, err = cloud_ingest(command, code=2, DATABASE_URL=NO_DATABASE, BROKER__PORT="x")
    assert err == "cloud-ingest: broker.port must be a whole number, got 'x' (CLOUD_INGEST_BROKER__PORT)\n"


def test_check_config_prints_what_is_in_effect_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "cloud.yaml"
    file.write_text("broker: {host: from-file, username: u}\n")
    out, _ = cloud_ingest("check-config", "--config", str(file), DATABASE_URL=NO_DATABASE, API__LISTEN="[::1]:1")
    effective = yaml.safe_load(out)
    assert effective["broker"]["host"] == "from-file"
    assert effective["api"]["listen"] == "[::1]:1"
    assert set(effective["database_url"]) == {"*"}


def test_check_config_looks_at_the_files_that_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    for environ in (
        {"BROKER__USERNAME": "u", "BROKER__PASSWORD_FILE": str(missing)},
        {"BROKER__TLS__CA_FILE": str(missing)},
    ):
        assert str(missing) in cloud_ingest("check-config", code=2, DATABASE_URL=NO_DATABASE, **environ)[1]


def test_migrate_tells_what_it_did(database_url: str) -> None:
    first, _ = cloud_ingest("migrate", DATABASE_URL=database_url)
    assert first.startswith("applied 0001_initial\n")
    assert cloud_ingest("migrate", DATABASE_URL=database_url)[0] == "the schema is current\n"


@pytest.mark.parametrize("args", [("migrate",), ("rejected", "list"), ("rejected", "show", "1")])
def test_a_database_that_is_away_ends_a_command_with_code_1(args: tuple[str, ...]) -> None:
    _, err = cloud_ingest(*args, code=1, DATABASE_URL=NO_DATABASE)
    assert err.startswith("cloud-ingest: ")
    assert "onnection" in err


def test_rejected_messages_are_listed_and_shown(database_url: str) -> None:
    migrate(database_url)
    assert cloud_ingest("rejected", "list", DATABASE_URL=database_url)[0] == "no rejected messages\n"
    hostile = "\x1b[2Jcleared\r"
    packed = compression.compress(b'{"v":2}' * 40, compression.Compression.ZLIB)
    with connect(database_url, "test") as connection:
        park(connection, [Rejection(Message("a/b", b'{"v":2}'), "unknown_version", "contract version 2 is not 1")])
        park(connection, [Rejection(Message("a/b", packed, "application/json+zlib"), "unknown_version", "again")])
        park(connection, [Rejection(Message(hostile, hostile.encode()), "malformed", hostile)])
        park(connection, [Rejection(Message("a/c", b"\xff\x00\x01"), "malformed", "payload is not JSON")])

    out, _ = cloud_ingest("rejected", "list", DATABASE_URL=database_url)
    assert [line.split()[0] for line in out.splitlines()] == ["number", "4", "3", "2", "1"]
    assert "contract version 2 is not 1" in out
    assert "\x1b" not in out
    page, _ = cloud_ingest("rejected", "list", "--limit", "1", "--before", "3", DATABASE_URL=database_url)
    assert [line.split()[0] for line in page.splitlines()] == ["number", "2"]

    shown = {
        number: cloud_ingest("rejected", "show", str(number), DATABASE_URL=database_url)[0] for number in range(1, 5)
    }
    assert shown[1].endswith('\n\n{"v":2}\n')
    assert shown[2].endswith("\n\n" + '{"v":2}' * 40 + "\n")
    assert shown[3].endswith("\n\n\\x1b[2Jcleared\\r\n")
    assert shown[4].endswith("\n\nff 00 01\n")
    assert not any("\x1b" in text for text in shown.values())

    raw = subprocess.run(
        [PROGRAM, "rejected", "show", "2", "--raw"],
        check=True,
        capture_output=True,
        timeout=60,
        env={"CLOUD_INGEST_DATABASE_URL": database_url},
    )
    assert raw.stdout == packed
    assert (
        "there is no rejected message 9" in cloud_ingest("rejected", "show", "9", code=1, DATABASE_URL=database_url)[1]
    )


def test_thresholds_become_what_a_file_says(database_url: str, tmp_path: Path) -> None:
    migrate(database_url)
    file = tmp_path / "thresholds.yaml"

    def apply(*options: str, **changes: Any) -> list[str]:
        hot = {"name": "hot", "metric": "t", "operator": ">", "warning": 80} | changes
        cold = {"name": "cold", "metric": "t", "operator": "<", "critical": 5}
        file.write_text(yaml.safe_dump({"thresholds": [hot] if changes else [hot, cold]}))
        return cloud_ingest("thresholds", "apply", str(file), *options, DATABASE_URL=database_url)[0].splitlines()

    assert apply("--dry-run") == ["+ cold", "+ hot"]
    assert apply() == ["+ cold", "+ hot"]
    assert apply() == ["nothing to change"]
    assert apply(warning=85, selector={"site": "a"}) == ['~ hot: selector.site none -> "a", warning 80.0 -> 85.0']
    assert apply("--prune", warning=85, selector={"site": "a"}) == ["- cold"]
    assert apply("--prune") == ["+ cold", '~ hot: selector.site "a" -> none, warning 85.0 -> 80.0']


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not YAML"),
        ("[]", "must hold a list below the key thresholds"),
        ("thresholds: []\nx: 1", "x: is not known"),
        ("thresholds: [{name: hot, metric: t, operator: '>'}]", "threshold hot: warning or critical must be set"),
        ("thresholds: [{name: hot, metric: t, operator: '>', warning: a}]", "threshold hot warning: must be a valid"),
        ("thresholds: [1]", "threshold 1: "),
        ("thresholds: [&a {name: a, metric: t, operator: '>', warning: 1}, *a]", "given twice: a"),
    ],
)
def test_a_file_of_thresholds_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "thresholds.yaml"
    file.write_text(text)
    _, err = cloud_ingest("thresholds", "apply", str(file), code=2, DATABASE_URL=NO_DATABASE)
    assert message in err
    assert str(file) in err


def test_devices_with_the_most_series_are_listed(database_url: str) -> None:
    migrate(database_url)
    assert cloud_ingest("cardinality", DATABASE_URL=database_url)[0] == "no device has sent anything\n"
    with connect(database_url, "test") as connection:
        for number, name in enumerate(("few", "many"), 1):
            device = connection.execute(
                "insert into telemetry.device (name, site) values (%s, 'plant') returning device_id", [name]
            ).fetchall()[0][0]
            keys = [f"{name}_{key}" for key in range(number)]
            admit(connection, [(device, Layout.of(keys))], NO_LIMIT)
        park(connection, [Rejection(Message("a", b""), "too_many_series", "", "many")])
    out, _ = cloud_ingest("cardinality", DATABASE_URL=database_url)
    assert [line.split() for line in out.splitlines()] == [
        ["device", "site", "series", "layouts", "refused"],
        ["many", "plant", "2", "1", "1"],
        ["few", "plant", "1", "1", "0"],
    ]


def test_only_printable_characters_reach_a_terminal() -> None:
    assert printable("grün \U0001f600 \u202e\x9b\x07\n") == "grün \U0001f600 \\u202e\\x9b\\x07\\n"


# The role api as a process


def api_process(new_process: NewProcess, **environ: str) -> Process:
    return new_process([PROGRAM, "api"], {f"CLOUD_INGEST_{name}": value for name, value in environ.items()})


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/liveness", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_api_cleanly_even_with_a_connection_open(
    new_process: NewProcess, number: signal.Signals
) -> None:
    port = free_port()
    process = api_process(new_process, DATABASE_URL=NO_DATABASE, API__LISTEN=f"127.0.0.1:{port}")
    process.start()
    until(lambda: answers(port), 20, "the API to answer")
    with socket.create_connection(("127.0.0.1", port)) as idle:
        idle.sendall(b"GET /liveness HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        process.signal(number)
        assert process.wait(10) == 0
    assert "Traceback" not in process.output()


def test_a_taken_port_ends_the_api_with_a_message(new_process: NewProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        process = api_process(new_process, DATABASE_URL=NO_DATABASE, API__LISTEN=listen)
        process.start()
        assert process.wait(20) == 1
    assert f"cannot listen on {listen}: Address already in use; choose another" in process.output()


@pytest.mark.parametrize("command", ["api", "run"])
def test_an_address_that_others_can_reach_needs_a_word(command: str) -> None:
    _, err = cloud_ingest(command, code=2, DATABASE_URL=NO_DATABASE, API__LISTEN="0.0.0.0:1")
    assert "--insecure" in err


def test_logs_can_be_objects(new_process: NewProcess) -> None:
    port = free_port()
    environ = {"API__LISTEN": f"127.0.0.1:{port}", "LOGGING__FORMAT": "json"}
    process = api_process(new_process, DATABASE_URL=NO_DATABASE, **environ)
    process.start()
    until(lambda: answers(port), 20, "the API to answer")
    with pytest.raises(OSError, match="503"):
        urlopen(f"http://127.0.0.1:{port}/readiness", timeout=10)
    process.terminate()
    assert process.wait(10) == 0
    lines = [json.loads(line) for line in process.output().splitlines()]
    assert [(line["level"], line["role"]) for line in lines] == [("INFO", "api"), ("WARNING", "api")]
    assert lines[0]["message"] == f"listening on http://127.0.0.1:{port}"
    assert lines[1]["message"].startswith("the database is away")


def test_a_database_without_the_schema_ends_the_worker_with_what_to_do(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select to_regclass('telemetry.reading')").fetchone() == (None,)
    _, err = cloud_ingest("worker", code=1, DATABASE_URL=database_url, BROKER__PORT=str(free_port()))
    assert "cloud-ingest migrate" in err
