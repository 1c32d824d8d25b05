"""The cloud's configuration: what is read, and what a person is told about what can't be."""

import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cloud_ingest.config import Address, Config, Tls, is_loopback, load, parse_address
from cloud_ingest.errors import ConfigError

URL = "postgresql://telemetry:secret-word@db.example/telemetry"
DATABASE = {"CLOUD_INGEST_DATABASE_URL": URL}
SAMPLE = Path(__file__).parents[2] / "deploy" / "cloud-ingest.yaml"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "cloud.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(file: Path | None, environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as told:
        load(file, environ)
    assert "secret-word" not in str(told.value)
    return str(told.value)


# The sample


def test_the_sample_holds_every_key_with_its_default() -> None:
    sample = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    defaults = Config.model_validate({"database_url": sample["database_url"]}).model_dump(mode="json")
    assert sample | {"database_url": None} == defaults | {"database_url": None}


def test_the_sample_can_be_used() -> None:
    assert load(SAMPLE, {}) == load(
        None, {"CLOUD_INGEST_DATABASE_URL": "postgresql://telemetry@localhost:5432/telemetry"}
    )


def test_the_file_that_the_sample_shows_for_tls_is_what_the_section_takes() -> None:
    (line,) = [it for it in SAMPLE.read_text(encoding="utf-8").splitlines() if it.strip().startswith("# tls:")]
    shown = yaml.safe_load(line.strip().removeprefix("# "))["tls"]
    assert set(shown) == set(Tls.model_fields)


# What is read


def test_the_environment_goes_over_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        f"database_url: {URL}\nbroker: {{host: from-file, port: 1884, tls: null}}\ningest: {{group: from-file}}\n",
    )
    config = load(
        file,
        {
            "CLOUD_INGEST_BROKER__HOST": "from-environment",
            "CLOUD_INGEST_BROKER__TLS__CA_FILE": "ca.pem",
            "CLOUD_INGEST_INGEST__GROUP": "null",
            "CLOUD_INGEST_WORKER__INTERVAL_SECONDS": "",
            "CLOUD_INGEST_API__LISTEN": "[::1]:80",
            "UNRELATED": "x",
        },
    )
    assert (config.broker.host, config.broker.port) == ("from-environment", 1884)
    assert config.broker.tls == Tls(ca_file=Path("ca.pem"))
    assert config.ingest.group is None
    assert config.worker.interval_seconds == 60
    assert config.api.listen == Address("::1", 80)


def test_every_key_can_be_set_in_the_environment() -> None:
    sample = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))

    def variables(section: dict[str, Any], prefix: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for key, value in section.items():
            name = f"{prefix}{key.upper()}"
            text = "null" if value is None else str(value)
            found |= variables(value, f"{name}__") if isinstance(value, dict) else {name: text}
        return found

    assert load(None, variables(sample, "CLOUD_INGEST_")) == load(SAMPLE, {})


def test_a_variable_names_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "broker: {port: 1}\n")
    assert load(None, DATABASE | {"CLOUD_INGEST_CONFIG": str(file)}).broker.port == 1
    assert load(SAMPLE, {"CLOUD_INGEST_CONFIG": "/nowhere"}).broker.port == 1883


@pytest.mark.parametrize(("written", "protocol"), [("5", 5), ("3.1.1", "3.1.1")])
def test_the_protocol_is_the_same_from_file_and_environment(tmp_path: Path, written: str, protocol: int | str) -> None:
    file = write(tmp_path, f"broker: {{protocol: {written}}}\ningest: {{group: null}}\n")
    assert load(file, DATABASE).broker.protocol == protocol
    environ = {"CLOUD_INGEST_BROKER__PROTOCOL": written, "CLOUD_INGEST_INGEST__GROUP": "null"}
    assert load(None, DATABASE | environ).broker.protocol == protocol


def test_the_database_url_is_never_printed() -> None:
    config = load(None, DATABASE)
    assert "secret-word" not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"
    assert config.database_url.get_secret_value() == URL


