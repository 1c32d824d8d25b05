"""Thermometers on a 1-wire bus, as the kernel's w1_therm driver gives them.

https://docs.kernel.org/w1/slaves/w1_therm.html. Reading one takes most of a second, the time of a measurement.
"""

import re
from pathlib import Path

from edge_agent.collectors.base import series
from edge_agent.collectors.sensors.sysfs import number, text

# DS18S20, DS1822, DS18B20, DS1825 and DS28EA00: how the names of devices begin.
_FAMILIES = ("10", "22", "28", "3b", "42")
_WORKING = re.compile(
    r"(?P<register>(?:[0-9a-f]{2} ){9}): crc=[0-9a-f]{2} YES\n.*\bt=(?P<thousandths>-?\d+)", re.DOTALL
)

# Nine zeros have the right check sum, but are what a bus in short circuit reads. And 85 degrees with 0c in the seventh
# byte is what the register of a DS18B20 holds from power on until the first measurement (datasheet, "memory map").
_NOTHING_THERE = "00 " * 9
_NOT_MEASURED = re.compile(r"50 05 .. .. .. .. 0c .. .. ")


class OneWire:
    """`root` is /sys, or a folder like it."""

    def __init__(self, *, root: Path = Path("/sys")) -> None:
        self._root = root

    def collect(self) -> dict[str, float | None]:
        """Every thermometer; one whose transmission was disturbed or that has not measured has no value."""
        found: dict[str, float | None] = {}
        for family in _FAMILIES:
            for device in sorted(self._root.glob(f"bus/w1/devices/{family}-*")):
                found[series("temperature_celsius", chip=f"w1-{device.name}", sensor="temp")] = _celsius(device)
        return found


def parse(register: str) -> float | None:
    """The temperature in what `w1_slave` gives; None where it is not to be believed."""
    match = _WORKING.match(register)
    if match is None or match["register"] == _NOTHING_THERE or _NOT_MEASURED.match(match["register"]):
        return None
    return int(match["thousandths"]) / 1000


def _celsius(device: Path) -> float | None:
    register = device / "w1_slave"
    if register.exists():
        return parse(text(register))
    thousandths = number(device / "temperature")
    return None if thousandths is None else thousandths / 1000
