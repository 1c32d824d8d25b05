"""`edge-agent install-service` on trees that stand for machines, verified by systemd's own tools."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.config import load
from edge_agent.errors import InstallError
from edge_agent.service import installation, unit

PROGRAM = Path(sys.executable).with_name("edge-agent")
UNIT = "etc/systemd/system/edge-agent.service"
CONFIG = "etc/edge-agent/edge-agent.yaml"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can make users and give files"),
    pytest.mark.skipif(
        shutil.which("systemd-sysusers") is None, reason="needs systemd (Debian: apt-get install systemd)"
    ),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


def install(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "install-service", "--root", root, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def installed(root: Path, *arguments: str) -> str:
    done = install(root, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def tree(root: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    found = {}
    for path in root.rglob("*"):
        told = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (told.st_uid, told.st_gid, told.st_mode, told.st_mtime_ns, content)
    return found


def ids(root: Path) -> tuple[int, int]:
    users = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
    (user,) = [fields for fields in users if fields[0] == "edge-agent"]
    assert user[5:] == ["/var/lib/edge-agent", "/usr/sbin/nologin"]
    groups = [line.split(":") for line in (root / "etc/group").read_text().splitlines()]
    (group,) = [fields for fields in groups if fields[0] == "edge-agent"]
    return int(user[2]), int(group[2])


def test_it_makes_a_user_directories_a_configuration_and_the_unit(root: Path) -> None:
    installed(root)
    user, group = ids(root)
    assert 0 < user < 1000
    found = {name: (it[0], it[1], stat.S_IMODE(it[2])) for name, it in tree(root).items()}
    assert found["etc/edge-agent"] == (0, group, 0o750)
    assert found[CONFIG] == (0, group, 0o640)
    assert found["var/lib/edge-agent"] == (user, group, 0o750)
    assert found[UNIT] == (0, 0, 0o644)
    assert load(root / CONFIG, {}).outbox.path == Path("/var/lib/edge-agent/outbox.db")


def test_systemd_has_nothing_to_say_about_the_unit(root: Path) -> None:
    installed(root)
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None, "it comes with systemd-sysusers"
    checked = subprocess.run([analyze, "verify", root / UNIT], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert f"ExecStart={PROGRAM} run\n" in (root / UNIT).read_text()
    said = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", root / UNIT], capture_output=True, text=True, check=True
    ).stdout
    exposure = re.search(r"Overall exposure level for edge-agent\.service: ([0-9.]+)", said)
    assert exposure is not None, said
    assert float(exposure[1]) <= 2.5


def test_a_second_time_it_touches_nothing(root: Path) -> None:
    installed(root)
    before = tree(root)
    assert "up to date" in installed(root)
    assert tree(root) == before


def test_a_dry_run_shows_the_steps_and_the_unit_and_touches_nothing(root: Path) -> None:
    said = installed(root, "--dry-run")
    assert "would make the system user edge-agent\n" in said
    assert f"would write {root / UNIT}" in said
    assert said.endswith(unit.text(PROGRAM))
    assert tree(root) == {}


def test_what_it_would_do_it_does(root: Path) -> None:
    would = [line.removeprefix("would ") for line in installed(root, "--dry-run").splitlines() if line[:6] == "would "]
    assert len(would) == 5
    assert installed(root).splitlines()[:5] == would


def test_a_configuration_that_is_there_stays_as_it_is(root: Path) -> None:
    (root / "etc/edge-agent").mkdir(parents=True)
    (root / CONFIG).write_text("site: mine\n")
    before = (root / CONFIG).stat()
    installed(root)
    installed(root, "--replace")
    after = (root / CONFIG).stat()
    assert (root / CONFIG).read_text() == "site: mine\n"
    assert (after.st_uid, after.st_mode, after.st_ino) == (before.st_uid, before.st_mode, before.st_ino)


def test_a_unit_that_somebody_changed_is_not_overwritten_unasked(root: Path) -> None:
    installed(root)
    changed = (root / UNIT).read_text().replace("WatchdogSec=60", "WatchdogSec=300")
    (root / UNIT).write_text(changed)
    refused = install(root)
    assert refused.returncode == 1
    assert f"{root / UNIT} was changed by hand" in refused.stderr
    assert (root / UNIT).read_text() == changed
    installed(root, "--replace")
    assert (root / UNIT).read_text() == unit.text(PROGRAM)
    assert (root / f"{UNIT}.old").read_text() == changed


def test_a_unit_that_came_from_elsewhere_is_not_overwritten_unasked(root: Path) -> None:
    (root / UNIT).parent.mkdir(parents=True)
    (root / UNIT).write_text("[Service]\nExecStart=/bin/true\n")
    assert install(root).returncode == 1
    assert (root / UNIT).read_text() == "[Service]\nExecStart=/bin/true\n"


def test_a_unit_of_another_version_that_nobody_changed_is_brought_up_to_date(root: Path) -> None:
    installed(root, "--program", "/opt/old/bin/edge-agent")
    assert "ExecStart=/opt/old/bin/edge-agent run\n" in (root / UNIT).read_text()
    assert installed(root).splitlines()[0].startswith(f"write {root / UNIT}")
    assert (root / UNIT).read_text() == unit.text(PROGRAM)
    assert not (root / f"{UNIT}.old").exists()


def test_owner_and_mode_of_directories_are_put_right(root: Path) -> None:
    installed(root)
    user, group = ids(root)
    (root / "var/lib/edge-agent").chmod(0o777)
    os.chown(root / "var/lib/edge-agent", 0, 0)
    installed(root)
    told = (root / "var/lib/edge-agent").stat()
    assert (told.st_uid, told.st_gid, stat.S_IMODE(told.st_mode)) == (user, group, 0o750)


def test_a_user_that_is_there_is_used(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("edge-agent:x:321:654::/var/lib/edge-agent:/usr/sbin/nologin\n")
    (root / "etc/group").write_text("edge-agent:x:654:\n")
    installed(root)
    told = (root / "var/lib/edge-agent").stat()
    assert (told.st_uid, told.st_gid) == (321, 654)


@pytest.mark.parametrize(
    ("program", "written"),
    [
        ("/opt/my agent/edge-agent", 'ExecStart="/opt/my agent/edge-agent" run\n'),
        ("/opt/100%/edge-agent", "ExecStart=/opt/100%%/edge-agent run\n"),
    ],
)
def test_the_path_of_the_program_is_written_as_systemd_reads_it(program: str, written: str) -> None:
    assert written in unit.text(Path(program))


def test_a_program_that_others_can_not_reach_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "bin").mkdir(parents=True)
    program = closed / "bin/edge-agent"
    program.touch(0o755)
    program.chmod(0o755)
    closed.chmod(0o700)
    assert installation.unreachable(program) is not None
    assert installation.unreachable(Path("/bin/sh")) is None


def test_without_root_it_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InstallError, match="needs root: sudo edge-agent install-service"):
        installation.require_system(root)


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs this machine")
def test_without_systemd_it_says_so() -> None:
    with pytest.raises(InstallError, match="--root DIR installs into the tree of an image"):
        installation.require_system(Path("/"))