def test_the_configuration_does_not_change() -> None:
    config = load(None, DATABASE)
    for section in (config, config.broker, config.ingest, config.retention, config.worker, config.api, config.logging):
        name = next(iter(type(section).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, getattr(section, name))


# What is refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "broker:\n  port: 70000\n",
            "broker.port must be less than or equal to 65535, got 70000 (FILE line 2)",
        ),
        (
            "broker:\n  host: x\n  hots: x\n",
            "broker.hots is not a known key; did you mean broker.host? (FILE line 3)",
        ),
        ("brokers: {}\n", "brokers is not a known key; did you mean broker? (FILE line 1)"),
        ("broker: {protocol: 4}\n", "broker.protocol must be 5 or '3.1.1', got 4 (FILE line 1)"),
        ("broker: {host: ''}\n", "broker.host must not be empty, got '' (FILE line 1)"),
        ("broker: {tls: {ca_file: 3}}\n", "broker.tls.ca_file must be the path of a file, got 3 (FILE line 1)"),
        (
            "broker:\n  tls:\n    certificate_file: x\n",
            "broker.tls certificate_file and key_file belong together: set both or neither (FILE line 2)",
        ),
        ("broker: {password_file: x}\n", "broker password_file needs a username (FILE line 1)"),
        (
            "broker: {protocol: 3.1.1}\n",
            "ingest.group must be null with broker.protocol 3.1.1, which has no shared subscriptions",
        ),
        (
            "ingest: {group: a/b}\n",
            "ingest.group must be 1 to 128 characters without / + # and control characters, got 'a/b' (FILE line 1)",
        ),
        (
            "retention:\n  raw_hours: 200\n",
            "retention rollup_5m_days 7 must not be shorter than raw_hours 200 (FILE line 1)",
        ),
        (
            "retention:\n  rollup_1d_days: 29\n",
            "retention rollup_1d_days 29 must not be shorter than rollup_1h_days 30 (FILE line 1)",
        ),
        ("ingest:\n  batch_rows: many\n", "ingest.batch_rows must be a whole number, got 'many' (FILE line 2)"),
        ("ingest: {batch_rows: 1.5}\n", "ingest.batch_rows must be a whole number, got 1.5 (FILE line 1)"),
        (
            "worker: {interval_seconds: .nan}\n",
            "worker.interval_seconds must be a finite number, got nan (FILE line 1)",
        ),
        ("worker: 5\n", "worker must be a section: keys and values below it, got 5 (FILE line 1)"),
        (
            "api: {listen: 8000}\n",
            "api.listen must be HOST:PORT, for example 127.0.0.1:8000 or [::1]:8000, got 8000 (FILE line 1)",
        ),
        (
            "logging: {level: debug}\n",
            "logging.level must be 'DEBUG', 'INFO', 'WARNING' or 'ERROR', got 'debug' (FILE line 1)",
        ),
        ("api: {}\n\napi: {}\n", "api is given twice (FILE line 1 and line 3)"),
        ("broker: {port: 1, port: 2}\n", "broker.port is given twice (FILE line 1 and line 1)"),
        ("- a\n", "FILE line 1: expected `key: value` lines"),
        ("a: [\n", "FILE line 2: not valid YAML: expected the node content, but found '<stream end>'"),
        ("a: &x {b: *x}\n", "a is not a known key (FILE line 1)"),
        ("5: x\n", "5 is not a known key (FILE line 1)"),
    ],
)
def test_a_problem_is_told_with_key_value_and_line(tmp_path: Path, text: str, expected: str) -> None:
    file = write(tmp_path, text)
    assert refusal(file, DATABASE) == expected.replace("FILE", str(file))


def test_a_problem_in_the_environment_names_the_variable() -> None:
    environ = DATABASE | {"CLOUD_INGEST_BROKER__PORT": "x", "CLOUD_INGEST_BROKER_HOST": "y"}
    assert refusal(None, environ).splitlines() == [
        "broker.port must be a whole number, got 'x' (CLOUD_INGEST_BROKER__PORT)",
        "broker_host is not a known key; did you mean broker? (CLOUD_INGEST_BROKER_HOST)",
    ]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, "broker: {port: 0}\nretention: {raw_hours: 0}\nx: 1\n")
    assert len(refusal(file, {}).splitlines()) == 4


