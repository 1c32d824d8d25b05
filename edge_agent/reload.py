"""What a changed configuration means for an agent that runs."""

from typing import Final, NamedTuple

from msgspec import structs

from edge_agent.config import Config

# What takes effect at once. All else is built into connections and files that are open.
COLLECTION: Final = frozenset({"sampling", "collectors", "labels"})
LIVE: Final = COLLECTION | {"logging"}


class Change(NamedTuple):
    """What becomes of a new configuration.

    `effective` is what holds from now on: the old one with what takes effect at once from the new. `needs_restart`
    are the keys of the others that differ, as a person writes them.
    """

    effective: Config
    collection: bool
    logging: bool
    needs_restart: tuple[str, ...]


def change(old: Config, new: Config) -> Change:
    """What becomes of `new` while `old` is in effect."""
    differing = [name for name in Config.__struct_fields__ if getattr(old, name) != getattr(new, name)]
    effective = structs.replace(old, **{name: getattr(new, name) for name in differing if name in LIVE})
    return Change(
        effective=effective,
        collection=not COLLECTION.isdisjoint(differing),
        logging="logging" in differing,
        needs_restart=tuple(name for name in differing if name not in LIVE),
    )
