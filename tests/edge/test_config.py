import os
import re
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from edge_agent import config as module
from edge_agent.config import (
    Config,
    Exec,
    Execd,
    Modbus,
    ModbusRegister,
    ModbusSerial,
    ModbusTcp,
    MqttInput,
    MqttTopic,
    Plugin,
    Tls,
    load,
)
from edge_agent.config_source import Source, dotted, overlay, variable
from edge_agent.errors import ConfigError
from edge_agent.section import Section, leaves, plain, section_in
from telemetry_contract.topics import is_identifier

QUOTES = "(in quotes where it looks like a number or a date)"
A_SERIES = 'a series key like flow_ratio or temperature_celsius{room="a"}'
NOT_A_NAME = "metric name 'a b' does not match [a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = Path(__file__).parents[2] / "deploy" / "edge-agent.yaml"


@pytest.fixture(autouse=True)
def _as_a_machine_without_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr(module, "DEFAULT_FILE", tmp_path / "etc" / "edge-agent.yaml")
    monkeypatch.chdir(tmp_path)


def loaded(text: str, environment: Mapping[str, str] | None = None) -> Config:
    Path("edge.yaml").write_text(text)
    return load(Path("edge.yaml"), environment or {})


def problems(text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text, environment)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def test_without_file_and_environment_everything_has_a_default_that_works() -> None:
    config = load(None, {"PATH": "/bin"})
    assert config == Config()
    assert config.site == "default"
    assert config.broker.host == "localhost"
    assert config.outbox.path == Path("/var/lib/edge-agent/outbox.db")
    assert config.delivery.confirm == "cloud"


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("status: null", "127.0.0.1:9273"),
        ("status: {}", "127.0.0.1:9273"),
        ("status: {listen: null}", None),
        ("status: {listen: '[::]:80'}", "[::]:80"),
    ],
)
def test_a_status_address_of_null_is_none_and_not_the_default(text: str, listen: str | None) -> None:
    config = loaded(text)
    assert plain(config)["status"] == {"listen": listen}
    assert Config.of(plain(config)) == config
    assert loaded("status: {listen: 'a:1'}", {"EDGE_AGENT_STATUS__LISTEN": "null"}).status.listen is None


def test_file_of_the_design() -> None:
    config = loaded("""
device: pump-house-1
site: plant-a
broker: {host: localhost, port: 1883, protocol: 5, username: null, password_file: null, tls: null}
sampling: {interval_seconds: 5}
collectors:
  cpu: {enabled: true, per_core: true}
  disk: {interval_seconds: 30}
  exec:
    - {name: boiler, command: [/usr/local/bin/read-boiler], interval_seconds: 10, timeout_seconds: 5}
outbox: {path: /var/lib/edge-agent/outbox.db, max_bytes: 100000000, flush_after_seconds: 0}
delivery: {confirm: cloud, confirm_timeout_seconds: 30}
status: {listen: 127.0.0.1:9273}
logging: {level: INFO, format: text, directory: null}
""")
    assert config.device == "pump-house-1"
    assert config.collectors.disk.interval_seconds == 30
    assert config.collectors.exec == (
        Exec(name="boiler", command=("/usr/local/bin/read-boiler",), interval_seconds=10, timeout_seconds=5),
    )


def test_sample_equals_the_defaults() -> None:
    assert load(SAMPLE, {}) == load(None, {})


def test_sample_writes_every_key() -> None:
    written = yaml.safe_load(SAMPLE.read_text())

    def has(path: tuple[str | int, ...]) -> bool:
        at = written
        for part in path:
            if not isinstance(at, dict) or part not in at:
                return False
            at = at[part]
        return True

    missing = [path for path, _ in leaves(Config) if not has(path)]
    assert [dotted(path) for path in missing if path[:2] != ("broker", "tls")] == []


