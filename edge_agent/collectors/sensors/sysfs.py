"""Files under /sys, and names for the chips there that are the same after each restart.

The numbers of `hwmon3` or `iio:device0` are given in the order in which drivers happen to load. What stays is where a
chip is connected, which the `sensors` command of lm-sensors also names it by: `nct6775-isa-0290`, `lm75-i2c-1-48`.
"""

import math
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

# How a bus writes the addresses of its devices. Others (nvme, hid, thermal) only count their devices: there the bus
# that they are connected to says more.
_PCI = re.compile(r"([0-9a-f]+):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")
_I2C = re.compile(r"(\d+)-([0-9a-f]{4})")
_SPI = re.compile(r"spi(\d+)\.(\d+)")
_ISA = re.compile(r"[a-z0-9_]+\.(\d+)")
_NAMED_BY_PLACE = frozenset({"acpi", "i2c", "platform", "scsi", "spi", "usb", "w1"})


def text(file: Path) -> str:
    """The text of a file; "" where it can't be read, as with a sensor that is gone or switched off."""
    try:
        return file.read_bytes().decode(errors="replace").strip()
    except OSError:
        return ""


def names(folder: Path) -> frozenset[str]:
    """What is in a folder; nothing where that is gone since it was listed itself."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - the names are what is wanted
    except OSError:
        return frozenset()


def number(file: Path) -> float | None:
    """The number in a file; None where it can't be read or holds none."""
    try:
        value = float(text(file))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts temp2 before temp10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def chips(pattern: str, root: Path) -> list[Path]:
    """The folders of a class or bus that match, in an order that is the same after each restart."""
    return sorted(root.glob(pattern), key=lambda folder: natural(_target(folder)))


def chip_name(name: str, folder: Path) -> str:
    """What to call the chip `name` whose files are in `folder`, one of `chips`: its name and where it is connected.

    The name alone for what is not connected anywhere, like the thermal zone of a processor.
    """
    place = _place(folder, _target(folder))
    return name if place in {None, name} else f"{name}-{place}"


def distinct(name: str, taken: set[str]) -> str:
    """The name, or `name-2` and so on where it is taken; taken from now on."""
    numbered, count = name, 1
    while numbered in taken:
        count += 1
        numbered = f"{name}-{count}"
    taken.add(numbered)
    return numbered


def _target(folder: Path) -> str:
    """Where the link leads that a folder of a class is; the folder itself where it is none."""
    try:
        return str(folder.readlink())
    except OSError:
        return str(folder)


@lru_cache(maxsize=256)
def _place(folder: Path, target: str) -> str | None:
    """The address of a chip on the nearest bus around it that has addresses.

    `target` tells what `folder` leads to at present, so that the answer holds for as long as the chip is there.
    """
    del target
    return next(filter(None, (_address(bus, name) for bus, name in _buses(folder.resolve()))), None)


def _buses(device: Path) -> Iterator[tuple[str, str]]:
    """The bus and the name there of a device and of each that it is connected to, from the inside out."""
    for around in (device, *device.parents):
        try:
            bus = (around / "subsystem").readlink().name
        except OSError:
            continue  # a folder between two devices
        yield bus, around.name


def _address(bus: str, name: str) -> str | None:
    if bus == "pci" and (match := _PCI.fullmatch(name)):
        domain, number_, slot, function = (int(part, 16) for part in match.groups())
        return f"pci-{domain << 16 | number_ << 8 | slot << 3 | function:04x}"
    if bus == "i2c" and (match := _I2C.fullmatch(name)):
        return f"i2c-{match[1]}-{int(match[2], 16):02x}"
    if bus == "spi" and (match := _SPI.fullmatch(name)):
        return f"spi-{match[1]}-{match[2]}"
    if bus == "platform":
        match = _ISA.fullmatch(name)
        return f"isa-{int(match[1]):04x}" if match else name
    return f"{bus}-{name}" if bus in _NAMED_BY_PLACE else None
