"""What runs for a configuration, and the collectors of other packages."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_agent.collectors import plugins, registry
from edge_agent.collectors.base import Closeable
from edge_agent.collectors.plugins import Checked, build
from edge_agent.config import Config, Plugin
from edge_agent.errors import ConfigError
from edge_agent.statistics import Statistics

DOCUMENT = Path(__file__).parents[2] / "docs" / "collectors.md"


def running(collectors: Mapping[str, Any]) -> dict[tuple[str, ...], float]:
    """The members of each group, and its interval."""
    config = Config.of({"collectors": collectors})
    groups = registry.groups(config, Statistics())
    return {tuple(member.name for member in group.members): group.interval_seconds for group in groups}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


NOTHING = {
    name: {"enabled": False}
    for name in ("cpu", "memory", "disk", "network", "temperature", "host", "sensors", "containers")
}


def test_sensors_that_may_be_slow_make_ticks_of_their_own() -> None:
    assert running(NOTHING) == {}
    assert running({**NOTHING, "sensors": {"interval_seconds": 7}}) == {
        ("sensors.hwmon", "sensors.battery"): 7.0,
        ("sensors.iio",): 7.0,
        ("sensors.onewire",): 7.0,
    }
    assert running({**NOTHING, "sensors": {"kinds": ["onewire"]}}) == {("sensors.onewire",): 5.0}


def test_each_of_the_others_makes_ticks_of_its_own() -> None:
    found = running(
        {
            **NOTHING,
            "textfile": {"files": ["/x/*.prom"], "interval_seconds": 60},
            "exec": [{"name": "a", "command": ["true"]}],
            "execd": [{"name": "a", "command": ["true"], "interval_seconds": 9}],
            "modbus": [{"name": "a", "tcp": {"host": "localhost"}, "registers": [{"series": "a", "address": 0}]}],
        }
    )
    assert found == {("textfile",): 60.0, ("exec.a",): 5.0, ("execd.a",): 9.0, ("modbus.a",): 5.0}
    assert running({**NOTHING, "textfile": {"files": ["/x/*.prom"], "enabled": False}}) == {}


def test_modbus_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("pymodbus", "edge_agent.collectors.modbus.coll"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pymodbus", None)
    modbus = [{"name": "a", "tcp": {"host": "localhost"}, "registers": [{"series": "a", "address": 0}]}]
    with pytest.raises(ConfigError, match=re.escape("pip install 'telemetry-bridge[modbus]'")):
        running({"modbus": modbus})


@pytest.mark.parametrize("kind", ["exec", "execd"])
def test_programs_need_what_windows_has_not(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_HAS_PROCESS_GROUPS", False)
    with pytest.raises(ConfigError, match=f"collectors.{kind} needs process groups, which this system does not have"):
        running({kind: [{"name": "a", "command": ["true"]}]})


def test_examples_of_the_documentation_are_valid() -> None:
    examples = [yaml.safe_load(text) for text in blocks("yaml")]
    assert len(examples) >= 4  # so many at least: an empty list would prove nothing
    for example in examples:
        config = Config.of(example)
        assert config.collectors != Config().collectors


def offering(monkeypatch: pytest.MonkeyPatch, **factories: Callable[..., Any]) -> None:
    """Have packages offer these factories."""
    offered = EntryPoints(EntryPoint(name.partition("__")[0], f"package:{name}", plugins.GROUP) for name in factories)
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: offered.select(group=group))
    monkeypatch.setattr(EntryPoint, "load", lambda self: factories[self.value.partition(":")[2]])


class Giving:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def collect(self) -> Any:
        return self.answer


def plugin(**options: Any) -> Plugin:
    return Plugin(name="cellar", type="dice", options=options)


def refusal(it: Plugin) -> str:
    with pytest.raises(ConfigError) as caught:
        build(it, 5.0, lambda _: None)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_factory_gets_options_and_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, float]] = []

    def factory(options: Any, interval_seconds: float) -> Giving:
        given.append((options, interval_seconds))
        return Giving({"eyes": 3})

    offering(monkeypatch, dice=factory)
    assert build(plugin(sides=6), 7.5, lambda _: None).collect() == {"eyes": 3}
    assert given == [({"sides": 6}, 7.5)]


def test_collector_that_no_package_offers_is_told_with_those_on_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    offering(monkeypatch, thermometer=lambda *_: Giving({}), barometer=lambda *_: Giving({}))
    said = (
        "collectors.plugins: cellar: no installed package offers a collector 'dice'; on offer: barometer, thermometer"
    )
    assert refusal(plugin()) == said
    offering(monkeypatch)
    assert refusal(plugin()).endswith("; on offer: none")


def test_two_packages_with_one_name_are_told_apart_by_no_one(monkeypatch: pytest.MonkeyPatch) -> None:
    offering(monkeypatch, dice=lambda *_: Giving({}), dice__too=lambda *_: Giving({}))
    assert "several packages offer a collector 'dice'" in refusal(plugin())


def failing(error: Exception) -> Callable[..., Any]:
    def factory(*_: Any) -> Any:
        raise error

    return factory


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (failing(ValueError("options.sides must be above 0")), "cellar: options.sides must be above 0"),
        (failing(KeyError("port")), "package:dice fails: KeyError: 'port'"),
        (lambda *_: None, "package:dice gives None, which has no method `collect`"),
        (lambda: None, "fails: TypeError"),
    ],
)
def test_factory_that_can_not_make_a_collector_is_a_mistake_of_the_configuration(
    factory: Callable[..., Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offering(monkeypatch, dice=factory)
    assert said in refusal(plugin())


def test_keys_of_plugins_are_made_canonical_and_those_that_are_none_are_counted() -> None:
    rejected: list[int] = []
    answer = {"a": 1, 'm{b="2",a="1"}': 2.5, 'm{a="1",b="2"}': 3, "not a key": 4, 5: 6, "\ud800": 7, "none": None}
    checked = Checked(Giving(answer), rejected.append)
    assert checked.collect() == {"a": 1, 'm{a="1",b="2"}': 2.5, "none": None}
    assert rejected == [4]
    Checked(Giving({"a": 1}), rejected.append).collect()
    assert rejected == [4]


def test_plugin_is_told_of_the_end_where_it_wants_to_know() -> None:
    class Closing(Giving):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    inner = Closing({})
    checked = Checked(inner, lambda _: None)
    assert isinstance(checked, Closeable)
    checked.close()
    assert inner.closed == 1
    Checked(Giving({}), lambda _: None).close()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package of the documentation is installed."""
    source, target = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("installed")
    (project,) = blocks("toml")
    (module,) = blocks("python")
    (source / "pyproject.toml").write_text(project)
    (source / "edge_agent_dice.py").write_text(module)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "--target", "wheel"], cwd=source, check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    assert tomllib.loads(project)["project"]["entry-points"][plugins.GROUP] == {"dice": "edge_agent_dice:dice"}
    return target