def test_examples_in_comments_of_the_sample_are_valid_and_write_every_key() -> None:
    lists: dict[str, type[Section]] = {
        "exec": Exec,
        "execd": Execd,
        "modbus": Modbus,
        "mqtt_input": MqttInput,
        "plugins": Plugin,
    }
    # Prose begins after one space; an example is the name of a list, or `tls`, and what is indented below it.
    text = re.sub(rf"(?m)^( *)# ((?:tls|{'|'.join(lists)}):|  )", r"\1\2", SAMPLE.read_text())
    for name in lists:
        text = text.replace(f"  {name}: []\n", "")
    written = yaml.safe_load(text.replace("  tls: null\n", ""))
    Config.of(written)

    def writes_every_key(section: type[Section], *examples: dict[str, Any]) -> bool:
        return set().union(*examples) == set(section.__struct_fields__)

    assert writes_every_key(Tls, written["broker"]["tls"])
    collectors = written["collectors"]
    for name, section in lists.items():
        assert writes_every_key(section, *collectors[name])
    (zigbee,) = collectors["mqtt_input"]
    assert writes_every_key(MqttTopic, *zigbee["topics"])
    over_tcp, over_serial_line = collectors["modbus"]
    assert writes_every_key(ModbusTcp, over_tcp["tcp"])
    assert writes_every_key(ModbusRegister, over_tcp["registers"][0])
    assert writes_every_key(ModbusSerial, over_serial_line["serial"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "collectors:\n  disk:\n    interval_seconds: -5\n",
            "collectors.disk.interval_seconds must be at least 0.05, got -5 (edge.yaml line 3)",
        ),
        (
            "sampling: {interval_seconds: .nan}",
            "sampling.interval_seconds must be a finite number, got nan (edge.yaml line 1)",
        ),
        (
            "sampling: {interval_seconds: 90000}",
            "sampling.interval_seconds must be at most 86400, got 90000 (edge.yaml line 1)",
        ),
        (
            "\nsampling: {interval_seconds: on}",
            "sampling.interval_seconds must be a number, got True (edge.yaml line 2)",
        ),
        ("broker: {port: 18.5}", "broker.port must be a whole number, got 18.5 (edge.yaml line 1)"),
        ("broker: {port: mqtt}", "broker.port must be a whole number, got 'mqtt' (edge.yaml line 1)"),
        ("broker: {protocol: 4}", "broker.protocol must be 5 or '3.1.1', got 4 (edge.yaml line 1)"),
        ("broker: 1.2.3.4", "broker must be a section: keys and values below it (edge.yaml line 1)"),
        (
            "broker: {username: 5}",
            f"broker.username must be text {QUOTES}, got 5 (edge.yaml line 1)",
        ),
        ("broker: {password_file: x}", "broker must set username where it sets password_file (edge.yaml line 1)"),
        (
            "broker:\n  tls: {key_file: k}",
            "broker.tls must set certificate_file and key_file together, or neither (edge.yaml line 2)",
        ),
        ("device: a b", "device must be 1 to 64 of the characters A-Z a-z 0-9 _ . -, got 'a b' (edge.yaml line 1)"),
        (
            "device: 2024-01-01",
            f"device must be text {QUOTES}, got datetime.date(2024, 1, 1) (edge.yaml line 1)",
        ),
        ("site: ''", "site must be 1 to 64 of the characters A-Z a-z 0-9 _ . -, got '' (edge.yaml line 1)"),
        (
            "collectors: {cpu: {enabled: maybe}}",
            "collectors.cpu.enabled must be true or false, got 'maybe' (edge.yaml line 1)",
        ),
        (
            "collectors: {network: {exclude_interfaces: lo}}",
            "collectors.network.exclude_interfaces must be a list like [a, b], got 'lo' (edge.yaml line 1)",
        ),
        ("collectors:\n  exec:\n    - name: x\n", "collectors.exec[0].command is required (edge.yaml line 3)"),
        (
            "collectors:\n  exec:\n  - name: x\n    command: date +%s\n",
            "collectors.exec[0].command must be a list like [a, b], got 'date +%s' (edge.yaml line 4)",
        ),
        (
            "collectors:\n  exec:\n  - {name: x, command: []}\n",
            "collectors.exec[0].command must name a program and hold no NUL, got [] (edge.yaml line 3)",
        ),
        (
            "collectors:\n  exec:\n  - {name: x, command: [a, 5]}\n",
            f"collectors.exec[0].command[1] must be text {QUOTES}, got 5 (edge.yaml line 3)",
        ),
        (
            "collectors:\n  exec:\n  - {name: x, command: ['']}\n",
            "collectors.exec[0].command must name a program and hold no NUL, got a list (edge.yaml line 3)",
        ),
        (
            "collectors:\n  exec:\n  - {name: x, command: [a]}\n  - {name: x, command: [b]}\n",
            "collectors must give each exec program a name of its own: x is taken (edge.yaml line 1)",
        ),
        (
            "collectors:\n  execd:\n  - {name: x, command: [a]}\n  - {name: x, command: [b]}\n",
            "collectors must give each execd program a name of its own: x is taken (edge.yaml line 1)",
        ),
        (
            "collectors:\n  execd:\n  - {name: x, command: [a], format: xml}\n",
            "collectors.execd[0].format must be 'json' or 'influx', got 'xml' (edge.yaml line 3)",
        ),
        (
            "collectors: {sensors: {kinds: [hwmon, gpio]}}",
            "collectors.sensors.kinds[1] must be 'hwmon', 'iio', 'onewire' or 'battery', got 'gpio' (edge.yaml line 1)",
        ),
        (
            "collectors: {textfile: {max_age_seconds: 0}}",
            "collectors.textfile.max_age_seconds must be greater than 0, got 0 (edge.yaml line 1)",
        ),
        (
            "collectors:\n  modbus:\n  - {name: x, registers: [{series: a, address: 0}]}\n",
            "collectors.modbus[0] must set either tcp or serial (edge.yaml line 3)",
        ),
        (
            "collectors:\n  modbus:\n  - {name: x, tcp: {host: a}, registers: []}\n",
            "collectors.modbus[0].registers must not be empty, got [] (edge.yaml line 3)",
        ),
        (
            "collectors:\n  modbus:\n  - {name: x, tcp: {host: a}, registers: [{series: a b, address: 0}]}\n",
            f"collectors.modbus[0].registers[0].series must be {A_SERIES}: {NOT_A_NAME}, got 'a b' (edge.yaml line 3)",
        ),
        (
            """collectors:
  modbus:
  - name: x
    tcp: {host: a}
    registers: [{series: 'a{b="1",c="2"}', address: 0}, {series: 'a{c="2",b="1"}', address: 1}]
""",
            'collectors.modbus[0] must give each of its series once: a{b="1",c="2"} is repeated (edge.yaml line 3)',
        ),
        (
            """collectors:
  modbus:
  - {name: x, serial: {device: /dev/x}, registers: [{series: a, address: 0}]}
  - {name: y, serial: {device: /dev/x}, registers: [{series: b, address: 0}]}
""",
            "collectors must name each serial line in one modbus connection alone: /dev/x is in two (edge.yaml line 1)",
        ),
        (
            "collectors:\n  modbus:\n  - {name: x, tcp: {host: a, prot: 5}, registers: [{series: a, address: 0}]}\n",
            "collectors.modbus[0].tcp.prot is not a known key; did you mean port? (edge.yaml line 3)",
        ),
        ("outbox: {path: ''}", "outbox.path must be the path of a file, got '' (edge.yaml line 1)"),
        ("outbox: {max_bytes: 10}", "outbox.max_bytes must be at least 65536, got 10 (edge.yaml line 1)"),
        ("delivery: {window_messages: 1}", "delivery.window_messages must be at least 2, got 1 (edge.yaml line 1)"),
        (
            "logging: {level: LOUD}",
            "logging.level must be 'DEBUG', 'INFO', 'WARNING' or 'ERROR', got 'LOUD' (edge.yaml line 1)",
        ),
        ("brokre: {}", "brokre is not a known key; did you mean broker? (edge.yaml line 1)"),
        ("broker:\n  hots: x", "broker.hots is not a known key; did you mean host? (edge.yaml line 2)"),
        ("broker:\n  nonsense:", "broker.nonsense is not a known key (edge.yaml line 2)"),
        (
            "collectors:\n  exec:\n  - {name: x, command: [a], comand: 5}\n",
            "collectors.exec[0].comand is not a known key; did you mean command? (edge.yaml line 3)",
        ),
        (
            "status: {listen: 9273}",
            "status.listen must be HOST:PORT, for example 127.0.0.1:9273 or [::1]:9273, got 9273 (edge.yaml line 1)",
        ),
        ("site: a\nsite: b", "site is given twice (edge.yaml lines 1 and 2)"),
        ("broker:\n  host: a\n  port: 1\n  host: b\n", "broker.host is given twice (edge.yaml lines 2 and 4)"),
        ("- a", "the file must hold `key: value` lines (edge.yaml line 1)"),
        ("5", "the file must hold `key: value` lines (edge.yaml line 1)"),
        ("? [a]\n: b", "the file has a key that is not a word (edge.yaml line 1)"),
        (
            "site: !run x",
            "site can't be read: could not determine a constructor for the tag '!run' (edge.yaml line 1)",
        ),
        ("device: 2024-13-45", "device can't be read: month must be in 1..12 (edge.yaml line 1)"),
        ("broker: &b\n  tls: *b", "broker.tls contains itself (edge.yaml line 1)"),
    ],
)
def test_a_problem_names_key_value_what_would_be_right_and_where(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_all_problems_are_told_at_once() -> None:
    said = problems("device: a/b\nsite: a\nsite: b\nsampling: {interval_seconds: 0}\nbrokr: x\n", {"EDGE_AGENT_X": "1"})
    assert said == [
        "site is given twice (edge.yaml lines 2 and 3)",
        "EDGE_AGENT_X is not a known variable",
        "device must be 1 to 64 of the characters A-Z a-z 0-9 _ . -, got 'a/b' (edge.yaml line 1)",
        "sampling.interval_seconds must be at least 0.05, got 0 (edge.yaml line 4)",
        "brokr is not a known key; did you mean broker? (edge.yaml line 5)",
    ]


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\t- x", "a: 'x", "%YAML 9", "a: *nowhere", "a: 1\n---\nb: 2"])
def test_what_is_not_yaml_is_told_with_its_line(text: str) -> None:
    (said,) = problems(text)
    assert re.match(r"edge\.yaml line \d: not valid YAML: .", said)


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    for file, reason in ((tmp_path, "Is a directory"), (tmp_path / "absent.yaml", "No such file or directory")):
        with pytest.raises(ConfigError, match=f"can't read the configuration file {file}: {reason}"):
            load(file, {})
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"site: \xff")
    with pytest.raises(ConfigError, match="not UTF-8 text: byte 6"):
        load(binary, {})
    binary.write_bytes(b"site: \x01")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(binary, {})


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "broker:\ncollectors:\n  exec:\nsite: ~\n"])
def test_empty_means_default(text: str) -> None:
    assert loaded(text) == Config()


