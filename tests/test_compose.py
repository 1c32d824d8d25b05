"""What docker-compose.yml, the Dockerfile and mosquitto.conf promise, checked without a Docker daemon."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import yaml
from harness.absence import Absent, skip_or_fail
from harness.processes import Process
from harness.wait import until
from paho.mqtt.enums import CallbackAPIVersion
from psycopg.conninfo import conninfo_to_dict

from cloud_ingest import config as cloud_config
from edge_agent import config as edge_config

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
MOSQUITTO_CONF = ROOT / "mosquitto" / "mosquitto.conf"

AWKWARD_PASSWORD = "p@ss/w:rd?#%"  # noqa: S105 - of no database
PROGRAMS = {"edge": "edge-agent", "cloud": "cloud-ingest"}


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """`text` with ${NAME}, ${NAME:-default}, ${NAME:?message} and $$ resolved as the Compose Specification says."""

    def resolve(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, operator, word = match["name"], match["operator"], match["word"]
        if variables.get(name):
            return variables[name]
        if operator == ":-":
            return word
        raise KeyError(f"{name}: {word}")

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?:(?P<operator>:-|:\?)(?P<word>[^}]*))?\}", resolve, text)


def compose(**variables: str) -> dict[str, Any]:
    document = yaml.safe_load(interpolated(COMPOSE.read_text(), {"POSTGRES_PASSWORD": AWKWARD_PASSWORD} | variables))
    assert isinstance(document, dict)
    return document


def own_services() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in compose()["services"].items() if "build" in service}


def instructions(stage: str) -> list[str]:
    """The instructions of one stage of the Dockerfile."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)
    found = [part for part in stages if re.match(rf"\S+ AS {re.escape(stage)}\n", part)]
    assert len(found) == 1, f"stage {stage}"
    return [re.sub(r"\s+", " ", line).strip() for line in found[0].splitlines()[1:] if line.strip()]


def test_compose_file_follows_the_specification() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_part_is_a_service() -> None:
    assert set(compose()["services"]) == {"mosquitto", "timescaledb", "migrate", "ingest", "api", "worker", "agent"}


def test_a_password_must_be_chosen() -> None:
    with pytest.raises(KeyError, match="choose a password"):
        compose(POSTGRES_PASSWORD="")


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:1883:1883", "127.0.0.1:8000:8000"]


def test_images_of_others_are_pinned_to_a_version() -> None:
    images = [service["image"] for service in compose()["services"].values() if "build" not in service]
    assert len(images) == 2
    for image in images:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+(-pg\d+)?", image), image


