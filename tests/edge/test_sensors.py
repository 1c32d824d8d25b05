"""The sensors against fake /sys trees: folders with a tree (`harness.tree`) and what it should come to."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness.tree import build_tree

from edge_agent.collectors.sensors.battery import Battery
from edge_agent.collectors.sensors.hwmon import Hwmon
from edge_agent.collectors.sensors.iio import Iio
from edge_agent.collectors.sensors.onewire import OneWire
from edge_agent.collectors.temperature import Temperature
from telemetry_contract.series import SeriesKey

CASES = sorted((Path(__file__).parent / "testcases" / "sensors").iterdir())


def collect(root: Path) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for collector in (Hwmon(root=root), Iio(root=root), OneWire(root=root)):
        values = collector.collect()
        assert not found.keys() & values.keys()
        found |= values
    return found


def approximately(expected: Mapping[str, float | None]) -> dict[str, object]:
    return {key: None if value is None else pytest.approx(value) for key, value in expected.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path, tmp_path: Path) -> None:
    found = collect(build_tree((case / "sys.txt").read_text(), tmp_path))
    assert found == approximately(json.loads((case / "expected.json").read_text()))
    assert all(str(SeriesKey.parse(key)) == key for key in found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_names_do_not_depend_on_the_order_in_which_drivers_load(case: Path, tmp_path: Path) -> None:
    def renumbered(match: re.Match[str]) -> str:
        return f"{match[1]}{19 - int(match[2])}"

    description = re.sub(r"\b(hwmon|iio:device|nvme|usb)(\d+)\b", renumbered, (case / "sys.txt").read_text())
    description = description.replace("0C10.0005", "0C10.0009")
    expected = json.loads((case / "expected.json").read_text())
    assert collect(build_tree(description, tmp_path)) == approximately(expected)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sensor_that_goes_away_is_no_error(case: Path, tmp_path: Path) -> None:
    root = build_tree((case / "sys.txt").read_text(), tmp_path)
    before = collect(root)
    if (root / "devices").exists():
        shutil.rmtree(root / "devices")
    after = collect(root)
    # Only 1-wire's folders are not below `devices`, where the link to one is left behind.
    assert all("w1-" in key and value in (before[key], None) for key, value in after.items())


def test_temperatures_of_chips_are_told_once(tmp_path: Path) -> None:
    """By the `temperature` collector, under the same chip's name; a 1-wire thermometer by the sensors alone."""
    for case in CASES:
        root = build_tree((case / "sys.txt").read_text(), tmp_path / case.name)
        temperatures = Temperature(classes=root / "class").collect()
        assert not temperatures.keys() & collect(root).keys()
        if case.name == "desktop":
            assert temperatures == approximately(
                {
                    'temperature_celsius{chip="amdgpu-pci-0a00",sensor="temp1"}': 44.0,
                    'temperature_celsius{chip="k10temp-pci-00c3",sensor="Tctl"}': 52.125,
                    'temperature_celsius{chip="nct6798-isa-0290",sensor="temp1"}': 38.0,
                    'temperature_celsius{chip="nvme-pci-0100",sensor="Composite"}': 41.85,
                }
            )
        elif case.name == "onewire":
            assert temperatures == {}


def test_sensors_where_there_is_no_sys(tmp_path: Path) -> None:
    assert collect(tmp_path / "absent") == {}


def test_hostile_labels_still_make_series(tmp_path: Path) -> None:
    label = 'a"b\\c' + "x" * 2000
    (tmp_path / "class/hwmon/hwmon0").mkdir(parents=True)
    (tmp_path / "class/hwmon/hwmon0/name").write_bytes(b"n\xff\x00\x1bm")
    (tmp_path / "class/hwmon/hwmon0/fan1_input").write_text("5")
    (tmp_path / "class/hwmon/hwmon0/fan1_label").write_text(label)
    ((key, value),) = collect(tmp_path).items()
    labels = dict(SeriesKey.parse(key).labels)
    assert value == 5
    assert labels["sensor"].startswith('a"b\\cxxx')
    assert labels["chip"] == "n\N{REPLACEMENT CHARACTER}??m"


@pytest.mark.parametrize(
    ("battery", "expected"),
    [
        (None, {}),
        (
            SimpleNamespace(percent=81.5, secsleft=7200, power_plugged=False),
            {"battery_charge_percent": 81.5, "battery_remaining_seconds": 7200, "battery_plugged_in": 0.0},
        ),
        (
            SimpleNamespace(percent=100, secsleft=-2, power_plugged=True),  # psutil.POWER_TIME_UNLIMITED
            {"battery_charge_percent": 100, "battery_remaining_seconds": None, "battery_plugged_in": 1.0},
        ),
        (
            SimpleNamespace(percent=40, secsleft=-1, power_plugged=None),  # psutil.POWER_TIME_UNKNOWN
            {"battery_charge_percent": 40, "battery_remaining_seconds": None},
        ),
    ],
)
def test_battery(battery: SimpleNamespace | None, expected: dict[str, float | None]) -> None:
    assert Battery(system=SimpleNamespace(sensors_battery=lambda: battery)).collect() == expected


def test_battery_where_psutil_can_not_ask() -> None:
    assert Battery(system=SimpleNamespace()).collect() == {}


def test_battery_of_this_machine() -> None:
    assert all(key.startswith("battery_") for key in Battery().collect())
