"""Temperature sensors of the machine, as the kernel's hwmon and thermal classes give them.

https://docs.kernel.org/hwmon/sysfs-interface.html and https://docs.kernel.org/driver-api/thermal/sysfs-api.html; both
in thousandths of a degree Celsius.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from edge_agent.collectors.base import series


class Temperature:
    """`classes` is /sys/class, or a folder like it. A machine without sensors has nothing to report."""

    def __init__(self, *, classes: Path = Path("/sys/class")) -> None:
        self._classes = classes

    def collect(self) -> dict[str, float | None]:
        """Every sensor; one that can't be read now has no value."""
        # The kernel shows thermal zones as hwmon chips too, where it was built so: reading both would count them twice.
        sensors = list(self._hwmon()) or list(self._thermal_zones())
        found: dict[str, float | None] = {}
        for chip, sensor, value in sensors:
            key = series("temperature_celsius", chip=chip, sensor=sensor)
            alike = 1
            while key in found:  # two disks of one kind
                alike += 1
                key = series("temperature_celsius", chip=f"{chip}-{alike}", sensor=sensor)
            found[key] = value
        return found

    def _hwmon(self) -> Iterator[tuple[str, str, float | None]]:
        for chip in sorted(self._classes.glob("hwmon/hwmon*"), key=_natural):
            # Old drivers keep the files one level down.
            below = chip / "device"
            folder = below if (below / "name").exists() and not (chip / "name").exists() else chip
            name = _text(folder / "name") or chip.name
            for file in sorted(folder.glob("temp*_input"), key=_natural):
                sensor = file.name.removesuffix("_input")
                yield name, _text(folder / f"{sensor}_label") or sensor, _celsius(file)

    def _thermal_zones(self) -> Iterator[tuple[str, str, float | None]]:
        for zone in sorted(self._classes.glob("thermal/thermal_zone*"), key=_natural):
            yield _text(zone / "type") or "thermal", zone.name, _celsius(zone / "temp")


def _celsius(file: Path) -> float | None:
    try:
        return int(_text(file)) / 1000
    except ValueError:
        return None


def _text(file: Path) -> str:
    """The text of a file of the kernel; "" where it can't be read, as with a sensor that is switched off."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _natural(path: Path) -> list[tuple[int, str]]:
    """temp2 before temp10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)]
