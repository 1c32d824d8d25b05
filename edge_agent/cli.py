"""The command line `edge-agent`.

Exit codes: 0 done or stopped as told, 1 something outside failed, 2 the configuration or the command is wrong.
`outbox fsck` also knows 3, the outbox is not sound, and 4, it was not sound and is repaired.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import structs

from edge_agent.config import DEFAULT_FILE, Config, load
from edge_agent.errors import EdgeAgentError
from edge_agent.section import plain
from telemetry_contract.version import __version__

logger = logging.getLogger("edge_agent.cli")  # also where this module is `__main__`

_INTERRUPTED = 130  # 128 + SIGINT, as shells say it
_NOT_SOUND = 3
_REPAIRED = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except EdgeAgentError as exc:
        for line in str(exc).splitlines():
            print(f"edge-agent: {line}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Who reads our output has seen enough; what is still buffered must not fail again while Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        logger.critical("an error of this program", exc_info=True)
        return 1


def _run(options: argparse.Namespace) -> int:
    config = _configured(options)
    if options.dry_run:
        return _dry_run(config, as_json=options.json)
    from edge_agent import agent  # noqa: PLC0415 - a dry run needs neither broker nor outbox

    if options.once:
        timeout_seconds = options.timeout or config.delivery.confirm_timeout_seconds
        return agent.run_once(config, timeout_seconds)
    return agent.run(config, lambda: load(options.config, os.environ))


def _dry_run(config: Config, *, as_json: bool) -> int:
    from edge_agent import dry_run  # noqa: PLC0415 - the agent itself never prints readings

    result = dry_run.collect(config)
    if as_json:
        print(dry_run.as_json(config, result.readings))
    else:
        for line in dry_run.as_table(result.readings):
            print(line)
    sys.stdout.flush()
    return 1 if result.failed else 0


def _check_config(options: argparse.Namespace) -> int:
    import yaml  # noqa: PLC0415 - only this command writes YAML

    from edge_agent import preflight  # noqa: PLC0415
    from edge_agent.collectors.registry import groups  # noqa: PLC0415
    from edge_agent.statistics import Statistics  # noqa: PLC0415

    config = load(options.config, os.environ)
    groups(config, Statistics())
    print("# OK. In effect:")
    print(yaml.safe_dump(plain(config), sort_keys=False), end="", flush=True)
    for warning in preflight.warnings(config):
        print(f"edge-agent: warning: {warning}", file=sys.stderr)
    return 0


def _outbox_stats(options: argparse.Namespace) -> int:
    import msgspec  # noqa: PLC0415 - `run` brings its own, after it has checked what it is told

    from edge_agent.outbox_view import OutboxView  # noqa: PLC0415

    with OutboxView(_outbox_path(options)) as view:
        contents = view.contents()
    if options.json:
        print(msgspec.json.encode(contents).decode())
        return 0
    from edge_agent.outbox_table import as_table  # noqa: PLC0415

    print("\n".join(as_table(contents)))
    return 0


def _outbox_export(options: argparse.Namespace) -> int:
    from edge_agent import outbox_export  # noqa: PLC0415
    from edge_agent.outbox_file import is_held  # noqa: PLC0415
    from edge_agent.outbox_view import OutboxView  # noqa: PLC0415

    path = _outbox_path(options)
    with OutboxView(path) as view:
        if is_held(path):
            print("edge-agent: an agent holds this outbox: what it has in memory only is not here", file=sys.stderr)
        as_text = outbox_export.as_csv if options.format == "csv" else outbox_export.as_json_lines
        for text in as_text(view.ticks()):
            sys.stdout.write(text)
        sys.stdout.flush()
    return 0


def _outbox_fsck(options: argparse.Namespace) -> int:
    from edge_agent import outbox_check  # noqa: PLC0415

    path = _outbox_path(options)
    findings, kept = outbox_check.repair(path) if options.repair else (outbox_check.check(path), None)
    for finding in findings.damage + findings.miscounts:
        print(finding)
    if findings.sound:
        print(f"{path} is sound")
        return 0
    if not options.repair:
        print(f"{path} is not sound; with --repair, while no agent runs, it is counted anew or set aside")
        return _NOT_SOUND
    if kept is None:
        print(f"{path} is counted anew")
    else:
        print(f"{path} is now {kept}; the agent begins a new outbox, with a new stream, as it starts")
    return _REPAIRED


def _outbox_path(options: argparse.Namespace) -> Path:
    path: Path | None = options.path
    return load(options.config, os.environ).outbox.path if path is None else path


def _install_service(options: argparse.Namespace) -> int:
    from edge_agent.service import installation, unit  # noqa: PLC0415

    root: Path = options.root.absolute()
    program = Path(sys.executable).with_name("edge-agent") if options.program is None else options.program
    if options.dry_run:
        for step in installation.plan(root, program, replace=options.replace):
            print(f"would {step}")
        print(f"\n{unit.text(program)}", end="")
        return 0
    installation.require_system(root)
    steps = installation.plan(root, program, replace=options.replace)
    for step in steps:
        installation.perform(root, [step])
        print(step)
    if not steps:
        print("the service is installed already, and up to date")
    if root == Path("/") and (closed := installation.unreachable(program)) is not None:
        print(f"edge-agent: warning: the service's user can't run {program}, because of {closed}", file=sys.stderr)
    print("\nNext: " + "\n".join(installation.next_commands(root)))
    return 0


def _configured(options: argparse.Namespace) -> Config:
    """The configuration, with logging set up as it says; a dry run is for the person before the terminal."""
    from edge_agent import log  # noqa: PLC0415

    config = load(options.config, os.environ)
    log.configure(structs.replace(config.logging, directory=None) if options.dry_run else config.logging)
    return config


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(
        prog="edge-agent", description="Measures this machine and sends every sample until the cloud has it."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    configured = argparse.ArgumentParser(add_help=False)
    configured.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"a YAML file; else the one that EDGE_AGENT_CONFIG names, else {DEFAULT_FILE} if there is one."
        " EDGE_AGENT_* variables go over it",
    )

    run = commands.add_parser("run", parents=[configured], help="measure and send until told to stop")
    run.add_argument("--once", action="store_true", help="one tick of every collector, then end")
    run.add_argument("--dry-run", action="store_true", help="with --once: show what was measured and send nothing")
    run.add_argument("--json", action="store_true", help="with --dry-run: as JSON")
    run.add_argument(
        "--timeout",
        type=_positive_seconds,
        metavar="SECONDS",
        help="with --once: how long to try to deliver (default: delivery.confirm_timeout_seconds)",
    )
    run.set_defaults(command=lambda options: _run(_consistent(options, run)))

    check = commands.add_parser("check-config", parents=[configured], help="check the configuration and show it")
    check.set_defaults(command=_check_config)
    _add_outbox(commands, configured)

    install = commands.add_parser(
        "install-service", help="run the agent as a service of systemd, with a user of its own"
    )
    install.add_argument("--dry-run", action="store_true", help="show what would be done, and the unit")
    install.add_argument(
        "--replace", action="store_true", help="a unit that was changed by hand too; it is kept as .old"
    )
    install.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="the tree to install into (default: this machine)"
    )
    install.add_argument(
        "--program", type=_absolute, metavar="FILE", help="what the service runs (default: this edge-agent)"
    )
    install.set_defaults(command=_install_service)
    return parser


def _add_outbox(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", configured: argparse.ArgumentParser
) -> None:
    outbox = commands.add_parser("outbox", help="look into the outbox, whether an agent runs or not")
    actions = outbox.add_subparsers(required=True, metavar="ACTION")
    located = argparse.ArgumentParser(add_help=False, parents=[configured])
    located.add_argument("--path", type=Path, metavar="FILE", help="this outbox, in place of the configuration's")

    stats = actions.add_parser("stats", parents=[located], help="what it holds and what it had to give up")
    stats.add_argument("--json", action="store_true", help="as a JSON object, with times in milliseconds")
    stats.set_defaults(command=_outbox_stats)

    export = actions.add_parser("export", parents=[located], help="what waits for the cloud, to standard output")
    export.add_argument(
        "--format",
        choices=["json", "csv"],
        default="json",
        help="json (the default): a tick a line, as a live message has it; csv: a value a line",
    )
    export.set_defaults(command=_outbox_export)

    fsck = actions.add_parser("fsck", parents=[located], help="whether it is sound; 3: it is not")
    fsck.add_argument(
        "--repair",
        action="store_true",
        help="set a damaged outbox aside and count a miscounted one anew, while no agent runs; 4: done",
    )
    fsck.set_defaults(command=_outbox_fsck)


def _consistent(options: argparse.Namespace, parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, or a usage error for one that would be accepted and ignored."""
    if options.dry_run and not options.once:
        parser.error("--dry-run needs --once")
    if options.json and not options.dry_run:
        parser.error("--json needs --dry-run")
    if options.timeout is not None and (options.dry_run or not options.once):
        parser.error("--timeout needs --once and no --dry-run")
    return options


def _positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:  # noqa: PLR2004 - a day
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0 and at most 86400, got {text!r}")
    return seconds


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise argparse.ArgumentTypeError(f"must be an absolute path, got {text!r}")
    return path


if __name__ == "__main__":
    sys.exit(main())
