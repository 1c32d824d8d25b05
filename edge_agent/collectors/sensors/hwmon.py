"""The kernel's interface of hardware monitoring chips: fans, voltages, currents, power, energy, humidity.

https://docs.kernel.org/hwmon/sysfs-interface.html. Temperatures are the `temperature` collector's, which finds them
by `readings` too.
"""

import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from edge_agent.collectors.base import series
from edge_agent.collectors.sensors.sysfs import chip_name, chips, distinct, names, natural, number, text

# Kind of sensor -> metric, and how many of the kernel's units make one of the metric's.
_QUANTITIES = {
    "fan": ("fan_speed_rpm", 1),
    "in": ("voltage_volts", 1_000),
    "curr": ("current_amperes", 1_000),
    "power": ("power_watts", 1_000_000),
    "energy": ("energy_joules_total", 1_000_000),
    "humidity": ("humidity_percent", 1_000),
}

# A driver of power meters gives `average` where it has no `input`.
_VALUE_FILE = re.compile(r"(([a-z]+)\d+)_(?:input|average)")

# A 1-wire thermometer, which the `onewire` sensors read with its check sum. Reading it takes most of a second.
_LEFT_OUT = frozenset({"w1_slave_temp"})


class Reading(NamedTuple):
    """What one sensor says, in the kernel's unit; None where it can't be read now or says itself that it is faulty."""

    chip: str
    sensor: str
    kind: str
    value: float | None


class Hwmon:
    """`root` is /sys, or a folder like it."""

    def __init__(self, *, root: Path = Path("/sys")) -> None:
        self._root = root

    def collect(self) -> dict[str, float | None]:
        """Every sensor of every chip, but for temperatures."""
        found: dict[str, float | None] = {}
        for chip, sensor, kind, value in readings(self._root / "class", _QUANTITIES):
            metric, divisor = _QUANTITIES[kind]
            found[series(metric, chip=chip, sensor=sensor)] = None if value is None else value / divisor
        return found


def readings(classes: Path, kinds: Container[str]) -> Iterator[Reading]:
    """The sensors of these kinds (`temp`, `fan` ...); no two of one kind have the same chip and sensor.

    `classes` is /sys/class, or a folder like it.
    """
    taken: set[str] = set()
    for chip in chips("hwmon/hwmon*", classes):
        # Old drivers keep the files one level down.
        folder = next((it for it in (chip, chip / "device") if (it / "name").exists()), chip)
        name = text(folder / "name") or "hwmon"
        if name not in _LEFT_OUT:
            yield from _sensors(folder, distinct(chip_name(name, chip), taken), kinds)


def _sensors(folder: Path, chip: str, kinds: Container[str]) -> Iterator[Reading]:
    there = names(folder)
    labels: dict[str, set[str]] = {}
    for match in _value_files(there, kinds):
        sensor, kind = match[1], match[2]
        faulty = f"{sensor}_fault" in there and text(folder / f"{sensor}_fault") == "1"
        label = text(folder / f"{sensor}_label") if f"{sensor}_label" in there else ""
        label = distinct(label or sensor, labels.setdefault(kind, set()))
        yield Reading(chip, label, kind, None if faulty else number(folder / match[0]))


def _value_files(there: Iterable[str], kinds: Container[str]) -> list[re.Match[str]]:
    """The file to read of each sensor: `input` where there is one."""
    by_sensor: dict[str, re.Match[str]] = {}
    for match in map(_VALUE_FILE.fullmatch, sorted(there)):  # `average` before `input`
        if match is not None and match[2] in kinds:
            by_sensor[match[1]] = match
    return sorted(by_sensor.values(), key=lambda match: natural(match[1]))
