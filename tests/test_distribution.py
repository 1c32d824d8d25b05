"""What an edge device installs: the agent and nothing of the cloud."""

import os
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import edge_agent

ROOT = Path(__file__).parents[1]
PACKAGES = ("telemetry_contract", "edge_agent", "cloud_ingest", "telemetry_bridge")
NOT_FOR_THE_EDGE = {"psycopg", "psycopg_pool", "fastapi", "starlette", "uvicorn", "numpy", "typer", "rich", "pydantic"}
# Each costs memory for as long as the agent runs.
FOR_THOSE_WHO_ASK = {
    *("asyncio", "concurrent.futures", "multiprocessing", "importlib.metadata", "logging.handlers", "difflib"),
    *("prometheus_client", "pymodbus", "edge_agent.collectors.exec", "edge_agent.collectors.execd"),
    *("edge_agent.collectors.processes", "edge_agent.collectors.textfile", "edge_agent.collectors.plugins"),
    *("edge_agent.collectors.http_input", "edge_agent.collectors.mqtt_input", "edge_agent.dry_run"),
}


def test_agent_imports_nothing_of_the_cloud() -> None:
    modules = [module.name for module in pkgutil.walk_packages(edge_agent.__path__, "edge_agent.")]
    assert "edge_agent.config" in modules
    program = f"import sys, {', '.join(m for m in modules if not m.endswith('__main__'))}; print(*sys.modules)"
    loaded = run(sys.executable, "-c", program).split()
    roots = {name.partition(".")[0] for name in loaded}
    assert "edge_agent" in roots
    assert roots & (NOT_FOR_THE_EDGE | {"cloud_ingest", "telemetry_bridge"}) == set()


def test_agent_with_its_defaults_imports_nothing_that_only_others_need() -> None:
    program = (
        "import sys, edge_agent.cli, edge_agent.agent; from edge_agent.collectors.registry import groups;"
        " from edge_agent.config import Config; from edge_agent.statistics import Statistics;"
        " groups(Config(), Statistics()); print(*sys.modules)"
    )
    loaded = set(run(sys.executable, "-c", program).split())
    assert "edge_agent.collectors.cpu" in loaded
    assert loaded & FOR_THOSE_WHO_ASK == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target))
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def edge_device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment, made as the documentation tells the owner of an edge device."""
    environment = tmp_path_factory.mktemp("edge-device") / "venv"
    run(sys.executable, "-m", "venv", str(environment))
    pip = [str(environment / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "--require-hashes", "-r", str(ROOT / "requirements/edge.txt"))
    run(*pip, "--no-deps", str(wheel))
    return environment / "bin"


def test_wheel_holds_every_file_of_the_packages_and_no_test(wheel: Path) -> None:
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *PACKAGES).split("\n")
    tracked = {name for name in listed if name and (ROOT / name).exists()}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert held == tracked
    assert any(name.endswith(".sql") for name in held)
    assert len(licences) == 1


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(NOT_FOR_THE_EDGE))
def test_edge_device_has_nothing_of_the_cloud_installed(edge_device: Path, module: str) -> None:
    found = run(
        str(edge_device / "python"), "-c", f"from importlib.util import find_spec; print(find_spec({module!r}))"
    )
    assert found == "None\n"


@pytest.mark.slow
def test_agent_runs_on_an_edge_device(edge_device: Path) -> None:
    python = str(edge_device / "python")
    assert "site-packages" in run(python, "-c", "import edge_agent.agent; print(edge_agent.agent.__file__)")
    assert "usage: edge-agent" in run(str(edge_device / "edge-agent"), "--help")
    program = edge_device / "edge-agent"
    assert f"\nExecStart={program} run\n" in run(str(program), "install-service", "--dry-run", "--root", "/nowhere")
    assert run(python, "-m", "pip", "check", "--disable-pip-version-check") == "No broken requirements found.\n"


def run(*command: str) -> str:
    """The standard output of a command that must succeed, run in the project but importing nothing from there."""
    env = {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout
