"""Processes of an earlier run that outlived it, because the guard was killed too or is still at work."""

import json
from collections.abc import Iterable
from pathlib import Path

import psutil

from telemetry_bridge.ending import Endable, Ending, is_gone

# psutil derives a start time from the time of boot, which moves a little when the clock is corrected.
_SAME_START_SECONDS = 2.0


def record(file: Path, started: Iterable[Endable]) -> None:
    """Write down which processes this run has started; a later one would end them from the last to the first."""
    entries = [
        {
            "name": it.name,
            "pid": it.process.pid,
            "started": it.process.create_time(),
            "signal": int(it.ending.signal),
            "grace_seconds": it.ending.grace_seconds,
        }
        for it in started
    ]
    new = file.with_suffix(".new")
    new.write_text(json.dumps(entries), encoding="utf-8")
    new.replace(file)


def find(file: Path) -> list[Endable]:
    """What still runs of what `record` wrote down, the last first."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    found = (_living(entry) for entry in reversed(entries))
    return [it for it in found if it is not None]


def _living(entry: dict[str, float | str]) -> Endable | None:
    try:
        process = psutil.Process(int(entry["pid"]))
        same = abs(process.create_time() - float(entry["started"])) < _SAME_START_SECONDS
    except psutil.NoSuchProcess:
        return None
    if not same or is_gone(process):
        return None
    return Endable(str(entry["name"]), process, Ending(int(entry["signal"]), float(entry["grace_seconds"])))
