"""How the series of a container are told apart: by its owner and its name, which outlive its id.

container="web"                                          Docker, Podman, LXC, systemd-nspawn
container="shop-web-1", project="shop", service="web"    Compose, Swarm
container="web", namespace="shop", pod="web-5d9c"        Kubernetes
id="0123456789ab"                                        where nobody tells its name; with `pod_uid` in Kubernetes
..., user="1000"                                         run by a user without root
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from edge_agent.collectors.containers.description import Description
from edge_agent.collectors.containers.places import Place

Labels = tuple[tuple[str, str], ...]  # sorted by name

_SHORT_ID_CHARACTERS = 12  # as engines show it
# Five such labels and a metric's name fit into a series key, whose characters are not doubled by escaping.
_MAX_CHARACTERS = 180
_UNFIT = re.compile(r"[^ !#-\[\]-~]")  # all but printable ASCII without quotes and backslashes


def of(place: Place, description: Description | None) -> Labels:
    """The labels of a container, as far as it is the only one of its name."""
    if description is not None and description.name:
        labels = {
            "container": description.name,
            "namespace": description.namespace,
            "pod": description.pod,
            "project": description.project,
            "service": description.service,
        }
    elif place.name:
        labels = {"container": place.name}
    else:
        labels = {"id": place.id[:_SHORT_ID_CHARACTERS], "pod_uid": place.pod_uid}
    labels["user"] = place.user
    return tuple(sorted((name, fitting(value)) for name, value in labels.items() if value))


def fitting(text: str) -> str:
    """`text` as a label's value: engines pass on what anyone who starts a container may choose."""
    return _UNFIT.sub("?", text)[:_MAX_CHARACTERS]


class Assigned(NamedTuple):
    """The labels that a container would have if it were alone, and those that it has."""

    wanted: Labels
    given: Labels


def told_apart(wanted: Mapping[str, Labels], before: Mapping[str, Assigned]) -> dict[str, Assigned]:
    """Labels of its own for each container, by path.

    Where several want the same, all but one have a number after their name. A container keeps what it had `before`;
    for those that are new the path decides, which begins with the engine and its user.
    """
    assigned = {
        path: held
        for path, labels in wanted.items()
        if (held := before.get(path)) is not None and held.wanted == labels
    }
    taken = {held.given for held in assigned.values()}
    reserved = taken | set(wanted.values())
    for path in sorted(wanted.keys() - assigned.keys()):
        labels = given = wanted[path]
        number = 1
        while given in (taken if number == 1 else reserved):
            number += 1
            given = _numbered(labels, number)
        assigned[path] = Assigned(labels, given)
        taken.add(given)
        reserved.add(given)
    return assigned


def _numbered(labels: Labels, number: int) -> Labels:
    return tuple((name, f"{value}-{number}" if name in {"container", "id"} else value) for name, value in labels)
