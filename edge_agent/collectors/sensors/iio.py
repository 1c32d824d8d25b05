"""The kernel's industrial I/O: the sensors of a room or a plant, such as temperature, humidity, pressure and light.

https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-bus-iio: a channel gives either its value (`input`) or what
its converter counted (`raw`), whose value is (raw + offset) * scale.
"""

import re
from collections.abc import Container, Iterable
from pathlib import Path

from edge_agent.collectors.base import series
from edge_agent.collectors.sensors.sysfs import chip_name, chips, distinct, names, natural, number, text

# Kind of channel -> metric, and how many of the kernel's units make one of the metric's.
_QUANTITIES = {
    "temp": ("temperature_celsius", 1_000),
    "humidityrelative": ("humidity_percent", 1_000),
    "pressure": ("pressure_pascals", 0.001),
    "illuminance": ("illuminance_lux", 1),
    "voltage": ("voltage_volts", 1_000),
    "current": ("current_amperes", 1_000),
    "power": ("power_watts", 1_000),
}

# in_temp_input, in_temp_object_raw (a modifier), in_voltage3_raw, in_voltage0-voltage1_raw (the difference of two)
_VALUE_FILE = re.compile(rf"in_((({'|'.join(_QUANTITIES)})(?:\d+(?:-\3\d+)?)?)(?:_[a-z][a-z0-9]*)*?)_(input|raw)")


class Iio:
    """`root` is /sys, or a folder like it."""

    def __init__(self, *, root: Path = Path("/sys")) -> None:
        self._root = root

    def collect(self) -> dict[str, float | None]:
        """Every channel of a known kind; one that can't be read now has no value."""
        found: dict[str, float | None] = {}
        taken: set[str] = set()
        for folder in chips("bus/iio/devices/iio:device*", self._root):
            chip = distinct(chip_name(text(folder / "name") or "iio", folder), taken)
            there = names(folder)
            for name, match in _channels(there):
                metric, divisor = _QUANTITIES[match[3]]
                value = number(folder / match[0]) if match[4] == "input" else _from_raw(folder, match, there)
                label = text(folder / f"in_{name}_label") if f"in_{name}_label" in there else ""
                found[series(metric, chip=chip, sensor=label or name)] = None if value is None else value / divisor
        return found


def _channels(there: Iterable[str]) -> list[tuple[str, re.Match[str]]]:
    """Each channel by its name, with its `input` where it has one and else with its `raw`."""
    in_order = sorted(there, reverse=True)  # `raw` before `input`
    found = {match[1]: match for match in map(_VALUE_FILE.fullmatch, in_order) if match is not None}
    return sorted(found.items(), key=lambda item: natural(item[0]))


def _from_raw(folder: Path, match: re.Match[str], there: Container[str]) -> float | None:
    raw = number(folder / match[0])
    offset, scale = _shared(folder, match, there, "offset", 0), _shared(folder, match, there, "scale", 1)
    return None if raw is None or offset is None or scale is None else (raw + offset) * scale


def _shared(folder: Path, match: re.Match[str], there: Container[str], what: str, default: float) -> float | None:
    """What applies to a channel: its own, or that of its kind, of all pairs of its kind, or of all channels."""
    channel, numbered, kind = match[1], match[2], match[3]
    of_pairs = f"{kind}-{kind}" if "-" in numbered else kind
    for whose in (f"in_{channel}", f"in_{numbered}", f"in_{of_pairs}", f"in_{kind}", "in"):
        if f"{whose}_{what}" in there:
            return number(folder / f"{whose}_{what}")
    return default
