"""Temperature sensors of the machine, as the kernel's hwmon and thermal classes give them.

https://docs.kernel.org/hwmon/sysfs-interface.html and https://docs.kernel.org/driver-api/thermal/sysfs-api.html; both
in thousandths of a degree Celsius.
"""

from collections.abc import Iterator
from pathlib import Path

from edge_agent.collectors.base import series
from edge_agent.collectors.sensors import hwmon
from edge_agent.collectors.sensors.sysfs import natural, number, text


class Temperature:
    """`classes` is /sys/class, or a folder like it. A machine without sensors has nothing to report."""

    def __init__(self, *, classes: Path = Path("/sys/class")) -> None:
        self._classes = classes

    def collect(self) -> dict[str, float | None]:
        """Every sensor; one that can't be read now has no value."""
        # The kernel shows thermal zones as hwmon chips too, where it was built so: reading both would count them twice.
        sensors = list(hwmon.readings(self._classes, {"temp"})) or list(self._thermal_zones())
        return {
            series("temperature_celsius", chip=sensor.chip, sensor=sensor.sensor): (
                None if sensor.value is None else sensor.value / 1000
            )
            for sensor in sensors
        }

    def _thermal_zones(self) -> Iterator[hwmon.Reading]:
        for zone in sorted(self._classes.glob("thermal/thermal_zone*"), key=lambda zone: natural(zone.name)):
            yield hwmon.Reading(text(zone / "type") or "thermal", zone.name, "temp", number(zone / "temp"))
