"""Fixtures for real servers, and the rule that CI skips nothing that needs one."""

import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
from harness.absence import Absent, required, skip_or_fail
from harness.broker import Mosquitto
from harness.ports import free_port as find_free_port
from harness.postgres import Kind, NamedServer, PlainServer, Server, TimescaleServer, new_database
from harness.processes import NewProcess, Process

_KINDS = [pytest.param("timescaledb", marks=pytest.mark.timescaledb), "postgresql"]


def pytest_configure() -> None:
    """A shell's `&` and nohup start us with signals ignored, which our children would inherit, and never be stopped."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def free_port() -> Callable[[], int]:
    return find_free_port


@pytest.fixture
def new_process(tmp_path: Path) -> Iterator[NewProcess]:
    with ExitStack() as made:

        def make(
            args: Sequence[str | Path], env: Mapping[str, str] | None = None, *, log: Path | None = None
        ) -> Process:
            process = Process(args, env, log=log or tmp_path / f"{Path(args[0]).name}-{find_free_port()}.log")
            made.callback(process.close)
            return process

        yield make


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A fresh mosquitto, started."""
    try:
        mosquitto = Mosquitto(tmp_path / "broker")
    except Absent as absent:
        skip_or_fail(absent)
    try:
        mosquitto.start()
        yield mosquitto
    finally:
        mosquitto.close()


@pytest.fixture(scope="session", params=_KINDS)
def database_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A started server that all tests share: they make databases in it, and never stop it."""
    kind = cast("Kind", request.param)
    try:
        server = _named_server(kind) or _new_server(kind)
    except Absent as absent:
        skip_or_fail(absent)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def database_url(database_server: Server) -> Iterator[str]:
    """A fresh, empty database."""
    with new_database(database_server) as url:
        yield url


@pytest.fixture(params=_KINDS)
def own_database_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A started server of the test's own, which it may stop and kill; never the one that TEST_DATABASE_URL names."""
    try:
        server = _new_server(cast("Kind", request.param))
    except Absent as absent:
        skip_or_fail(absent)
    try:
        server.start()
        yield server
    finally:
        server.close()


def _new_server(kind: Kind) -> TimescaleServer | PlainServer:
    return TimescaleServer() if kind == "timescaledb" else PlainServer()


def _named_server(kind: Kind) -> NamedServer | None:
    """The server that TEST_DATABASE_URL names, in place of one of its kind."""
    url = os.environ.get("TEST_DATABASE_URL")
    server = NamedServer(url) if url else None
    return server if server is not None and server.kind == kind else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is required, a skip for want of TimescaleDB or mosquitto is a failure, however it was made."""
    del call
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and required():
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        wanted = item.get_closest_marker("timescaledb") is not None or "mosquitto" in reason.lower()
        if wanted or "timescaledb" in reason.lower():
            report.outcome = "failed"
            report.longrepr = f"skipped, though everything is required here: {reason}"
    return report
