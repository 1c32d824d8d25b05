"""The `containers` collector."""

import time
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch

from edge_agent.collectors.containers import labels as labelling
from edge_agent.collectors.containers import places
from edge_agent.collectors.containers.description import Description
from edge_agent.collectors.containers.keys import Keys
from edge_agent.collectors.containers.labels import Assigned, Labels
from edge_agent.collectors.containers.names import PATIENCE_SECONDS, Names
from edge_agent.collectors.containers.places import Place
from edge_agent.collectors.containers.sources import Sources
from edge_agent.collectors.containers.usage import Hierarchy, Usage
from edge_agent.collectors.containers.version1 import Version1
from edge_agent.collectors.containers.version2 import Version2
from edge_agent.config import Containers as ContainersConfig


class Containers:
    """Every container of the host; a host without any has nothing to report.

    It needs no rights but to read the kernel's files, and shows ids in place of names where it may not ask for those.
    """

    def __init__(
        self,
        config: ContainersConfig,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._config = config
        self._monotonic = monotonic
        self._version1 = Version1(config.root)
        self._version2 = Version2(config.root)
        self._names = Names(
            Sources(config.root, config.engine_sockets).ask, monotonic=monotonic, patience_seconds=patience_seconds
        )
        self._keys = Keys()
        self._assigned: dict[str, Assigned] = {}
        self._cpu: dict[str, tuple[float, float]] = {}  # by path: when it was read, and the seconds used by then

    def collect(self) -> dict[str, float | None]:
        """All that is known of each of them; CPU usage is measured between calls, so a first one has none yet."""
        found: dict[str, float | None] = {}
        hierarchy = self._hierarchy()
        if hierarchy is None:
            return found
        running = [place for place in places.find(hierarchy.directory) if hierarchy.populated(place.path)]
        described = self._names.of(place.id for place in running if place.id)
        self._keys.turn()
        self._assigned = labelling.told_apart(dict(self._wanted(running, described)), self._assigned)
        images = {place.path: it.image for place in running if (it := described.get(place.id)) is not None}
        cpu = {}
        for path, (_, labels) in sorted(self._assigned.items()):
            usage = hierarchy.usage(path)
            if usage is None:
                continue
            if usage.cpu_seconds is not None:
                cpu[path] = (self._monotonic(), usage.cpu_seconds)
                found[self._keys.of("container_cpu_percent", labels)] = _percent(self._cpu.get(path), cpu[path])
            if image := labelling.fitting(images.get(path, "")):
                found[self._keys.of("container_info", (("image", image), *labels))] = 1
            for metric, value in _values(usage):
                found[self._keys.of(metric, labels)] = value
            for (resource, kind), seconds in usage.stalled_seconds.items():
                of = (("kind", kind), ("resource", resource), *labels)
                found[self._keys.of("container_pressure_stalled_seconds_total", of)] = seconds
        self._cpu = cpu
        return found

    def close(self) -> None:
        """Stop asking for names."""
        self._names.close()

    def _hierarchy(self) -> Hierarchy | None:
        if self._version2.is_mounted():
            return self._version2
        return self._version1 if self._version1.is_mounted() else None

    def _wanted(
        self, running: Iterable[Place], described: dict[str, Description | None]
    ) -> Iterator[tuple[str, Labels]]:
        """The labels of each container that is to be shown, by path."""
        named_pods = {place.pod_uid for place in running if described.get(place.id) is not None}
        for place in running:
            description = described.get(place.id)
            if place.id and place.id not in described:
                continue  # its name may be known soon
            if description is None and place.pod_uid in named_pods - {""}:
                continue  # the sandbox of a pod whose containers have names
            if description is not None and description.is_sandbox:
                continue
            labels = labelling.of(place, description)
            name = dict(labels).get("container", "")
            if not any(fnmatch(name, pattern) for pattern in self._config.exclude_names):
                yield place.path, labels


def _values(usage: Usage) -> Iterator[tuple[str, float]]:
    """The metrics of what is counted, without labels."""
    memory, limit, moved = usage.memory_working_set_bytes, usage.memory_limit_bytes, usage.transfers
    counted: dict[str, float | None] = {
        "container_cpu_seconds_total": usage.cpu_seconds,
        "container_cpu_throttled_seconds_total": usage.cpu_throttled_seconds,
        "container_memory_working_set_bytes": memory,
        "container_memory_limit_bytes": limit,
        "container_memory_usage_percent": 100 * memory / limit if memory is not None and limit else None,
        "container_oom_kills_total": usage.oom_kills,
        "container_pids": usage.pids,
    }
    if moved is not None:
        counted["container_disk_read_bytes_total"] = moved.read_bytes
        counted["container_disk_written_bytes_total"] = moved.written_bytes
        counted["container_disk_reads_total"] = moved.reads
        counted["container_disk_writes_total"] = moved.writes
    for metric, value in counted.items():
        if value is not None:
            yield metric, value


def _percent(before: tuple[float, float] | None, now: tuple[float, float]) -> float | None:
    """CPU seconds a second between two readings, in percent; None where the counter began anew."""
    if before is None or now[0] <= before[0] or now[1] < before[1]:
        return None
    return 100 * (now[1] - before[1]) / (now[0] - before[0])