def test_a_file_is_found_by_option_then_variable_then_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: tmp_path / f"{name}.yaml" for name in ("option", "variable", "place")}
    for name, file in files.items():
        file.write_text(f"site: {name}")
    named = {"EDGE_AGENT_CONFIG": str(files["variable"])}
    assert load(None, {}).site == "default"
    monkeypatch.setattr(module, "DEFAULT_FILE", files["place"])
    assert load(None, {}).site == "place"
    assert load(None, named).site == "variable"
    assert load(files["option"], named).site == "option"
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load(None, {"EDGE_AGENT_CONFIG": "nowhere.yaml"})


def test_environment_lies_over_the_file() -> None:
    config = loaded(
        "site: plant\nbroker: {host: a, port: 1}\noutbox:\n",
        {
            "EDGE_AGENT_DEVICE": "0123",
            "EDGE_AGENT_BROKER__HOST": "b",
            "EDGE_AGENT_BROKER__PROTOCOL": "5",
            "EDGE_AGENT_OUTBOX__PATH": "/tmp/x.db",  # noqa: S108 - never opened
            "EDGE_AGENT_SAMPLING__INTERVAL_SECONDS": "0.5",
            "EDGE_AGENT_COLLECTORS__CPU__ENABLED": "false",
            "EDGE_AGENT_COLLECTORS__EXEC": '[{name: x, command: [echo, "1"]}]',
            "EDGE_AGENT_COLLECTORS__DISK__EXCLUDE_MOUNTS": "[/a, /b]",
            "EDGE_AGENT_LOGGING__LEVEL": "debug",
            "EDGE_AGENT_DELIVERY__CONFIRM": "",
            "OTHER_DEVICE": "x",
        },
    )
    assert (config.device, config.site) == ("0123", "plant")
    assert (config.broker.host, config.broker.port, config.broker.protocol) == ("b", 1, 5)
    assert str(config.outbox.path) == "/tmp/x.db"  # noqa: S108
    assert config.sampling.interval_seconds == 0.5
    assert not config.collectors.cpu.enabled
    assert config.collectors.exec == (Exec(name="x", command=("echo", "1")),)
    assert config.collectors.disk.exclude_mounts == ("/a", "/b")
    assert config.logging.level == "DEBUG"
    assert config.delivery.confirm == "cloud"
    assert load(None, {"EDGE_AGENT_BROKER__PROTOCOL": "3.1.1"}).broker.protocol == "3.1.1"