def test_a_missing_database_is_told_with_both_ways_to_name_it() -> None:
    assert refusal(None, {}) == (
        "database_url is missing: set CLOUD_INGEST_DATABASE_URL or write it in the configuration file"
    )


@pytest.mark.parametrize(
    "url",
    [
        "mysql://x:secret-word@h/d",
        "host=h password=secret-word",
        "postgresql://u:secret-word@[h/d",
        "postgresql://u@h/d?nonsense=secret-word",
        "postgresql://u@h:port-secret-word/d",
        "secret-word",
    ],
)
def test_a_database_url_that_cannot_be_used_is_refused_without_being_repeated(url: str) -> None:
    told = refusal(None, {"CLOUD_INGEST_DATABASE_URL": url})
    assert (
        told == "database_url must be a URL like postgresql://USER:PASSWORD@HOST:5432/NAME (CLOUD_INGEST_DATABASE_URL)"
    )


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml", {}).endswith("none.yaml: No such file or directory")
    assert refusal(tmp_path, {}).endswith(": Is a directory")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in refusal(binary, {})


@given(
    st.text()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda it: st.lists(it) | st.dictionaries(st.text(), it)
    ).map(yaml.safe_dump)
)
def test_no_file_does_worse_than_be_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = write(tmp_path_factory.mktemp("config"), text.encode("utf-8", "replace").decode())
    try:
        load(file, DATABASE)
    except ConfigError as exc:
        assert str(exc)  # noqa: PT017 - an empty file is fine


# Addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:65535", ("::1", 65535)), ("localhost:80", ("localhost", 80))],
)
def test_addresses_are_read_and_written_alike(text: str, expected: tuple[str, int]) -> None:
    address = parse_address(text)
    assert (address.host, address.port) == expected
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", ":80", "localhost", "localhost:", "::1:80", "h:65536", "h:-1", "h:²", "h: 80", 80]
)
def test_what_is_no_address_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("LocalHost", True),
     ("0.0.0.0", False), ("::", False), ("192.0.2.1", False), ("example.org", False), ("", False)],  # noqa: S104 - nothing listens there
)  # fmt: skip
def test_loopback_is_this_machine_alone(host: str, expected: bool) -> None:  # noqa: FBT001 - a parameter
    assert is_loopback(host) is expected


# The files that the broker section names


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    environ = {"CLOUD_INGEST_BROKER__USERNAME": "u", "CLOUD_INGEST_BROKER__PASSWORD_FILE": str(file)}
    broker = load(None, DATABASE | environ).broker
    with pytest.raises(ConfigError, match=r"broker\.password_file .*: No such file"):
        broker.password()
    file.write_bytes("pass wörd \r\nsecond line\n".encode())
    assert broker.password() == "pass wörd "
    assert load(None, DATABASE).broker.password() is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate and its key, made by OpenSSL's program."""
    directory = tmp_path_factory.mktemp("certificate")
    paths = directory / "certificate.pem", directory / "key.pem"
    subject = ["-subj", "/CN=test", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-nodes", *subject, "-keyout", paths[1], "-out", paths[0]],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs the program openssl")
    return paths


def test_a_context_is_made_of_the_files(certificate: tuple[Path, Path]) -> None:
    made, key = certificate
    context = Tls(ca_file=made, certificate_file=made, key_file=key).context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.cert_store_stats()["x509"] == 1
    assert Tls().context().verify_mode is ssl.CERT_REQUIRED


