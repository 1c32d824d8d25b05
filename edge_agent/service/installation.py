"""Puts the service in place: first what has to be done is decided, then it is done.

Only what is missing or out of date is touched, so that it may run again after each upgrade. `root` is the directory
that stands for / : the machine itself, or a tree that becomes the image of one.
"""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final, NamedTuple

from edge_agent.errors import InstallError
from edge_agent.service import unit

USER: Final = "edge-agent"
STATE: Final = Path("var/lib/edge-agent")
CONFIGURATION: Final = Path("etc/edge-agent")
CONFIG_FILE: Final = CONFIGURATION / "edge-agent.yaml"
UNIT_FILE: Final = Path("etc/systemd/system") / unit.NAME
_SYSUSERS: Final = f'u {USER} - "Edge telemetry agent" /{STATE}\n'
_DIRECTORY_MODE: Final = 0o750
_BOOTED: Final = Path("/run/systemd/system")


class Owner(NamedTuple):
    """By name, since the numbers are those of the tree."""

    user: str
    group: str


@dataclass(frozen=True, slots=True)
class MakeUser:
    """A system user and its group."""

    def __str__(self) -> str:
        return f"make the system user {USER}"


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """A directory with its owner and mode; one that is there gets them."""

    path: Path
    owner: Owner
    mode: int

    def __str__(self) -> str:
        return f"make the directory {self.path}, {self.owner.user}:{self.owner.group} {self.mode:04o}"


@dataclass(frozen=True, slots=True)
class WriteFile:
    """A file, in one piece. One that is there is kept beside it as `.old` where `keeps_old`."""

    path: Path
    text: str
    owner: Owner
    mode: int
    keeps_old: bool = False

    def __str__(self) -> str:
        old = f", keeping the old one as {self.path.name}.old" if self.keeps_old else ""
        return f"write {self.path}, {self.owner.user}:{self.owner.group} {self.mode:04o}{old}"


Step = MakeUser | MakeDirectory | WriteFile
_ROOT: Final = Owner("root", "root")
_SECRET: Final = Owner("root", USER)


def plan(root: Path, program: Path, *, replace: bool = False) -> list[Step]:
    """What is still to be done, in order. Raises InstallError where a person has changed the unit, unless `replace`."""
    steps: list[Step] = []
    if _ids(root, USER) is None:
        steps.append(MakeUser())
    for path, owner in ((CONFIGURATION, _SECRET), (STATE, Owner(USER, USER))):
        if not _is_so(root, path, owner, _DIRECTORY_MODE):
            steps.append(MakeDirectory(root / path, owner, _DIRECTORY_MODE))
    if not (root / CONFIG_FILE).exists():
        sample = (files("edge_agent.service") / CONFIG_FILE.name).read_text(encoding="utf-8")
        steps.append(WriteFile(root / CONFIG_FILE, sample, _SECRET, 0o640))
    steps.extend(_unit(root / UNIT_FILE, unit.text(program), replace=replace))
    return steps


def perform(root: Path, steps: Sequence[Step]) -> None:
    """Does it. Raises InstallError where the system refuses; what was done before stays, and need not be done again."""
    for step in steps:
        try:
            match step:
                case MakeUser():
                    _make_user(root)
                case MakeDirectory():
                    step.path.mkdir(parents=True, exist_ok=True)
                    _own(root, step.path, step.owner, step.mode)
                case WriteFile():
                    _write(root, step)
        except OSError as exc:
            raise InstallError(f"can't {step}: {exc.strerror or exc}") from exc


def require_system(root: Path) -> None:
    """Raises InstallError where the service can't be installed, or not by this user."""
    if sys.platform != "linux":
        raise InstallError("install-service needs Linux with systemd; elsewhere run `edge-agent run` by other means")
    if root == Path("/") and not _BOOTED.is_dir():
        raise InstallError("systemd does not run this machine; --root DIR installs into the tree of an image")
    if shutil.which("systemd-sysusers") is None:
        raise InstallError("systemd-sysusers is missing, which makes the service's user (it comes with systemd)")
    if os.geteuid() != 0:
        raise InstallError("install-service needs root: sudo edge-agent install-service; --dry-run shows what it does")


def unreachable(program: Path) -> Path | None:
    """What keeps the service's user from running the program: the first directory, or file, that not everybody may."""
    for path in (*reversed(program.parents), program):
        try:
            if not path.stat().st_mode & stat.S_IXOTH:
                return path
        except OSError:
            return path
    return None


def next_commands(root: Path) -> Iterator[str]:
    """What the operator does then, a line each."""
    yield f"edit {root / CONFIG_FILE} (site, broker), then"
    if root == Path("/"):
        yield "  edge-agent check-config"
        yield "  systemctl daemon-reload && systemctl enable edge-agent && systemctl restart edge-agent"
        yield "  systemctl status edge-agent"
    else:
        yield f"  edge-agent check-config --config {root / CONFIG_FILE}"
        yield f"  systemctl --root={root} enable edge-agent"


def _unit(path: Path, text: str, *, replace: bool) -> Iterator[WriteFile]:
    try:
        before = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        yield WriteFile(path, text, _ROOT, 0o644)
        return
    if before == text:
        return
    untouched = unit.is_untouched(before)
    if not untouched and not replace:
        raise InstallError(
            f"{path} was changed by hand: move what differs into a drop-in (systemctl edit edge-agent), then"
            " --replace writes the unit anew and keeps this one beside it"
        )
    yield WriteFile(path, text, _ROOT, 0o644, keeps_old=not untouched)


def _make_user(root: Path) -> None:
    (root / "etc").mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["systemd-sysusers", f"--root={root}", "-"], input=_SYSUSERS, capture_output=True, text=True, check=False
    )
    if _ids(root, USER) is None:
        raise InstallError(f"systemd-sysusers could not make the user {USER}: {done.stderr.strip()}")


def _write(root: Path, step: WriteFile) -> None:
    step.path.parent.mkdir(parents=True, exist_ok=True)
    if step.keeps_old:
        shutil.copy2(step.path, step.path.with_name(f"{step.path.name}.old"))
    partial = step.path.with_name(f".{step.path.name}.new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(step.text)
    _own(root, partial, step.owner, step.mode)
    partial.replace(step.path)


def _own(root: Path, path: Path, owner: Owner, mode: int) -> None:
    uid, gid = _numbers(root, owner)
    os.chown(path, uid, gid)
    path.chmod(mode)


def _is_so(root: Path, path: Path, owner: Owner, mode: int) -> bool:
    if not (root / path).is_dir() or _ids(root, USER) is None:
        return False
    found = (root / path).stat()
    return (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (*_numbers(root, owner), mode)


def _numbers(root: Path, owner: Owner) -> tuple[int, int]:
    user, group = _ids(root, owner.user), _ids(root, owner.group, of="group")
    if user is None or group is None:
        raise InstallError(f"{root / 'etc'} knows no user and group {owner.user}:{owner.group}")
    return user, group


def _ids(root: Path, name: str, *, of: str = "passwd") -> int | None:
    """The number of a user or group in the tree; root is always 0."""
    if name == "root":
        return 0
    try:
        lines = (root / "etc" / of).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    return next((int(fields[2]) for fields in (line.split(":") for line in lines) if fields[0] == name), None)
