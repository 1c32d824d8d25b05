"""The command line of `telemetry-bridge`."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from telemetry_bridge.broker import BrokerChoice
from telemetry_bridge.display import Display
from telemetry_bridge.errors import BridgeError, CannotStart
from telemetry_bridge.load.connections import BrokerAddress
from telemetry_bridge.load.report import described, progress, summary
from telemetry_bridge.load.run import Generator, Load
from telemetry_bridge.stop_request import StopRequest
from telemetry_bridge.up import LocalSystem, Options
from telemetry_contract.topics import IDENTIFIER_PATTERN, is_identifier
from telemetry_contract.version import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Port = Annotated[
    int, typer.Option(min=1, max=65_535, help="Where the dashboard and the REST API listen, on 127.0.0.1.")
]


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer hands a flag's value over by position
    if wanted:
        print(f"telemetry-bridge {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Carry telemetry from edge devices to the cloud; here: all of it on this machine."""


@app.command()
def up(
    *,
    data_dir: Annotated[Path, typer.Option(help="Where everything is kept: database, outbox, logs.")] = Path(
        ".telemetry-bridge"
    ),
    port: Port = 8000,
    agent: Annotated[bool, typer.Option("--agent/--no-agent", help="Measure this machine.")] = True,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="TELEMETRY_BRIDGE_DATABASE_URL",
            show_envvar=True,
            help="Use this PostgreSQL or TimescaleDB instead of starting one. The variable keeps a password out of the "
            "process list.",
        ),
    ] = None,
    broker: Annotated[
        BrokerChoice, typer.Option(help="mosquitto where it is installed, else amqtt.")
    ] = BrokerChoice.AUTO,
    broker_port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="Where the broker listens, on 127.0.0.1. [default: 1883, or a free one]"),
    ] = None,
) -> None:
    """Start a broker, a database, ingest, API and an agent for this machine; Ctrl-C ends them all.

    A later start goes on with the same data. Needs no root, no Docker and no server to be installed.
    """
    options = Options(
        data_dir=data_dir.expanduser().absolute(),
        port=port,
        agent=agent,
        database_url=database_url,
        broker=broker,
        broker_port=broker_port,
    )
    display = Display(Console(highlight=False))
    with StopRequest() as stop:
        code = LocalSystem(options, dict(os.environ), display, stop).run()
    raise typer.Exit(code)


@app.command()
def load(
    *,
    devices: Annotated[int, typer.Option(min=1, max=50_000, help="How many devices connect.")],
    rate: Annotated[float, typer.Option(min=0.001, help="Live samples a second, all devices together.")],
    series: Annotated[int, typer.Option(min=1, max=10_000, help="Samples a reading.")] = 60,
    seconds: Annotated[float, typer.Option(min=0.1, max=86_400, help="How long they send.")] = 60,
    backlog_hours: Annotated[
        float, typer.Option(min=0, max=720, help="Each device comes back from an outage of so many hours.")
    ] = 0,
    settle_seconds: Annotated[
        float, typer.Option(min=0, max=3_600, help="How long to wait for the last confirmations.")
    ] = 60,
    confirm_timeout_seconds: Annotated[
        float, typer.Option(min=1, max=600, help="What is not confirmed by then is sent again.")
    ] = 30,
    host: Annotated[str, typer.Option(help="The broker.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535)] = 1883,
    username: Annotated[str | None, typer.Option()] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="A file whose first line is the password.", exists=True, dir_okay=False)
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Encrypt, and trust the authorities of this file.", exists=True, dir_okay=False)
    ] = None,
    site: Annotated[str, typer.Option(help="The site under which the devices appear.")] = "load",
    name: Annotated[str, typer.Option(help="What the devices are called: NAME-00000 and so on.")] = "load",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Send what so many devices would, over as many MQTT connections, and tell when the cloud has committed it.

    The devices are new ones in your own database, and stay there as long as their readings are kept. Exit code 0: all
    that was sent was committed; 1: not all of it.
    """
    try:
        password = (
            None if password_file is None else password_file.read_text("utf-8").partition("\n")[0].removesuffix("\r")
        )
    except (OSError, UnicodeDecodeError) as exc:
        raise CannotStart(f"{password_file} can't be read: {exc}") from exc
    if not (is_identifier(site) and is_identifier(f"{name}-00000")):
        raise CannotStart(f"--site and --name must match {IDENTIFIER_PATTERN}, with room for a number in the name")
    broker = BrokerAddress(host, port, username, password, None if ca_file is None else str(ca_file))
    wanted = Load(site, name, devices, series, rate, seconds, backlog_hours, settle_seconds, confirm_timeout_seconds)
    display = Display(Console(highlight=False, stderr=as_json))
    display.line(described(wanted))
    with StopRequest() as stop:
        report = Generator(wanted, broker, stopped=lambda: stop.requested).run(
            lambda so_far: display.current(progress(so_far, wanted))
        )
    display.end_current()
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        for line in summary(report, wanted):
            display.line(line)
    raise typer.Exit(0 if report.complete else 1)


def main() -> None:
    """Entry point; what keeps the system from running is a message and an exit code."""
    try:
        app()
    except BridgeError as exc:
        print(f"telemetry-bridge: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    main()