def test_tls_files_that_cannot_be_used_are_told(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    made, key = certificate
    empty = tmp_path / "empty.pem"
    empty.touch()
    protected = tmp_path / "protected.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", protected],
        check=True,
        capture_output=True,
    )
    for tls, message in [
        (Tls(ca_file=tmp_path / "none"), r"broker\.tls\.ca_file .*/none: No such file"),
        (Tls(ca_file=empty), r"broker\.tls\.ca_file .*/empty\.pem: "),
        (Tls(certificate_file=made, key_file=empty), r"certificate_file .* with key_file .*: "),
        (Tls(certificate_file=made, key_file=protected), r"key_file .*: the key is protected by a passphrase"),
    ]:
        with pytest.raises(ConfigError, match=message):
            tls.context()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{format: influx, topics: []}", "sources.telegraf.topics"),
        ("{format: influx, topics: [a], device: {topic_level: 0}}", "sources.telegraf.device.topic_level"),
        ("{format: avro, topics: [a]}", "sources.telegraf has a format that is not known"),
        ("{topics: [a]}", "sources.telegraf has no format"),
        ("{format: influx, topics: [a], topic: b}", "sources.telegraf.topic is not a known key"),
    ],
)
def test_source_that_can_not_be_used_is_named_with_its_key(tmp_path: Path, source: str, told: str) -> None:
    text = refusal(write(tmp_path, f"database_url: {URL}\nsources:\n  telegraf: {source}\n"), {})
    assert told in text
    assert "line 3" in text


@pytest.mark.parametrize(
    ("receiver", "told"),
    [
        ("{type: pigeon}", "ops has a type that is not known: it must be webhook, email, alertmanager or apprise"),
        ("{url: 'https://h'}", "ops has no type: it must be webhook, email, alertmanager or apprise"),
        ("{type: webhook}", "ops must have one of url and url_file"),
        ("{type: webhook, url: 'ftp://h/secret-word'}", "ops.url must be a URL like https://host.example/path"),
        ("{type: webhook, url: 'https://h/secret-word', link: 1}", "ops.link is not a known key"),
        ("{type: webhook, url: 'https://h', group_by: [color]}", "ops.group_by.0 must be 'site', 'device',"),
        (
            "{type: webhook, url: 'https://h', match: {min_severity: bad}}",
            "ops.match.min_severity must be 'warning' or",
        ),
        ("{type: webhook, url: 'https://h', rate_limit: {messages: 0, seconds: 1}}", "ops.rate_limit.messages must be"),
        ("{type: email, host: h, sender: me, to: [a@b]}", "ops.sender must be an address like alerts@example.org"),
        ("{type: email, host: h, sender: a@b, to: []}", "ops.to "),
        ("{type: email, host: h, sender: a@b, to: [a@b], username: u, security: none}", "ops must be starttls or tls"),
        ("{type: apprise}", "ops.url_file is missing"),
    ],
)
def test_receiver_that_can_not_be_used_is_named_with_its_key(tmp_path: Path, receiver: str, told: str) -> None:
    file = write(tmp_path, f"database_url: {URL}\nnotifications:\n  receivers:\n    ops: {receiver}\n")
    text = refusal(file, {})
    assert f"notifications.receivers.{told}" in text
    assert "line 4" in text or "is missing" in text


def test_the_receivers_that_the_sample_shows_are_what_the_section_takes() -> None:
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    start = lines.index("  # receivers:")
    shown = []
    for line in lines[start:]:
        if not line.startswith("  #"):
            break
        shown.append(line.removeprefix("  # "))
    receivers = yaml.safe_load("\n".join(shown))["receivers"]
    config = load(None, DATABASE)
    changed = Config.model_validate(
        {"database_url": URL, "notifications": {**config.notifications.model_dump(), "receivers": receivers}}
    )
    by_type = {it.type: it for it in changed.notifications.receivers.values()}
    assert set(by_type) == {"webhook", "email", "alertmanager", "apprise"}
    # Of each type the sample has every key, but that of which it shows the other, and what all receivers have
    common = {"match", "group_by", "group_wait_seconds", "rate_limit"}
    everything = [set(type(it).model_fields) - common - {"url_file"} for it in by_type.values()]
    for keys, receiver in zip(everything, receivers.values(), strict=True):
        missing = (
            keys - set(receiver) - ({"secret_file", "allow_private"} if receiver["type"] == "alertmanager" else set())
        )
        assert not missing
    assert common <= set(receivers["operations"])