def test_labels_come_from_the_file_or_the_environment() -> None:
    assert loaded("labels: {building: north}").labels == {"building": "north"}
    assert load(None, {"EDGE_AGENT_LABELS": '{building: "3"}'}).labels == {"building": "3"}


def test_null_in_the_environment_takes_a_value_of_the_file_back() -> None:
    assert loaded("broker: {username: me}", {"EDGE_AGENT_BROKER__USERNAME": "null"}).broker.username is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("EDGE_AGENT_BROKER__PORT", "0", "broker.port must be at least 1, got '0' (EDGE_AGENT_BROKER__PORT)"),
        (
            "EDGE_AGENT_BROKER__HOTS",
            "x",
            "EDGE_AGENT_BROKER__HOTS is not a known variable; did you mean EDGE_AGENT_BROKER__HOST?",
        ),
        ("EDGE_AGENT_BROKER", "x", "EDGE_AGENT_BROKER is not a known variable; did you mean EDGE_AGENT_BROKER__"),
        ("EDGE_AGENT_device", "x", "EDGE_AGENT_device is not a known variable"),
        ("EDGE_AGENT_LABELS", "{", "labels must be names with values, like {a: b} (EDGE_AGENT_LABELS)"),
        ("EDGE_AGENT_LABELS", "x", "labels must be names with values, like {a: b}, got 'x' (EDGE_AGENT_LABELS)"),
        ("EDGE_AGENT_LABELS", "{a-b: x}", "labels can't be used: a-b is not the name of a label, which must match"),
        ("EDGE_AGENT_LABELS", '{a: ""}', "labels can't be used: a must be 1 to 128 printable characters"),
        ("EDGE_AGENT_LABELS", str({f"a{i}": "x" for i in range(17)}), "labels must be at most 16 (EDGE_AGENT_LABELS)"),
        (
            "EDGE_AGENT_COLLECTORS__EXEC",
            "[",
            "collectors.exec must be a list like [a, b] (EDGE_AGENT_COLLECTORS__EXEC)",
        ),
        (
            "EDGE_AGENT_COLLECTORS__EXEC",
            "x",
            "collectors.exec must be a list like [a, b], got 'x' (EDGE_AGENT_COLLECTORS__EXEC)",
        ),
        (
            "EDGE_AGENT_COLLECTORS__EXEC",
            "[{name: x}]",
            "collectors.exec[0].command is required (EDGE_AGENT_COLLECTORS__EXEC)",
        ),
    ],
)
def test_a_problem_in_the_environment_names_the_variable(name: str, value: str, expected: str) -> None:
    said = problems("", {name: value})
    assert len(said) == 1
    assert said[0].startswith(expected)


