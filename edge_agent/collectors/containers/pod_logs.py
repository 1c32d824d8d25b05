"""The containers of Kubernetes, by the names of their logs.

The kubelet links each container's log as /var/log/containers/POD_NAMESPACE_CONTAINER-ID.log, and anyone may list them:
the socket of containerd or CRI-O, which knows as much, is root's alone.
"""

import re
from pathlib import Path

from edge_agent.collectors.containers.description import Description

_LOG = re.compile(r"(?P<pod>[^_]+)_(?P<namespace>[^_]+)_(?P<name>.+)-(?P<id>[0-9a-f]{64})\.log")


def read(directory: Path) -> dict[str, Description]:
    """The containers that have a log in `directory`, by id; none where there is no such directory."""
    try:
        files = [file.name for file in directory.iterdir()]
    except OSError:
        return {}
    logs = [log for file in files if (log := _LOG.fullmatch(file)) is not None]
    return {log["id"]: Description(log["name"], namespace=log["namespace"], pod=log["pod"]) for log in logs}
