"""Asking an engine about its containers: Docker's API over a Unix socket, which Podman speaks too.

https://docs.docker.com/reference/api/engine/ (`GET /containers/json`). Whoever may write to the socket of an engine
that runs as root is as good as root, so the agent asks where it was given that right and goes without names where not.
"""

import http.client
import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from edge_agent.collectors.containers.description import Description
from edge_agent.errors import CollectorError

# Those that don't run as well: a container has a name before it has processes.
_REQUEST = "/containers/json?all=true"
_TIMEOUT_SECONDS = 5.0
_CHUNK_BYTES = 65_536
MAX_ANSWER_BYTES = 16 * 1024 * 1024


def ask(path: str, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> dict[str, Description]:
    """The containers of the engine that listens at `path`, by id.

    Raises CollectorError where it can't be asked or answers what can't be used.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise CollectorError("this system has no Unix sockets")
    connection = _UnixConnection(path, timeout_seconds)
    try:
        connection.request("GET", _REQUEST, headers={"Accept": "application/json"})
        response = connection.getresponse()
        answer = _read(response, time.monotonic() + timeout_seconds)
    except OSError as exc:
        raise CollectorError(exc.strerror or str(exc) or type(exc).__name__) from exc
    except http.client.HTTPException as exc:
        raise CollectorError(f"it does not speak HTTP: {type(exc).__name__}") from exc
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise CollectorError(f"it answered with HTTP status {response.status}")
    return parse(answer)


def parse(answer: bytes) -> dict[str, Description]:
    """What a list of containers says, by id; entries that say nothing usable are left out.

    Raises CollectorError where it is not a list of containers.
    """
    try:
        containers = json.loads(answer)
    except (ValueError, RecursionError) as exc:
        raise CollectorError("it answered with what is not JSON") from exc
    if not isinstance(containers, list):
        raise CollectorError("it answered with JSON that is not a list of containers")
    found = {}
    for container in containers:
        if isinstance(container, dict) and isinstance(container_id := container.get("Id"), str):
            description = _description(container)
            if description is not None:
                found[container_id] = description
    return found


def _description(container: Mapping[str, Any]) -> Description | None:
    name = _name(container.get("Names"))
    image = _text(container.get("Image"))
    labels = container.get("Labels")
    if not isinstance(labels, dict):
        labels = {}
    if "io.kubernetes.pod.uid" in labels:
        return Description(
            _text(labels.get("io.kubernetes.container.name")) or name,
            image,
            namespace=_text(labels.get("io.kubernetes.pod.namespace")),
            pod=_text(labels.get("io.kubernetes.pod.name")),
            is_sandbox=labels.get("io.kubernetes.docker.type") == "podsandbox",
        )
    if "com.docker.swarm.task.name" in labels:
        return Description(
            # SERVICE.SLOT.TASK: the task is new with each start.
            _text(labels["com.docker.swarm.task.name"]).rpartition(".")[0] or name,
            image,
            project=_text(labels.get("com.docker.stack.namespace")),
            service=_text(labels.get("com.docker.swarm.service.name")),
        )
    if "com.docker.compose.project" in labels:
        project, service = _text(labels["com.docker.compose.project"]), _text(labels.get("com.docker.compose.service"))
        # PROJECT-SERVICE-run-RANDOM, as `docker compose run` names it.
        once = labels.get("com.docker.compose.oneoff") == "True"
        return Description(f"{project}-{service}-run" if once else name, image, project=project, service=service)
    return Description(name, image) if name else None


def _name(names: Any) -> str:
    """The container's own name among those that it has for containers linked to it (/OTHER/ALIAS)."""
    own = [it.removeprefix("/") for it in names if isinstance(it, str)] if isinstance(names, list) else []
    return next((it for it in own if it and "/" not in it), "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    answer = bytearray()
    while chunk := response.read1(_CHUNK_BYTES):
        answer += chunk
        if len(answer) > MAX_ANSWER_BYTES:
            raise CollectorError(f"it answered with more than {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    return bytes(answer)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a socket in the file system; the host name is for the request's header alone."""

    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        """Open the connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
