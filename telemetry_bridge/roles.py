"""The agent and the cloud roles as parts: their commands, and the variables that wire them to the local servers.

`up` decides how they reach the servers and where they keep their data. Whatever else the user has set in
`CLOUD_INGEST_*` and `EDGE_AGENT_*` is passed on.
"""

import platform
import re
import signal
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from telemetry_bridge.broker import Broker
from telemetry_bridge.child import Part
from telemetry_bridge.ending import Ending
from telemetry_bridge.errors import CannotStart
from telemetry_bridge.ports import LOOPBACK

# Variables that `up` decides alone, also by leaving them out: another broker's password file must not reach ours.
_DECIDED_HERE = re.compile(
    r"(CLOUD_INGEST|EDGE_AGENT)_BROKER__.*"
    r"|CLOUD_INGEST_(CONFIG|DATABASE_URL|INGEST__GROUP|INGEST__METRICS_LISTEN|API__LISTEN)"
    r"|EDGE_AGENT_(CONFIG|OUTBOX__PATH)"
)

_AGENT_CONFIG = """\
# The agent of this machine, as `telemetry-bridge up` starts it. This file was made by the first start and is yours now:
# add collectors here and start again. How to reach the broker and where the outbox lies is decided by the command.
device: {device}
sampling:
  interval_seconds: 2
status:
  listen: null  # this machine may have an agent of its own, which tells of itself at the usual port
"""


@dataclass(frozen=True)
class Wiring:
    """What the roles have to know about each other and about the servers."""

    broker: Broker
    broker_port: int
    database_url: str
    api_port: int
    ingest_metrics_port: int


def decided_here(environ: Mapping[str, str]) -> list[str]:
    """The variables in the user's environment that have no effect here."""
    return sorted(name for name in environ if _DECIDED_HERE.fullmatch(name))


def migrate_part(environ: Mapping[str, str], wiring: Wiring) -> Part:
    """Bring the schema up to date; ends by itself."""
    return Part("schema", (_program("cloud-ingest"), "migrate"), _cloud_environment(environ, wiring))


def cloud_part(environ: Mapping[str, str], wiring: Wiring) -> Part:
    """Ingest, API and worker under their supervisor."""
    # Its supervisor gives the roles 20 s before it kills them.
    ending = Ending(signal.SIGTERM, grace_seconds=25)
    return Part("cloud", (_program("cloud-ingest"), "run"), _cloud_environment(environ, wiring), ending)


def agent_part(environ: Mapping[str, str], wiring: Wiring, *, config: Path, outbox: Path) -> Part:
    """The agent of this machine."""
    environment = _undecided(environ) | {
        "EDGE_AGENT_BROKER__HOST": LOOPBACK,
        "EDGE_AGENT_BROKER__PORT": str(wiring.broker_port),
        "EDGE_AGENT_BROKER__PROTOCOL": wiring.broker.protocol,
        "EDGE_AGENT_OUTBOX__PATH": str(outbox),
    }
    command = (_program("edge-agent"), "run", "--config", str(config))
    return Part("agent", command, environment, Ending(signal.SIGTERM, grace_seconds=15))


def initial_agent_config(host_name: str) -> str:
    """The agent's settings for the first start.

    The device's name is written down then, so that the same outbox keeps it when the host name changes.
    """
    device = re.sub(r"[^A-Za-z0-9_.-]+", "-", host_name).strip("-.")[:64]
    return _AGENT_CONFIG.format(device=f'"{device or "this-machine"}"')


def this_host() -> str:
    """The host name."""
    return platform.node()


def _cloud_environment(environ: Mapping[str, str], wiring: Wiring) -> dict[str, str]:
    return _undecided(environ) | {
        "CLOUD_INGEST_DATABASE_URL": wiring.database_url,
        "CLOUD_INGEST_BROKER__HOST": LOOPBACK,
        "CLOUD_INGEST_BROKER__PORT": str(wiring.broker_port),
        "CLOUD_INGEST_BROKER__PROTOCOL": wiring.broker.protocol,
        "CLOUD_INGEST_INGEST__GROUP": "cloud-ingest" if wiring.broker.shared_subscriptions else "null",
        "CLOUD_INGEST_INGEST__METRICS_LISTEN": f"{LOOPBACK}:{wiring.ingest_metrics_port}",
        "CLOUD_INGEST_API__LISTEN": f"{LOOPBACK}:{wiring.api_port}",
    }


def _undecided(environ: Mapping[str, str]) -> dict[str, str]:
    ours = "TELEMETRY_BRIDGE_"  # a database's password among them
    return {
        name: value for name, value in environ.items() if not (_DECIDED_HERE.fullmatch(name) or name.startswith(ours))
    }


def _program(name: str) -> str:
    """A console script of this installation."""
    for directory in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (directory / name).exists():
            return str(directory / name)
    raise CannotStart(f"{name} is not installed beside {sys.executable}; install telemetry-bridge[local] there")
