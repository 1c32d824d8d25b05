"""The battery of a laptop, a tablet or a small uninterruptible power supply, where psutil finds one."""

from typing import Any

import psutil


class Battery:
    """`system` is psutil, or what answers like it."""

    def __init__(self, *, system: Any = psutil) -> None:
        self._system = system

    def collect(self) -> dict[str, float | None]:
        """Its charge, how long it lasts (no value while that is not known or on the mains), and the mains."""
        # psutil has the function only where it knows how to ask.
        battery = self._system.sensors_battery() if hasattr(self._system, "sensors_battery") else None
        if battery is None:
            return {}
        found: dict[str, float | None] = {
            "battery_charge_percent": battery.percent,
            "battery_remaining_seconds": battery.secsleft if battery.secsleft >= 0 else None,
        }
        if battery.power_plugged is not None:
            found["battery_plugged_in"] = float(battery.power_plugged)
        return found
