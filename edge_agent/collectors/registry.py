"""From the configuration to the collectors that run, in groups."""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial

from edge_agent.collectors.base import Collector, Group, Member
from edge_agent.collectors.containers.collector import Containers
from edge_agent.collectors.cpu import Cpu
from edge_agent.collectors.disk import Disk
from edge_agent.collectors.exec import Exec
from edge_agent.collectors.host import Host
from edge_agent.collectors.memory import Memory
from edge_agent.collectors.network import Network
from edge_agent.collectors.processes import Processes
from edge_agent.collectors.temperature import Temperature
from edge_agent.config import Config
from edge_agent.statistics import Statistics

# A tick waits so long for its slowest collector, and never longer than leaves the interval some room.
_MAX_DEADLINE_SECONDS = 2.0
_DEADLINE_SHARE = 0.8
# Beyond its own timeout: to start a program, and to kill it.
_EXEC_DEADLINE_EXTRA_SECONDS = 1.0


def groups(config: Config, statistics: Statistics) -> tuple[Group, ...]:
    """What to run: one group for each interval that built-in collectors have, and one for each of the others.

    `statistics` must be the scheduler's too; the `host` collector reports it.
    """
    by_interval: defaultdict[float, list[Member]] = defaultdict(list)
    for interval_seconds, member in _built_in(config, statistics):
        by_interval[interval_seconds].append(member)
    together = [
        Group(interval_seconds, _deadline_seconds(interval_seconds), tuple(members))
        for interval_seconds, members in sorted(by_interval.items())
    ]
    return (*together, *_what_runs(config), *_programs(config, statistics))


def _deadline_seconds(interval_seconds: float) -> float:
    return min(_MAX_DEADLINE_SECONDS, _DEADLINE_SHARE * interval_seconds)


def _built_in(config: Config, statistics: Statistics) -> Iterator[tuple[float, Member]]:
    wanted = config.collectors
    default = config.sampling.interval_seconds
    if wanted.cpu.enabled:
        yield wanted.cpu.interval_seconds or default, Member("cpu", Cpu(per_core=wanted.cpu.per_core))
    if wanted.memory.enabled:
        yield wanted.memory.interval_seconds or default, Member("memory", Memory())
    if wanted.disk.enabled:
        yield wanted.disk.interval_seconds or default, Member("disk", Disk(wanted.disk))
    if wanted.network.enabled:
        yield wanted.network.interval_seconds or default, Member("network", Network(wanted.network))
    if wanted.temperature.enabled:
        yield wanted.temperature.interval_seconds or default, Member("temperature", Temperature())
    if wanted.host.enabled:
        yield wanted.host.interval_seconds or default, Member("host", Host(statistics))


# What follows makes ticks of its own: what it measures comes and goes, and programs may be slow.


def _what_runs(config: Config) -> Iterator[Group]:
    processes, containers = config.collectors.processes, config.collectors.containers
    if processes.enabled:
        interval_seconds = processes.interval_seconds or config.sampling.interval_seconds
        yield Group(interval_seconds, _deadline_seconds(interval_seconds), (Member("processes", Processes(processes)),))
    if containers.enabled:
        interval_seconds = containers.interval_seconds or config.sampling.interval_seconds
        yield Group(
            interval_seconds, _deadline_seconds(interval_seconds), (Member("containers", Containers(containers)),)
        )


def _programs(config: Config, statistics: Statistics) -> Iterator[Group]:
    for program in config.collectors.exec:
        name = f"exec.{program.name}"
        collector: Collector = Exec(program, partial(statistics.rejected, name))
        interval_seconds = program.interval_seconds or config.sampling.interval_seconds
        deadline_seconds = program.timeout_seconds + _EXEC_DEADLINE_EXTRA_SECONDS
        yield Group(interval_seconds, deadline_seconds, (Member(name, collector),))
