"""What is allowed by the configuration, and yet will probably not do what its author wants."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from edge_agent.config import Broker, Config

_THIS_MACHINE = ("localhost", "::1")


def warnings(config: Config) -> Iterator[str]:
    """One sentence each, as this user finds this machine now."""
    yield from _outbox(config.outbox.path)
    yield from _broker(config.broker)
    http_input = config.collectors.http_input
    if http_input.enabled and http_input.token_file is None and not http_input.listen.is_loopback:
        yield f"collectors.http_input: whoever reaches {http_input.listen} can write readings; set token_file"
    for running in config.collectors.execd:
        yield from _program(f"collectors.execd: {running.name}", running.command[0])
    for program in config.collectors.exec:
        what = f"collectors.exec: {program.name}"
        yield from _program(what, program.command[0])
        interval_seconds = program.interval_seconds or config.sampling.interval_seconds
        if program.timeout_seconds > interval_seconds:
            yield (
                f"{what}: with timeout_seconds {program.timeout_seconds:g} above its interval of"
                f" {interval_seconds:g} s a slow run costs ticks"
            )


def _program(what: str, program: str) -> Iterator[str]:
    if shutil.which(program) is None:
        yield f"{what}: {program} is not a program that this user can run"


def _outbox(path: Path) -> Iterator[str]:
    if path.is_dir():
        yield f"outbox.path: {path} is a directory; it must be a file or not exist"
    elif path.exists():
        if not os.access(path, os.R_OK | os.W_OK):
            yield f"outbox.path: this user can't write {path}"
    else:
        existing = next(parent for parent in path.absolute().parents if parent.exists())
        if not existing.is_dir():
            yield f"outbox.path: {existing} is not a directory"
        elif not os.access(existing, os.W_OK | os.X_OK):
            yield (
                f"outbox.path: this user can't write to {existing}; set EDGE_AGENT_OUTBOX__PATH to a file of yours"
                " to try the agent out"
            )


def _broker(broker: Broker) -> Iterator[str]:
    if broker.password_file is not None:
        if stat.S_IMODE(broker.password_file.stat().st_mode) & stat.S_IROTH:
            yield f"broker.password_file: every user of this machine can read {broker.password_file}"
        if broker.tls is None and not (broker.host in _THIS_MACHINE or broker.host.startswith("127.")):
            yield f"broker.tls: without it the password goes to {broker.host} for all on the way to read"
