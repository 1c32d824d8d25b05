"""The command line `cloud-ingest`.

Exit codes: 0 done or stopped as told, 1 something outside failed, 2 the configuration or the command is wrong.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml

from cloud_ingest import log
from cloud_ingest.api import times
from cloud_ingest.config import Config, load
from cloud_ingest.errors import CloudError, ConfigError
from cloud_ingest.stopping import stop_on_signals, stop_with_stdin
from cloud_ingest.store.database import Connection, connect, translated
from cloud_ingest.terminal import printable
from telemetry_contract.version import __version__

logger = logging.getLogger("cloud_ingest.cli")  # also where this module is `__main__`

app = typer.Typer(
    name="cloud-ingest",
    help="The cloud side of the telemetry bridge: from the broker into the database, and out again over REST.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
rejected_app = typer.Typer(help="Messages that could not be stored.", no_args_is_help=True)
app.add_typer(rejected_app, name="rejected")
notifications_app = typer.Typer(help="What is told to receivers, and what nobody took.", no_args_is_help=True)
app.add_typer(notifications_app, name="notifications")
thresholds_app = typer.Typer(help="What is worth telling somebody.", no_args_is_help=True)
app.add_typer(thresholds_app, name="thresholds")

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="A YAML file; CLOUD_INGEST_CONFIG names one too. CLOUD_INGEST_* variables go over it."
    ),
]
Reason = Annotated[str | None, typer.Option(help="Only those that were rejected for this reason.")]
Device = Annotated[str | None, typer.Option(help="Only those of this device.")]
Since = Annotated[
    str | None, typer.Option(help="Only those received since: 2026-11-20T23:39:00Z, or an offset from now like -2h.")
]
Receiver = Annotated[str | None, typer.Option(help="Only those to this receiver.")]
DeliveryState = Literal["waiting", "sent", "dead"]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Let the API listen where other machines reach it: it asks nobody for a key.")
]
UntilStdinCloses = Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)]


def main() -> None:
    """The console script."""
    app()


@app.callback(invoke_without_command=True)
def _root(*, version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def migrate(config_file: ConfigFile = None) -> None:
    """Bring the database to the schema of this version."""
    from cloud_ingest.store.migrate import migrate as apply  # noqa: PLC0415 - each command loads what it needs

    with _told_to_people():
        applied = apply(load(config_file, os.environ).database_url.get_secret_value())
        for name in applied:
            print(f"applied {name}")
        if not applied:
            print("the schema is current")


@app.command()
def ingest(config_file: ConfigFile = None, *, until_stdin_closes: UntilStdinCloses = False) -> None:
    """Store what devices publish."""
    from cloud_ingest.ingest.main import run  # noqa: PLC0415

    _run_role("ingest", run, config_file, until_stdin_closes=until_stdin_closes)


@app.command()
def api(
    config_file: ConfigFile = None, *, insecure: Insecure = False, until_stdin_closes: UntilStdinCloses = False
) -> None:
    """Serve REST, the live page, health and metrics."""
    from cloud_ingest.api.main import run  # noqa: PLC0415

    def run_api(config: Config, stop: threading.Event) -> int:
        return run(config, stop, insecure=insecure)

    _run_role("api", run_api, config_file, until_stdin_closes=until_stdin_closes)


@app.command()
def worker(config_file: ConfigFile = None, *, until_stdin_closes: UntilStdinCloses = False) -> None:
    """Keep the device states, partitions and retention."""
    from cloud_ingest.worker.main import run  # noqa: PLC0415

    _run_role("worker", run, config_file, until_stdin_closes=until_stdin_closes)


@app.command()
def run(
    config_file: ConfigFile = None, *, insecure: Insecure = False, until_stdin_closes: UntilStdinCloses = False
) -> None:
    """Migrate, then run ingest, api and worker, each a process of its own that is started again when it ends."""
    from cloud_ingest import run as supervisor  # noqa: PLC0415
    from cloud_ingest.api.listening import require_loopback  # noqa: PLC0415

    options = [] if config_file is None else ["--config", str(config_file)]
    commands = {role: supervisor.role_command(role, options) for role in supervisor.ROLES}
    if insecure:
        commands["api"].append("--insecure")

    def supervise(config: Config, stop: threading.Event) -> int:
        require_loopback(config.api.listen, insecure=insecure)
        return supervisor.run(config.database_url.get_secret_value(), commands, stop)

    _run_role("run", supervise, config_file, until_stdin_closes=until_stdin_closes)


@app.command("check-config")
def check_config(config_file: ConfigFile = None) -> None:
    """Check the configuration and the files it names, and print all that is in effect. Secrets are left out."""
    from cloud_ingest.alerts.notify.sender import senders_of  # noqa: PLC0415

    with _told_to_people():
        config = load(config_file, os.environ)
        config.broker.password()
        if config.broker.tls is not None:
            config.broker.tls.context()
        senders_of(config.notifications.receivers)
        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")


@app.command()
def cardinality(
    config_file: ConfigFile = None,
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
) -> None:
    """The devices with the most series, and how many messages were refused because there would have been too many."""
    from cloud_ingest import cardinality_report  # noqa: PLC0415
    from cloud_ingest.store.cardinality import largest  # noqa: PLC0415

    with _told_to_people(), _connection(config_file) as connection:
        print(cardinality_report.table(largest(connection, limit)))


@rejected_app.command("list")
def rejected_list(
    config_file: ConfigFile = None,
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    before: Annotated[int | None, typer.Option(help="Only those with a lower number: the next page.")] = None,
    reason: Reason = None,
    device: Device = None,
    since: Since = None,
) -> None:
    """The newest messages that could not be stored, and why."""
    from cloud_ingest import rejected_report  # noqa: PLC0415
    from cloud_ingest.store.rejected import Selection, list_rejected  # noqa: PLC0415

    with _told_to_people(), _connection(config_file) as connection:
        selection = Selection(reason=reason, device=device, since=_moment(since))
        print(rejected_report.table(list_rejected(connection, selection, limit, before)))


@rejected_app.command("show")
def rejected_show(
    number: Annotated[int, typer.Argument(help="As `rejected list` prints it.")],
    config_file: ConfigFile = None,
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Write the payload alone, as it was received.")] = False,
) -> None:
    """One message that could not be stored, with its payload."""
    from cloud_ingest import rejected_report  # noqa: PLC0415
    from cloud_ingest.store.rejected import get_rejected  # noqa: PLC0415

    with _told_to_people():
        with _connection(config_file) as connection:
            row = get_rejected(connection, number)
        if row is None:
            raise CloudError(f"there is no rejected message {number}")
        if raw:
            sys.stdout.buffer.write(row.payload)
        else:
            print(rejected_report.details(row))


@rejected_app.command("replay")
def rejected_replay(
    numbers: Annotated[list[int] | None, typer.Argument(help="As `rejected list` prints them.")] = None,
    config_file: ConfigFile = None,
    *,
    reason: Reason = None,
    device: Device = None,
    since: Since = None,
    all_: Annotated[bool, typer.Option("--all", help="All that there are.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be tried.")] = False,
) -> None:
    """Store rejected messages after all, each reading once: after an upgrade, say, or with a larger budget.

    What is rejected again stays, with its new reason. Can be stopped at any time, and run again.
    """
    from cloud_ingest import rejected_report  # noqa: PLC0415
    from cloud_ingest.ingest import decoders  # noqa: PLC0415
    from cloud_ingest.replay import Replay  # noqa: PLC0415
    from cloud_ingest.store.rejected import Selection, get_rejected, numbers_of  # noqa: PLC0415
    from cloud_ingest.writer import writer_of  # noqa: PLC0415

    with _told_to_people():
        selection = Selection(numbers or None, reason, device, _moment(since))
        if not all_ and selection == Selection():
            raise ConfigError("say which: numbers, --reason, --device, --since, or --all")
        config = load(config_file, os.environ)
        with _connection(config_file) as connection, closing(writer_of(config)) as writer:
            replay = Replay(writer, decoders.by_source(config))
            total = rejected_report.ReplayTotal(dry_run=dry_run)
            for number in numbers_of(connection, selection):
                row = get_rejected(connection, number)
                if row is not None:
                    replayed = replay.one(row, dry_run=dry_run)
                    total.add(replayed)
                    if replayed.problem is not None:
                        print(f"{number}: {printable(replayed.problem)}")
        print(total)


@notifications_app.command("list")
def notifications_list(
    config_file: ConfigFile = None,
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    before: Annotated[int | None, typer.Option(help="Only those with a lower number: the next page.")] = None,
    state: Annotated[
        DeliveryState | None, typer.Option(help="Only those that wait, were sent, or were given up.")
    ] = None,
    receiver: Receiver = None,
) -> None:
    """The newest messages to receivers, and what became of them."""
    from cloud_ingest import notifications_report  # noqa: PLC0415
    from cloud_ingest.store.deliveries import list_deliveries  # noqa: PLC0415

    with _told_to_people(), _connection(config_file) as connection:
        rows = list_deliveries(connection, state=state, receiver=receiver, before=before, limit=limit)
        print(notifications_report.table(rows))


@notifications_app.command("retry")
def notifications_retry(
    numbers: Annotated[list[int] | None, typer.Argument(help="As `notifications list` prints them.")] = None,
    config_file: ConfigFile = None,
    *,
    receiver: Receiver = None,
    all_: Annotated[bool, typer.Option("--all", help="All that there are.")] = False,
) -> None:
    """Try messages again that were given up. The worker sends them, each under the id that it had."""
    from cloud_ingest.store.deliveries import retry  # noqa: PLC0415

    with _told_to_people():
        if not all_ and not numbers and receiver is None:
            raise ConfigError("say which: numbers, --receiver, or --all")
        with _connection(config_file) as connection:
            count = retry(connection, numbers or None, receiver)
        print(f"{count} messages are tried again" if count != 1 else "1 message is tried again")


@thresholds_app.command("apply")
def thresholds_apply(
    file: Annotated[Path, typer.Argument(help="A YAML file with a list below the key `thresholds`.")],
    config_file: ConfigFile = None,
    *,
    prune: Annotated[bool, typer.Option("--prune", help="Delete the thresholds that the file does not name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")] = False,
) -> None:
    """Make the thresholds what a file says, and print what changed. Again, it changes nothing."""
    from cloud_ingest import thresholds_file  # noqa: PLC0415
    from cloud_ingest.store.thresholds import apply_thresholds  # noqa: PLC0415

    with _told_to_people():
        wanted = thresholds_file.load(file)
        with _connection(config_file) as connection, translated(), connection.transaction(force_rollback=dry_run):
            changes = apply_thresholds(connection, wanted, prune=prune)
        for line in thresholds_file.difference(changes):
            print(line)
        if not changes:
            print("nothing to change")


def _run_role(
    role: str,
    run: Callable[[Config, threading.Event], int],
    config_file: Path | None,
    *,
    until_stdin_closes: bool,
) -> None:
    with _told_to_people():
        config = load(config_file, os.environ)
    log.configure(config.logging, role)
    stop = threading.Event()
    stop_on_signals(stop)
    if until_stdin_closes:
        stop_with_stdin(stop)
    try:
        code = run(config, stop)
    except CloudError as exc:
        logger.error("%s", exc)  # noqa: TRY400 - the cause is outside: a traceback would not help
        code = exc.exit_code
    except Exception:
        logger.critical("an error of this program", exc_info=True)
        code = 1
    raise typer.Exit(code)


@contextmanager
def _told_to_people() -> Iterator[None]:
    """Ends the program with a message and an exit code where something outside is not as it must be."""
    try:
        yield
    except CloudError as exc:
        for line in str(exc).splitlines():
            print(f"cloud-ingest: {line}", file=sys.stderr)
        raise typer.Exit(exc.exit_code) from None


def _moment(since: str | None) -> datetime | None:
    """Raises ConfigError."""
    if since is None:
        return None
    try:
        return times.resolve(times.parse_time(since), datetime.now(UTC))
    except ValueError as exc:
        raise ConfigError(f"--since {exc}, got {since!r}") from exc


@contextmanager
def _connection(config_file: Path | None) -> Iterator[Connection]:
    url = load(config_file, os.environ).database_url.get_secret_value()
    with connect(url, "cloud-ingest-cli") as connection:
        yield connection


if __name__ == "__main__":
    main()
