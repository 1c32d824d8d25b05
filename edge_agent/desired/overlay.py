"""Desired settings laid over the device's own configuration."""

from collections.abc import Iterator
from typing import Any

from msgspec import structs

from edge_agent.config import Collectors, Config, changed
from edge_agent.config_source import KeyPath
from edge_agent.errors import ConfigError
from telemetry_contract.desired import DesiredSettings

_SEVERAL = tuple(name for name in Collectors.__struct_fields__ if isinstance(getattr(Collectors(), name), tuple))


def overlaid(own: Config, desired: DesiredSettings | None) -> Config:
    """The configuration that holds with both.

    Raises ConfigError, in the words in which a file is refused, where they don't fit together.
    """
    if desired is None:
        return own
    config = changed(own, dict(_changes(own, desired)))
    return _without(config, {name for name, wanted in (desired.collectors or {}).items() if wanted.enabled is False})


def _changes(own: Config, desired: DesiredSettings) -> Iterator[tuple[KeyPath, Any]]:
    if desired.sampling is not None and desired.sampling.interval_seconds is not None:
        yield ("sampling", "interval_seconds"), desired.sampling.interval_seconds
    if desired.labels is not None:
        yield ("labels",), desired.labels
    for name, wanted in (desired.collectors or {}).items():
        path = _path(own, name)
        if wanted.interval_seconds is not None:
            yield (*path, "interval_seconds"), wanted.interval_seconds
        if wanted.enabled is not None and len(path) == len(("collectors", name)):
            yield (*path, "enabled"), wanted.enabled


def _path(own: Config, name: str) -> KeyPath:
    """Where the collector stands."""
    section, dot, member = name.partition(".")
    if section not in _SEVERAL:
        if dot or section not in Collectors.__struct_fields__:
            return ("collectors", name)  # which is then refused like any other unknown key
        return ("collectors", section)
    names = [one.name for one in getattr(own.collectors, section)]
    if not dot:
        raise ConfigError(f"collectors.{section} may hold several: name one of them, like {section}.NAME")
    if member not in names:
        raise ConfigError(f"collectors.{name} is not there: this device has {', '.join(names) or 'none'} in {section}")
    return ("collectors", section, names.index(member))


def _without(config: Config, names: set[str]) -> Config:
    """Of those that stand in lists, what is switched off is left out."""
    kept = {
        section: tuple(one for one in getattr(config.collectors, section) if f"{section}.{one.name}" not in names)
        for section in _SEVERAL
    }
    return structs.replace(config, collectors=structs.replace(config.collectors, **kept))
