"""The command line `edge-agent`.

Exit codes: 0 done or stopped as told, 1 something outside failed, 2 the configuration or the command is wrong.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_agent.config import DEFAULT_FILE, Config, load
from edge_agent.errors import EdgeAgentError
from telemetry_contract.version import __version__

logger = logging.getLogger("edge_agent.cli")  # also where this module is `__main__`

_INTERRUPTED = 130  # 128 + SIGINT, as shells say it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = _parser().parse_args(arguments)
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
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="", flush=True)
    for warning in preflight.warnings(config):
        print(f"edge-agent: warning: {warning}", file=sys.stderr)
    return 0


def _configured(options: argparse.Namespace) -> Config:
    """The configuration, with logging set up as it says; a dry run is for the person before the terminal."""
    from edge_agent import log  # noqa: PLC0415

    config = load(options.config, os.environ)
    log.configure(config.logging.model_copy(update={"directory": None}) if options.dry_run else config.logging)
    return config


def _parser() -> argparse.ArgumentParser:
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
    return parser


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


if __name__ == "__main__":
    sys.exit(main())
