"""Processes of an earlier run that outlived it, because the guard was killed too or is still at work."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from telemetry_bridge.child import Child
from telemetry_bridge.ending import Ending, is_gone

# psutil derives a start time from the time of boot, which moves a little when the clock is corrected.
_SAME_START_SECONDS = 2.0


@dataclass(frozen=True)
class Leftover:
    """A process that an earlier run started and nobody ended."""

    name: str
    process: psutil.Process
    ending: Ending


def record(file: Path, children: Iterable[Child]) -> None:
    """Write down which processes this run has started, in the order of their start."""
    entries = [
        {
            "name": child.part.name,
            "pid": child.process.pid,
            "started": child.process.create_time(),
            "signal": int(child.part.ending.signal),
            "grace_seconds": child.part.ending.grace_seconds,
        }
        for child in children
    ]
    new = file.with_suffix(".new")
    new.write_text(json.dumps(entries), encoding="utf-8")
    new.replace(file)


def find(file: Path) -> list[Leftover]:
    """What still runs of what `record` wrote down, the youngest first."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    found = (_living(entry) for entry in reversed(entries))
    return [it for it in found if it is not None]


def _living(entry: dict[str, float | str]) -> Leftover | None:
    try:
        process = psutil.Process(int(entry["pid"]))
        same = abs(process.create_time() - float(entry["started"])) < _SAME_START_SECONDS
    except psutil.NoSuchProcess:
        return None
    if not same or is_gone(process):
        return None
    return Leftover(str(entry["name"]), process, Ending(int(entry["signal"]), float(entry["grace_seconds"])))