@pytest.mark.parametrize("name", own_services())
def test_command_exists(name: str) -> None:
    service = own_services()[name]
    target = service["build"]["target"]
    entry = next(line for line in instructions(target) if line.startswith("ENTRYPOINT"))
    assert entry == f'ENTRYPOINT ["{PROGRAMS[target]}"]'
    default = next(line for line in instructions(target) if line.startswith("CMD"))
    words = service.get("command") or yaml.safe_load(default.removeprefix("CMD "))
    program = Path(sys.executable).with_name(PROGRAMS[target])
    done = subprocess.run([program, *words, "--help"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", own_services())
def test_environment_is_a_valid_configuration(name: str) -> None:
    service = own_services()[name]
    services = compose()["services"]
    environment: dict[str, str] = service["environment"]
    if service["build"]["target"] == "edge":
        edge = edge_config.load(None, environment)
        assert edge.broker.host in services
        mounts = [volume.split(":")[1] for volume in service["volumes"]]
        assert str(edge.outbox.path.parent) in mounts
        return
    cloud = cloud_config.load(None, environment)
    assert cloud.broker.host in services
    connection = conninfo_to_dict(cloud.database_url.get_secret_value())
    database = services[str(connection["host"])]["environment"]
    assert connection["user"] == database["POSTGRES_USER"]
    assert connection["dbname"] == database["POSTGRES_DB"]
    assert environment["PGPASSWORD"] == database["POSTGRES_PASSWORD"] == AWKWARD_PASSWORD


def test_published_api_port_is_the_one_it_listens_on() -> None:
    api = own_services()["api"]
    listen = cloud_config.load(None, api["environment"]).api.listen
    assert not listen.is_loopback
    assert "--insecure" in api["command"]
    assert [port.rpartition(":")[2] for port in api["ports"]] == [str(listen.port)]
    assert f"http://127.0.0.1:{listen.port}/readiness" in api["healthcheck"]["test"][-1]


def test_ingest_is_asked_for_its_health_where_it_answers() -> None:
    ingest = own_services()["ingest"]
    listen = cloud_config.load(None, ingest["environment"]).ingest.metrics_listen
    assert listen is not None
    assert f"http://{listen}/metrics" in ingest["healthcheck"]["test"][-1]


def test_roles_start_after_the_schema_is_there() -> None:
    services = compose()["services"]
    assert services["migrate"]["depends_on"]["timescaledb"]["condition"] == "service_healthy"
    for role in ("ingest", "api", "worker"):
        assert services[role]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    for service in services.values():
        for name, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_healthy":
                assert "healthcheck" in services[name], f"{name} has no health to wait for"


def test_named_volumes_are_declared() -> None:
    document = compose()
    sources = {
        volume.split(":")[0] for service in document["services"].values() for volume in service.get("volumes", [])
    }
    assert {source for source in sources if not source.startswith("./")} == set(document["volumes"])
    assert all((ROOT / source).is_file() for source in sources if source.startswith("./"))


@pytest.mark.parametrize("target", PROGRAMS)
def test_images_run_as_an_ordinary_user_with_hashed_requirements(target: str) -> None:
    assert "USER telemetry" in instructions(target)
    for stage, name in (("build", "build"), (f"build-{target}", target)):
        installs = [line for line in instructions(stage) if re.match(r"RUN pip .*install", line)]
        assert len(installs) == 1
        assert f"install --require-hashes -r requirements/{name}.txt" in installs[0]
        assert "--hash=sha256:" in (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "pip wheel --no-deps --no-build-isolation" in " ".join(instructions("build"))


def test_image_is_built_from_every_package_and_from_what_the_context_holds() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    copied = {
        word.rstrip("/")
        for line in instructions("build")
        if line.startswith("COPY")
        for word in shlex.split(line)[1:-1]
    }
    assert packages <= copied
    ignore = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert copied == {line[1:].rstrip("/") for line in ignore if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


def test_mosquitto_accepts_its_configuration(
    tmp_path: Path, free_port: Callable[[], int], new_process: Callable[..., Process]
) -> None:
    program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if program is None:
        skip_or_fail(Absent("mosquitto is not installed"))
    port = free_port()
    text = MOSQUITTO_CONF.read_text()
    for line, here in (
        ("listener 1883\n", f"listener {port} 127.0.0.1\n" + ("user root\n" if os.geteuid() == 0 else "")),
        ("persistence_location /mosquitto/data/\n", f"persistence_location {tmp_path}/\n"),
    ):
        assert text.count(line) == 1
        text = text.replace(line, here)
    config = tmp_path / "mosquitto.conf"
    config.write_text(text)
    process = new_process([program, "-c", config])
    process.start()
    until(lambda: " running" in process.output() or not process.running, 10, "mosquitto to run")
    assert process.running, process.output()
    retain(port, "telemetry/v1/s/d/status", b"{}")
    process.terminate()
    assert process.wait(10) == 0
    complaints = re.findall(r"(?:Error|Warning): .*", process.output())
    assert [it for it in complaints if "run as root" not in it] == []

    process.start()
    until(lambda: process.output().count(" running") == 2, 10, "mosquitto to run again")
    assert retained(port, "telemetry/v1/+/+/status") == b"{}"


def retain(port: int, topic: str, payload: bytes) -> None:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.publish(topic, payload, qos=1, retain=True).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def retained(port: int, topic_filter: str) -> bytes:
    """The first retained message that matches."""
    received: SimpleQueue[bytes] = SimpleQueue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _userdata, message: received.put(bytes(message.payload))
    client.connect("127.0.0.1", port)
    client.subscribe(topic_filter, qos=1)
    client.loop_start()
    payload = received.get(timeout=10)
    client.disconnect()
    client.loop_stop()
    return payload
