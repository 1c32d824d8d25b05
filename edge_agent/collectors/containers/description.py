"""What people call a container."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """A container's name, image and owner, as its engine tells them; "" where there is none.

    The owner is a project and a service (Compose, Swarm) or a namespace and a pod (Kubernetes). A sandbox is what
    keeps the network of a pod and does nothing else.
    """

    name: str
    image: str = ""
    project: str = ""
    service: str = ""
    namespace: str = ""
    pod: str = ""
    is_sandbox: bool = False
