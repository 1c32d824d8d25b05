"""The MQTT broker: mosquitto where there is one, otherwise the one written in Python."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from telemetry_bridge.child import Part
from telemetry_bridge.errors import CannotStart
from telemetry_bridge.ports import LOOPBACK

# Where packages put it although not every user's PATH leads there.
_USUAL_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")

_MOSQUITTO_CONFIG = """\
# Written by `telemetry-bridge up` at each start. Only this machine can connect.
listener {port} {address}
allow_anonymous true
# What the broker forgets, the agent's outbox sends again until the database has it.
persistence false
max_queued_messages 0
log_dest stderr
"""


class BrokerChoice(StrEnum):
    """Which broker to start."""

    AUTO = "auto"
    MOSQUITTO = "mosquitto"
    AMQTT = "amqtt"


@dataclass(frozen=True)
class Broker:
    """A broker to start, and how its clients must speak to it."""

    name: str
    command: tuple[str, ...]
    protocol: str
    shared_subscriptions: bool

    def part(self, environ: Mapping[str, str]) -> Part:
        """The broker as a child process."""
        return Part(name="broker", command=self.command, environment=dict(environ))


def choose(choice: BrokerChoice, *, port: int, config: Path, environ: Mapping[str, str]) -> Broker:
    """The broker to start on `port`; `config` is where mosquitto's configuration is written.

    Raises CannotStart where the chosen one is not installed.
    """
    mosquitto = None if choice is BrokerChoice.AMQTT else _find_mosquitto(environ)
    if mosquitto is not None:
        config.write_text(_MOSQUITTO_CONFIG.format(port=port, address=LOOPBACK), encoding="utf-8")
        return Broker("mosquitto", (mosquitto, "-c", str(config)), protocol="5", shared_subscriptions=True)
    if choice is BrokerChoice.MOSQUITTO:
        raise CannotStart("mosquitto is not on PATH; install it (apt-get install mosquitto) or leave --broker out")
    if importlib.util.find_spec("amqtt") is None:
        raise CannotStart(
            "there is no MQTT broker to start: install mosquitto (apt-get install mosquitto), "
            "or the Python one with `pip install 'telemetry-bridge[local]'`"
        )
    command = (sys.executable, "-P", "-m", "telemetry_bridge.amqtt_broker", str(port))
    return Broker("amqtt", command, protocol="3.1.1", shared_subscriptions=False)


def _find_mosquitto(environ: Mapping[str, str]) -> str | None:
    path = os.pathsep.join([environ.get("PATH", os.defpath), *_USUAL_DIRECTORIES])
    return shutil.which("mosquitto", path=path)
