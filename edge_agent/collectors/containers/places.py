r"""Which control groups are containers, by the names that engines and systemd give them.

A container of Docker, Podman, containerd or CRI-O has an id of 64 hexadecimal digits:

    /docker/ID                                                                Docker, without systemd
    /system.slice/docker-ID.scope                                             Docker, with systemd
    /user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope  Podman, without root
    /system.slice/web.service/libpod-payload-ID                               Podman, as a systemd unit
    /kubepods/burstable/podUID/ID                                             Kubernetes
    /kubepods.slice/kubepods-podUID.slice/cri-containerd-ID.scope             Kubernetes, with systemd
    /system.slice/containerd.service/kubepods-podUID.slice:cri-containerd:ID  the two of them disagreeing

One of LXC, Incus or systemd-nspawn has a name instead:

    /lxc.payload.web, /lxc/web, /machine.slice/systemd-nspawn@web.service, /machine.slice/machine-web.scope,
    /machine.slice/web.scope

What runs inside a container, other containers included, is counted in it and not shown on its own.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

_ID = re.compile(r"(?:(?P<engine>.+)[-:])?(?P<id>[0-9a-f]{64})(?:\.scope)?")
_NAMED = re.compile(
    r"(?:/lxc(?:\.payload)?/|.*/lxc\.payload\.)(?P<lxc>[^/]+)"
    r"|.*/systemd-nspawn@(?P<unit>[^/]+)\.service"
    # Virtual machines are there too, and libvirt numbers its containers anew with each start.
    r"|.*/machine\.slice/(?:machine-)?+(?!qemu\\x2d)(?:lxc\\x2d\d+\\x2d)?(?P<machine>[^/]+)\.scope"
)
_POD = re.compile(r"pod(?P<uid>[0-9a-f]{32}|[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?![0-9a-f])")
_USER = re.compile(r"/user-(?P<uid>\d+)\.slice/")
_SYSTEMD_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")
# A directory has a link from each directory in it, from its parent and from itself.
_LINKS_OF_A_LEAF = 2


@dataclass(frozen=True)
class Place:
    """A container among the control groups; `path` begins with a slash and is relative to the hierarchy.

    It has an `id` or a `name`, the latter where the path tells. `pod_uid` is Kubernetes' and `user` the number of the
    user who runs it without root; "" where there is none.
    """

    path: str
    id: str = ""
    name: str = ""
    pod_uid: str = ""
    user: str = ""


def find(hierarchy: str) -> Iterator[Place]:
    """Every container below the directory `hierarchy`, the mount point of a hierarchy of control groups."""
    pending = [""]
    while pending:
        parent = pending.pop()
        for name, is_leaf in _directories(f"{hierarchy}{parent}"):
            path = f"{parent}/{name}"
            place = identify(path)
            if place is not None:
                yield _where_limits_are(hierarchy, place)
            elif not is_leaf:
                pending.append(path)


def identify(path: str) -> Place | None:
    """What the path of a control group tells; None where it is not a container's."""
    named = _ID.fullmatch(path.rpartition("/")[2])
    if named is not None:
        if "conmon" in (named["engine"] or ""):  # Podman's and CRI-O's monitor, which bears its container's id
            return None
        pod, user = _POD.search(path), _USER.search(path)
        return Place(
            path,
            id=named["id"],
            pod_uid=pod["uid"].replace("_", "-") if pod else "",
            user=user["uid"] if user else "",
        )
    named = _NAMED.fullmatch(path)
    if named is None:
        return None
    user = _USER.search(path)
    name = next(it for it in named.groups() if it is not None)
    return Place(path, name=_SYSTEMD_ESCAPE.sub(_unescaped, name), user=user["uid"] if user else "")


def _where_limits_are(hierarchy: str, place: Place) -> Place:
    """Podman's runtime crun makes a group in the group of a container, and sets the limits there."""
    inner = f"{place.path}/container"
    if "/libpod-" in place.path and os.path.isdir(f"{hierarchy}{inner}"):  # noqa: PTH112 - asked at every tick
        return replace(place, path=inner)
    return place


def _unescaped(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16))


def _directories(path: str) -> Iterator[tuple[str, bool]]:
    """The directories in a directory, and whether each is known to have none in it."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield entry.name, entry.stat(follow_symlinks=False).st_nlink == _LINKS_OF_A_LEAF
    except OSError:
        return  # it has just gone, or is not ours to see
