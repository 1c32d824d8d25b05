"""The embedded PostgreSQL as a real server."""

import os
import pwd
import signal
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import psycopg
import pytest
from harness.wait import until

from telemetry_bridge import postgres
from telemetry_bridge.account import ACCOUNT_NAME, database_account
from telemetry_bridge.child import Child
from telemetry_bridge.ending import end
from telemetry_bridge.errors import CannotStart
from telemetry_bridge.logs import PartLog
from telemetry_bridge.postgres import Cluster

# What a user may have set for a server of their own.
ENVIRON: Mapping[str, str] = {**os.environ, "PGHOST": "elsewhere.invalid", "PGDATA": "/nowhere", "PGPORT": "1"}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Not below pytest's own directory: its path is too long for a socket, and every pytest closes it to others."""
    with tempfile.TemporaryDirectory(prefix="tb 'quoted\" %41? ") as directory:
        data = Path(directory) / "postgres"
        yield Cluster(postgres.find_programs(), data, data.parent / "socket", database_account(data))


@pytest.fixture
def children() -> Iterator[list[Child]]:
    made: list[Child] = []
    yield made
    for child in made:
        child.end(hurry=lambda: True)


def start(cluster: Cluster, children: list[Child]) -> Child:
    child = Child(cluster.part(ENVIRON), PartLog(cluster.data.parent / "database.log"))
    children.append(child)
    until(lambda: cluster.is_ready() or child.exit_code is not None, 30, "the database")
    assert child.exit_code is None, child.failure()
    return child


def test_data_outlives_a_stop_and_a_kill(cluster: Cluster, children: list[Child]) -> None:
    cluster.prepare(ENVIRON)
    child = start(cluster, children)
    with psycopg.connect(cluster.url) as connection:
        connection.execute("create table kept (n integer)")
        connection.execute("insert into kept values (1)")
    assert child.end(hurry=lambda: False)
    assert child.exit_code == 0
    assert not cluster.is_ready()

    cluster.prepare(ENVIRON)
    child = start(cluster, children)
    with psycopg.connect(cluster.url) as connection:
        connection.execute("insert into kept values (2)")
    child.process.kill()
    child.end(hurry=lambda: False)

    assert postgres.find_stray(cluster.data) is None
    cluster.prepare(ENVIRON)
    start(cluster, children)
    with psycopg.connect(cluster.url) as connection:
        assert connection.execute("select array_agg(n order by n) from kept").fetchone() == ([1, 2],)


def test_only_its_owner_reaches_it_and_only_by_the_socket(cluster: Cluster, children: list[Child]) -> None:
    cluster.prepare(ENVIRON)
    child = start(cluster, children)
    assert stat.S_IMODE(cluster.data.stat().st_mode) == 0o700
    assert stat.S_IMODE(cluster.socket_directory.stat().st_mode) == 0o700
    listening = [it for it in child.process.net_connections("inet") if it.status == psutil.CONN_LISTEN]
    assert listening == []
    with psycopg.connect(cluster.url) as connection:
        checks = (
            "select current_setting('fsync'), current_setting('synchronous_commit'), current_setting('data_checksums')"
        )
        assert connection.execute(checks).fetchone() == ("on", "on", "on")


def test_a_server_that_runs_without_us_is_found_and_ended(cluster: Cluster, children: list[Child]) -> None:
    cluster.prepare(ENVIRON)
    child = start(cluster, children)
    stray = postgres.find_stray(cluster.data)
    assert stray is not None
    assert stray.pid == child.process.pid
    assert end(stray, postgres.ENDING)
    assert postgres.find_stray(cluster.data) is None


def test_a_pid_file_that_names_another_living_process_does_not_prevent_a_start(
    cluster: Cluster, children: list[Child]
) -> None:
    """As after a reboot or in a new container, where numbers begin again."""
    cluster.prepare(ENVIRON)
    child = start(cluster, children)
    child.process.kill()
    child.end(hurry=lambda: False)
    pid_file = cluster.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    assert postgres.find_stray(cluster.data) is None
    start(cluster, children)


def test_an_interrupted_creation_is_begun_again(cluster: Cluster, children: list[Child]) -> None:
    torn = cluster.data.with_name("postgres.new")
    torn.mkdir()
    (torn / "PG_VERSION").write_text("18\n")
    cluster.prepare(ENVIRON)
    assert not torn.exists()
    start(cluster, children)


def test_a_cluster_of_another_version_is_refused_with_advice(cluster: Cluster) -> None:
    cluster.data.mkdir()
    (cluster.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(CannotStart, match=r"made by PostgreSQL 9, but 1\d\.\d+ is installed; .*--data-dir"):
        cluster.prepare(ENVIRON)


@pytest.mark.parametrize("name", ["x" * 90, "ü" * 45, "a, b"])
def test_a_path_that_can_not_be_a_sockets_is_replaced_by_a_short_one(name: str) -> None:
    assert postgres.choose_socket_directory(Path("/data/socket")) == (Path("/data/socket"), False)
    directory, temporary = postgres.choose_socket_directory(Path("/data") / name / "socket")
    assert temporary
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(os.fsencode(directory)) < 60
    directory.rmdir()


def test_a_fast_shutdown_is_asked_for(cluster: Cluster) -> None:
    assert cluster.part(ENVIRON).ending.signal == signal.SIGINT
    assert not any(name.startswith("PG") for name in cluster.part(ENVIRON).environment)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_root_runs_a_cluster_as_the_one_who_owns_it(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    for owner, name in ((nobody.pw_uid, "nobody"), (0, ACCOUNT_NAME)):
        os.chown(tmp_path, owner, -1)
        account = database_account(tmp_path)
        assert account is not None
        assert account.name == name
    assert database_account(tmp_path / "new") == account
