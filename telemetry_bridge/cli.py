"""The command line of `telemetry-bridge`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from telemetry_bridge.broker import BrokerChoice
from telemetry_bridge.display import Display
from telemetry_bridge.errors import BridgeError
from telemetry_bridge.stop_request import StopRequest
from telemetry_bridge.up import LocalSystem, Options
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


def main() -> None:
    """Entry point; what keeps the system from running is a message and an exit code."""
    try:
        app()
    except BridgeError as exc:
        print(f"telemetry-bridge: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    main()
