import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Config, changed
from edge_agent.desired.overlay import overlaid
from edge_agent.errors import ConfigError
from telemetry_contract.desired import (
    MAX_INTERVAL_SECONDS,
    MIN_INTERVAL_SECONDS,
    DesiredCollector,
    DesiredSettings,
    check,
    settings_of,
)
from telemetry_contract.errors import MalformedPayload

OWN = Config.of(
    {
        "labels": {"building": "north"},
        "sampling": {"interval_seconds": 5},
        "broker": {"host": "cloud.example", "username": "me", "tls": {}},
        "status": {"listen": None},
        "collectors": {
            "disk": {"interval_seconds": 30, "exclude_mounts": ["/media/*"]},
            "exec": [{"name": "boiler", "command": ["true"]}, {"name": "tank.1", "command": ["false"]}],
            "plugins": [{"name": "cellar", "type": "dice", "options": {"sides": 6}}],
        },
    }
)


def with_(**document: object) -> Config:
    return overlaid(OWN, settings_of(document))


def test_nothing_desired_changes_nothing() -> None:
    assert overlaid(OWN, None) is OWN
    assert with_() == changed(OWN, {}) == OWN


def test_what_is_named_changes_and_all_else_stays() -> None:
    config = with_(
        sampling={"interval_seconds": 2.5},
        labels={"line": "3"},
        collectors={
            "cpu": {"enabled": False},
            "processes": {"enabled": True, "interval_seconds": 60.0},
            "disk": {"interval_seconds": 90.0},
            "exec.tank.1": {"interval_seconds": 7.0},
            "plugins.cellar": {"interval_seconds": 8.0},
        },
    )
    assert config.sampling.interval_seconds == 2.5
    assert config.labels == {"line": "3"}
    assert not config.collectors.cpu.enabled
    assert (config.collectors.processes.enabled, config.collectors.processes.interval_seconds) == (True, 60)
    assert config.collectors.disk.interval_seconds == 90
    assert config.collectors.disk.exclude_mounts == ("/media/*",)
    assert [one.interval_seconds for one in config.collectors.exec] == [None, 7]
    assert config.collectors.plugins[0].interval_seconds == 8
    for name in set(Config.__struct_fields__) - {"sampling", "labels", "collectors"}:
        assert getattr(config, name) == getattr(OWN, name)


def test_no_labels_are_not_the_same_as_labels_that_are_not_named() -> None:
    assert with_(labels={}).labels == {}
    assert with_(sampling={}).labels == {"building": "north"}


def test_what_stands_in_a_list_is_switched_off_by_its_name() -> None:
    config = with_(collectors={"exec.boiler": {"enabled": False}, "plugins.cellar": {"enabled": True}})
    assert [one.name for one in config.collectors.exec] == ["tank.1"]
    assert [one.name for one in config.collectors.plugins] == ["cellar"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cpuu", "collectors.cpuu is not a known key; did you mean cpu?"),
        ("cpu.x", "collectors.cpu.x is not a known key"),
        ("exec", "collectors.exec may hold several: name one of them, like exec.NAME"),
        ("exec.boilr", "collectors.exec.boilr is not there: this device has boiler, tank.1 in exec"),
        ("modbus.x", "collectors.modbus.x is not there: this device has none in modbus"),
    ],
)
def test_a_collector_that_is_not_there_is_refused(name: str, message: str) -> None:
    for wanted in ({"enabled": True}, {"enabled": False}, {"interval_seconds": 5.0}):
        with pytest.raises(ConfigError) as caught:
            with_(collectors={name: wanted})
        assert str(caught.value).startswith(message)


@given(st.floats())
def test_an_interval_is_refused_here_as_it_is_by_the_contract_and_in_the_same_words(seconds: float) -> None:
    settings = DesiredSettings(collectors={"cpu": DesiredCollector(interval_seconds=seconds)})
    by_contract = by_device = ""
    try:
        check(settings)
    except MalformedPayload as exc:
        by_contract = str(exc)
    try:
        overlaid(OWN, settings)
    except ConfigError as exc:
        by_device = str(exc)
    assert bool(by_contract) == bool(by_device) == (not MIN_INTERVAL_SECONDS <= seconds <= MAX_INTERVAL_SECONDS)
    if seconds == seconds and abs(seconds) != float("inf"):  # noqa: PLR0124 - NaN is said in other words
        assert by_contract == by_device