def edge_agent(installed: Path, *arguments: str, options: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_AGENT_")}
    env = {
        **inherited,
        "PYTHONPATH": str(installed),
        "EDGE_AGENT_COLLECTORS__PLUGINS": f"[{{name: cellar, type: dice, options: {options}}}]",
        "EDGE_AGENT_OUTBOX__PATH": str(installed / "outbox.db"),
    }
    command = [sys.executable, "-m", "edge_agent.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


def test_package_of_the_documentation_works(installed: Path) -> None:
    done = edge_agent(installed, "run", "--once", "--dry-run", "--json", options="{sides: 20}")
    assert done.returncode == 0, done.stderr
    (values,) = [it["values"] for it in json.loads(done.stdout)["readings"] if len(it["values"]) == 1]
    ((key, value),) = values.items()
    assert key == 'dice_eyes{sides="20"}'
    assert 1 <= value <= 20


@pytest.mark.parametrize("command", [["check-config"], ["run"], ["run", "--once", "--dry-run"]])
def test_mistake_in_the_options_of_a_plugin_ends_the_agent_before_anything_starts(
    installed: Path, command: list[str]
) -> None:
    done = edge_agent(installed, *command, options="{sides: 0}")
    said = "edge-agent: collectors.plugins: cellar: options.sides must be a whole number above 0, got 0\n"
    assert (done.returncode, done.stderr) == (2, said)