def test_a_list_of_the_environment_is_told_by_its_variable_also_where_the_file_had_one() -> None:
    file = "collectors:\n  exec:\n    - {name: a, command: [x]}\n    - {name: b, command: [x]}\n"
    said = problems(file, {"EDGE_AGENT_COLLECTORS__EXEC": "[{name: a, command: [5]}]"})
    assert said == [f"collectors.exec[0].command[0] must be text {QUOTES}, got 5 (EDGE_AGENT_COLLECTORS__EXEC)"]


def test_a_section_that_the_file_spoils_is_told_once_also_with_a_variable_for_it() -> None:
    said = problems("broker: x\n", {"EDGE_AGENT_BROKER__PORT": "1"})
    assert said == ["broker must be a section: keys and values below it (edge.yaml line 1)"]


def test_every_key_can_be_set_in_the_environment() -> None:
    for path, _ in leaves(Config):
        source = Source()
        overlay(source, {variable(path): "value"}, dict(leaves(Config)), {})
        assert source.problems == []
        assert source.origins == {path: variable(path)}
        at: Any = source.values
        for part in path:
            at = at[part]
        assert at == "value"


def test_secrets_in_the_wrong_place_are_not_repeated() -> None:
    said = "\n".join(
        [
            *problems("broker: mqtt://me:hunter2@host"),
            *problems("broker: {host: 'mqtt://me:hunter2@host'}"),
            *problems("broker: {password: hunter2}"),
            *problems("broker: {password_file: {value: hunter2}, username: x}"),
            *problems("site: mqtt://me:hunter2@host"),
            *problems("broker: [hunter2]"),
        ]
    )
    assert "hunter2" not in said
    assert "did you mean password_file?" in said


