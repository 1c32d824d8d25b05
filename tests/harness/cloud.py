"""The cloud's roles under test as processes."""

import sys
from pathlib import Path

from harness.broker import Mosquitto
from harness.processes import Process


def role(name: str, directory: Path, broker: Mosquitto, database_url: str, **settings: str) -> Process:
    """`cloud-ingest NAME`, not started. `settings` are environment names without their prefix."""
    environ = {
        "CLOUD_INGEST_DATABASE_URL": database_url,
        "CLOUD_INGEST_BROKER__HOST": broker.host,
        "CLOUD_INGEST_BROKER__PORT": str(broker.port),
        **{f"CLOUD_INGEST_{key}": value for key, value in settings.items()},
    }
    directory.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name("cloud-ingest")
    return Process([program, name], environ, log=directory / f"{name}.log")
