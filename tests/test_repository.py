"""The files of the project say nothing about the machine they were written on, and agree with each other."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SELF = Path(__file__)
PINNED = {"edge": [], "cloud": ["cloud"], "local": ["local"], "dev": ["dev"]}  # file -> extras of pyproject.toml

MACHINE_PATH = re.compile(r"(?<![\w.$}/-])/(?:home|Users|root|work)/[\w.]+")
INDEX_HOST = re.compile(
    r"pythonhosted\.org|pypi\.org/simple|registry\.npmjs|registry\.yarnpkg|(?:deb|security|ftp\.\w+)\.debian\.org"
    r"|archive\.ubuntu\.com|--(?:extra-)?index-url|--find-links|--trusted-host",
    re.IGNORECASE,
)
PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9.-]*)(?:\[[a-z,-]+\])?==(?P<version>[\w.!+]+)(?: ; (?P<marker>[^\\]+?))? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")
COMMENT = re.compile(r"    #(?: .*)?")


@cache
def texts() -> dict[Path, str]:
    """Every file of the project that is text, committed or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    found = {}
    for name in listed.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file() and path != SELF:
            data = path.read_bytes()
            if b"\0" not in data:
                found[path] = data.decode(errors="replace")
    assert ROOT / "pyproject.toml" in found
    return found


def places(pattern: re.Pattern[str]) -> Iterator[str]:
    for path, text in texts().items():
        for number, line in enumerate(text.splitlines(), 1):
            if found := pattern.search(line):
                yield f"{path.relative_to(ROOT)}:{number}: {found[0]}"


def test_no_path_of_a_particular_machine() -> None:
    assert list(places(MACHINE_PATH)) == []


def test_no_package_index_or_mirror() -> None:
    assert list(places(INDEX_HOST)) == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATH, 'open("/home/me/x")'),
        (MACHINE_PATH, "@root@x".replace("@", "/")),
        (INDEX_HOST, "--extra-index-url x"),
        (INDEX_HOST, "deb https://deb@debian@org/debian trixie main".replace("@", ".")),
        (INDEX_HOST, "https://files@pythonhosted@org/packages/x.whl".replace("@", ".")),
    ],
)
def test_what_is_looked_for_would_be_found(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


def test_readme_names_commands_that_exist_and_ci_runs_its_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^\.PHONY: ([\w-]+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", readme, re.MULTILINE))
    assert {"run", "test"} <= named <= targets
    assert "```sh\nmake test\n```" in readme
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == "make test"


def test_licence_is_complete() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"


@pytest.mark.parametrize("file", [*PINNED, "build"])
def test_requirements_hold_pins_and_hashes_and_nothing_else(file: str) -> None:
    lines = (ROOT / f"requirements/{file}.txt").read_text().splitlines()
    other = [line for line in lines if not any(shape.fullmatch(line) for shape in (PIN, HASH, COMMENT))]
    assert other == []
    assert [before for before, line in pairwise(lines) if PIN.fullmatch(before) and not HASH.fullmatch(line)] == []


@pytest.mark.parametrize("file", PINNED)
def test_pins_satisfy_what_the_project_asks_for(file: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins(file)
    assert [str(one) for one in asked(project, {"", *PINNED[file]}) if unmet(one, pinned)] == []


def test_pins_satisfy_what_the_build_asks_for() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert wanted == [line for line in (ROOT / "requirements/build.in").read_text().splitlines() if line[0] != "#"]
    assert [one for one in wanted if unmet(Requirement(one), pins("build"))] == []


def test_environments_can_be_installed_over_each_other() -> None:
    everything = pins("dev")
    assert pins("build").items() | pins("local").items() | pins("edge").items() <= everything.items()
    assert pins("cloud").items() <= pins("local").items()


def pins(file: str) -> dict[str, frozenset[str]]:
    """Name -> versions of a requirements file: one, or several where Python's version decides."""
    matches = [PIN.fullmatch(line) for line in (ROOT / f"requirements/{file}.txt").read_text().splitlines()]
    found = [(canonicalize_name(match["name"]), match["version"]) for match in matches if match]
    return {name: frozenset(version for other, version in found if other == name) for name, _ in found}


def unmet(wanted: Requirement, pinned: dict[str, frozenset[str]]) -> bool:
    versions = pinned.get(canonicalize_name(wanted.name), frozenset())
    return not versions or not all(map(wanted.specifier.contains, versions))


def asked(project: dict[str, Any], extras: set[str]) -> list[Requirement]:
    """What `project` needs with these extras ("": without), its own extras followed."""
    optional = project["optional-dependencies"]
    texts = [text for extra in extras for text in (optional[extra] if extra else project["dependencies"])]
    requirements = [Requirement(text) for text in texts]
    own = {extra for one in requirements if one.name == project["name"] for extra in one.extras}
    others = [one for one in requirements if one.name != project["name"]]
    return others + (asked(project, own) if own else [])
