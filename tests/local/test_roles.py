from pathlib import Path

import pytest
import yaml

from cloud_ingest import config as cloud_config
from edge_agent import config as edge_config
from telemetry_bridge import roles
from telemetry_bridge.broker import Broker
from telemetry_bridge.roles import Wiring

MOSQUITTO = Broker("mosquitto", ("mosquitto",), protocol="5", shared_subscriptions=True)
AMQTT = Broker("amqtt", ("amqtt",), protocol="3.1.1", shared_subscriptions=False)


def wiring(broker: Broker) -> Wiring:
    return Wiring(broker, 18_830, "postgresql://telemetry@/telemetry?host=%2Fdata%2Fsocket", 8_123, 8_124)


@pytest.mark.parametrize(("broker", "group"), [(MOSQUITTO, "cloud-ingest"), (AMQTT, None)])
def test_cloud_understands_how_it_is_wired(broker: Broker, group: str | None) -> None:
    config = cloud_config.load(None, roles.cloud_part({}, wiring(broker)).environment)
    assert str(config.broker.protocol) == broker.protocol
    assert (config.broker.host, config.broker.port) == ("127.0.0.1", 18_830)
    assert config.ingest.group == group
    assert str(config.ingest.metrics_listen) == "127.0.0.1:8124"
    assert str(config.api.listen) == "127.0.0.1:8123"
    assert config.database_url.get_secret_value() == wiring(broker).database_url


@pytest.mark.parametrize("broker", [MOSQUITTO, AMQTT])
def test_agent_understands_how_it_is_wired(broker: Broker, tmp_path: Path) -> None:
    file = tmp_path / "edge-agent.yaml"
    file.write_text(roles.initial_agent_config("pump house.1"))
    part = roles.agent_part({}, wiring(broker), config=file, outbox=tmp_path / "outbox.db")
    assert part.command[1:] == ("run", "--config", str(file))
    config = edge_config.load(file, part.environment)
    assert config.device == "pump-house.1"
    assert str(config.broker.protocol) == broker.protocol
    assert (config.broker.host, config.broker.port) == ("127.0.0.1", 18_830)
    assert config.outbox.path == tmp_path / "outbox.db"
    assert config.sampling.interval_seconds == 2


@pytest.mark.parametrize(
    ("host", "device"),
    [
        ("raspberrypi.local", "raspberrypi.local"),
        ("ütze", "tze"),
        ("", "this-machine"),
        ("--", "this-machine"),
        ("123", "123"),
        ("no", "no"),
        ("x" * 70, "x" * 64),
    ],
)
def test_any_host_name_gives_a_device(host: str, device: str) -> None:
    assert yaml.safe_load(roles.initial_agent_config(host))["device"] == device


def test_settings_of_another_installation_do_not_leak_in_and_are_named() -> None:
    environ = {
        "CLOUD_INGEST_CONFIG": "/etc/cloud-ingest.yaml",
        "CLOUD_INGEST_DATABASE_URL": "postgresql://production/telemetry",
        "CLOUD_INGEST_BROKER__PASSWORD_FILE": "/etc/secret",
        "CLOUD_INGEST_RETENTION__RAW_HOURS": "12",
        "EDGE_AGENT_BROKER__TLS__CA_FILE": "/etc/ca.pem",
        "EDGE_AGENT_OUTBOX__PATH": "/var/lib/edge-agent/outbox.db",
        "EDGE_AGENT_SITE": "lab",
        "TELEMETRY_BRIDGE_DATABASE_URL": "postgresql://u:secret@h/d",
        "PATH": "/usr/bin",
    }
    assert roles.decided_here(environ) == [
        "CLOUD_INGEST_BROKER__PASSWORD_FILE",
        "CLOUD_INGEST_CONFIG",
        "CLOUD_INGEST_DATABASE_URL",
        "EDGE_AGENT_BROKER__TLS__CA_FILE",
        "EDGE_AGENT_OUTBOX__PATH",
    ]
    cloud = roles.cloud_part(environ, wiring(MOSQUITTO)).environment
    assert cloud_config.load(None, cloud).retention.raw_hours == 12
    assert cloud["CLOUD_INGEST_DATABASE_URL"] == wiring(MOSQUITTO).database_url
    agent = roles.agent_part(environ, wiring(MOSQUITTO), config=Path("c"), outbox=Path("/o")).environment
    assert agent["EDGE_AGENT_SITE"] == "lab"
    assert agent["EDGE_AGENT_OUTBOX__PATH"] == "/o"
    for environment in (cloud, agent):
        assert "production" not in str(environment)
        assert "secret" not in str(environment)
        assert environment["PATH"] == "/usr/bin"


def test_migration_sees_the_same_configuration_as_the_roles() -> None:
    migrate, run = roles.migrate_part({}, wiring(MOSQUITTO)), roles.cloud_part({}, wiring(MOSQUITTO))
    assert migrate.environment == run.environment
    assert (migrate.command[1:], run.command[1:]) == (("migrate",), ("run",))
