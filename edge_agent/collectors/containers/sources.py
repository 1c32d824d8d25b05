"""Everyone who may know what a container is called."""

import logging
from glob import glob
from pathlib import Path

from edge_agent.collectors.containers import engines, pod_logs
from edge_agent.collectors.containers.description import Description
from edge_agent.errors import CollectorError

logger = logging.getLogger(__name__)


class Sources:
    """The logs of Kubernetes and the engines that listen on `sockets` (shell patterns) below `root`.

    One that can't be asked is left out; it is logged once, and once when it answers again.
    """

    def __init__(self, root: Path, sockets: tuple[str, ...]) -> None:
        self._root = root
        self._patterns = sockets
        self._silent: set[str] = set()

    def ask(self) -> dict[str, Description]:
        """What all of them tell, by container id; the engines know better than the logs."""
        found = pod_logs.read(self._root / "var/log/containers")
        for pattern in self._patterns:
            for socket in sorted(glob(str(self._root / pattern.lstrip("/")))):  # noqa: PTH207 - a pattern with a root
                found |= self._engine(socket)
        return found

    def _engine(self, socket: str) -> dict[str, Description]:
        try:
            found = engines.ask(socket)
        except CollectorError as exc:
            if socket not in self._silent:
                logger.info("collector containers: %s can't be asked for names: %s", socket, exc)
            self._silent.add(socket)
            return {}
        if socket in self._silent:
            logger.info("collector containers: %s answers again", socket)
            self._silent.remove(socket)
        return found