def test_files_that_the_configuration_names_are_checked_before_anything_starts(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert problems(f"broker:\n  username: x\n  password_file: {absent}\n  tls:\n    ca_file: {absent}\n") == [
        f"broker.password_file {absent}: No such file or directory (edge.yaml line 3)",
        f"broker.tls.ca_file {absent}: No such file or directory (edge.yaml line 5)",
    ]
    no_certificate = tmp_path / "no.pem"
    no_certificate.write_text("not a certificate")
    (said,) = problems(f"broker:\n  tls:\n    certificate_file: {no_certificate}\n    key_file: {no_certificate}\n")
    assert said.startswith(f"broker.tls.certificate_file {no_certificate} with key_file {no_certificate}: ")
    assert said.endswith("(edge.yaml line 3)")


def test_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    for text in ("s3 crét\n", "s3 crét", "s3 crét\r\nrest\n"):
        file.write_bytes(text.encode())
        assert loaded(f"broker: {{username: me, password_file: {file}}}").broker.password() == "s3 crét"
    assert Config().broker.password() is None


def test_tls_trusts_the_named_authority_alone_and_a_locked_key_is_refused(tmp_path: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=tmp_path)

    subject = ("-subj", "/CN=test", "-days", "2")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-keyout", "key", "-out", "cert", "-noenc", *subject)
    openssl("rsa", "-aes256", "-passout", "pass:x", "-in", "key", "-out", "locked")
    files = {name: tmp_path / name for name in ("cert", "key", "locked")}
    context = Tls(ca_file=files["cert"], certificate_file=files["cert"], key_file=files["key"]).context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert [it["subject"] for it in context.get_ca_certs()] == [((("commonName", "test"),),)]
    with pytest.raises(ConfigError, match="protected by a passphrase"):
        Tls(certificate_file=files["cert"], key_file=files["locked"]).context()


@pytest.mark.parametrize(
    ("host_name", "device"),
    [
        ("pump-1.plant.example", "pump-1.plant.example"),
        ("küche (alt)", "k-che--alt-"),
        ("x" * 99, "x" * 64),
        ("", "unnamed"),
    ],
)
def test_default_device_is_the_host_name_made_to_fit(
    host_name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "gethostname", lambda: host_name)
    assert Config().device == device
    assert is_identifier(device)


def test_default_outbox_is_in_the_state_directory_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/private/edge-agent:/var/lib/other")
    assert Config().outbox.path == Path("/var/lib/private/edge-agent/outbox.db")


def test_configuration_can_not_be_changed_once_it_is_valid() -> None:
    with pytest.raises(AttributeError):
        Config().broker.port = 1  # type: ignore[misc]


def sections(section: type[Section]) -> list[type[Section]]:
    found: list[type[Section]] = [section]
    for known in fields(section):
        inner = section_in(known.type, inside_lists=True)
        if inner is not None:
            found += sections(inner)
    return found


def test_every_section_refuses_what_it_does_not_know() -> None:
    assert {section.__name__ for section in sections(Config)} >= {"Broker", "Tls", "Exec", "Disk", "Logging"}
    for section in sections(Config):
        with pytest.raises(ConfigError, match="no_such_key is not a known key"):
            section.of({"no_such_key": None})


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([str(path[-1]) for path, _ in leaves(Config)]) | st.text(max_size=5), inner, max_size=3
        )
    ),
    max_leaves=8,
)
KEYS = st.sampled_from([*Config.__struct_fields__, "collectors", "broker"])


def loads_or_is_refused(file: Path) -> bool:
    try:
        load(file, {})
    except ConfigError as exc:
        return str(exc) != ""
    return True


# Making characters takes long on a machine that has not done it before.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(st.dictionaries(KEYS, JSON, max_size=4))
def test_whatever_the_file_holds_it_loads_or_is_refused_with_a_message(values: dict[str, Any]) -> None:
    file = Path("any.yaml")
    file.write_text(yaml.safe_dump(values))
    assert loads_or_is_refused(file)


@unhurried
@given(st.binary(max_size=60) | st.text(alphabet="abc:{}[]&*!|>-'\"\n #?,", max_size=40).map(str.encode))
def test_whatever_bytes_the_file_holds_it_loads_or_is_refused_with_a_message(data: bytes) -> None:
    file = Path("any.yaml")
    file.write_bytes(data)
    assert loads_or_is_refused(file)


def test_environment_of_this_process_is_not_looked_at() -> None:
    assert "EDGE_AGENT_SITE" not in os.environ
    assert load(None, {"EDGE_AGENT_SITE": "x"}).site == "x"
