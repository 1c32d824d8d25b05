"""From the configuration to the collectors that run, in groups."""

import os
from collections import defaultdict
from collections.abc import Iterator
from functools import partial

from edge_agent.collectors.base import Collector, Group, Member
from edge_agent.collectors.connections import Connections
from edge_agent.collectors.containers.collector import Containers
from edge_agent.collectors.cpu import Cpu
from edge_agent.collectors.disk import Disk
from edge_agent.collectors.host import Host
from edge_agent.collectors.memory import Memory
from edge_agent.collectors.network import Network
from edge_agent.collectors.sensors.battery import Battery
from edge_agent.collectors.sensors.hwmon import Hwmon
from edge_agent.collectors.sensors.iio import Iio
from edge_agent.collectors.sensors.onewire import OneWire
from edge_agent.collectors.temperature import Temperature
from edge_agent.config import Config
from edge_agent.errors import ConfigError
from edge_agent.statistics import Statistics

# A tick waits so long for its slowest collector, and never longer than leaves the interval some room.
_MAX_DEADLINE_SECONDS = 2.0
_DEADLINE_SHARE = 0.8
# Beyond its own timeout: to start a program, and to kill it.
_EXEC_DEADLINE_EXTRA_SECONDS = 1.0
# A bus of 1-wire thermometers takes most of a second for each of them.
_SENSOR_DEADLINE_SECONDS = 30.0

# Windows has none. What a program has started could not be ended with it.
_HAS_PROCESS_GROUPS = hasattr(os, "killpg")


def groups(config: Config, statistics: Statistics) -> tuple[Group, ...]:
    """What to run: one group for each interval that built-in collectors have, and one for each of the others.

    `statistics` must be the scheduler's too; the `host` collector reports it. Raises ConfigError for what only building
    a collector shows: a package that is not installed, or options that it does not take.
    """
    by_interval: defaultdict[float, list[Member]] = defaultdict(list)
    for interval_seconds, member in _built_in(config, statistics):
        by_interval[interval_seconds].append(member)
    together = [
        Group(interval_seconds, _deadline_seconds(interval_seconds), tuple(members))
        for interval_seconds, members in sorted(by_interval.items())
    ]
    return (
        *together,
        *_connections(config),
        *_what_runs(config),
        *_slow_sensors(config),
        *_textfile(config, statistics),
        *_http_input(config, statistics),
        *_programs(config, statistics),
        *_running_programs(config, statistics),
        *_modbus(config),
        *_mqtt_inputs(config, statistics),
        *_plugins(config, statistics),
    )


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
    if wanted.sensors.enabled and "hwmon" in wanted.sensors.kinds:
        yield wanted.sensors.interval_seconds or default, Member("sensors.hwmon", Hwmon())
    if wanted.sensors.enabled and "battery" in wanted.sensors.kinds:
        yield wanted.sensors.interval_seconds or default, Member("sensors.battery", Battery())


# What follows makes ticks of its own: it may be slow, which would hold up the tick of the others, and its keys may come
# and go. What needs a library of its own, or is seldom wanted, is imported where it is.


def _connections(config: Config) -> Iterator[Group]:
    network = config.collectors.network
    if network.enabled and network.connections_interval_seconds is not None:
        interval_seconds = network.connections_interval_seconds
        member = Member("network.connections", Connections())
        yield Group(interval_seconds, _deadline_seconds(interval_seconds), (member,))


def _what_runs(config: Config) -> Iterator[Group]:
    processes, containers = config.collectors.processes, config.collectors.containers
    if processes.enabled:
        from edge_agent.collectors.processes import Processes  # noqa: PLC0415

        interval_seconds = processes.interval_seconds or config.sampling.interval_seconds
        yield Group(interval_seconds, _deadline_seconds(interval_seconds), (Member("processes", Processes(processes)),))
    if containers.enabled:
        interval_seconds = containers.interval_seconds or config.sampling.interval_seconds
        yield Group(
            interval_seconds, _deadline_seconds(interval_seconds), (Member("containers", Containers(containers)),)
        )


def _slow_sensors(config: Config) -> Iterator[Group]:
    sensors = config.collectors.sensors
    interval_seconds = sensors.interval_seconds or config.sampling.interval_seconds
    if sensors.enabled and "iio" in sensors.kinds:
        yield Group(interval_seconds, _SENSOR_DEADLINE_SECONDS, (Member("sensors.iio", Iio()),))
    if sensors.enabled and "onewire" in sensors.kinds:
        yield Group(interval_seconds, _SENSOR_DEADLINE_SECONDS, (Member("sensors.onewire", OneWire()),))


def _textfile(config: Config, statistics: Statistics) -> Iterator[Group]:
    textfile = config.collectors.textfile
    if textfile.enabled and textfile.files:
        from edge_agent.collectors.textfile import Textfile  # noqa: PLC0415

        interval_seconds = textfile.interval_seconds or config.sampling.interval_seconds
        member = Member("textfile", Textfile(textfile, partial(statistics.rejected, "textfile")))
        yield Group(interval_seconds, _MAX_DEADLINE_SECONDS, (member,))


def _http_input(config: Config, statistics: Statistics) -> Iterator[Group]:
    http_input = config.collectors.http_input
    if http_input.enabled:
        from edge_agent.collectors.http_input import HttpInput  # noqa: PLC0415

        name = "http_input"
        collector = HttpInput(http_input, partial(statistics.rejected, name), partial(statistics.superseded, name))
        interval_seconds = http_input.interval_seconds or config.sampling.interval_seconds
        yield Group(interval_seconds, _deadline_seconds(interval_seconds), (Member(name, collector),))


def _need_process_groups(collector: str) -> None:
    if not _HAS_PROCESS_GROUPS:
        raise ConfigError(f"collectors.{collector} needs process groups, which this system does not have")


def _programs(config: Config, statistics: Statistics) -> Iterator[Group]:
    if config.collectors.exec:
        _need_process_groups("exec")
    for program in config.collectors.exec:
        from edge_agent.collectors.exec import Exec  # noqa: PLC0415

        name = f"exec.{program.name}"
        collector: Collector = Exec(program, partial(statistics.rejected, name))
        interval_seconds = program.interval_seconds or config.sampling.interval_seconds
        deadline_seconds = program.timeout_seconds + _EXEC_DEADLINE_EXTRA_SECONDS
        yield Group(interval_seconds, deadline_seconds, (Member(name, collector),))


def _running_programs(config: Config, statistics: Statistics) -> Iterator[Group]:
    if config.collectors.execd:
        _need_process_groups("execd")
    for program in config.collectors.execd:
        from edge_agent.collectors.execd import FIRST_WAIT_SECONDS, Execd  # noqa: PLC0415

        name = f"execd.{program.name}"
        collector = Execd(program, partial(statistics.rejected, name), partial(statistics.superseded, name))
        interval_seconds = program.interval_seconds or config.sampling.interval_seconds
        deadline_seconds = FIRST_WAIT_SECONDS + _EXEC_DEADLINE_EXTRA_SECONDS
        yield Group(interval_seconds, deadline_seconds, (Member(name, collector),))


def _modbus(config: Config) -> Iterator[Group]:
    for connection in config.collectors.modbus:
        try:
            from edge_agent.collectors.modbus.collector import Modbus  # noqa: PLC0415
        except ImportError as exc:
            raise ConfigError(
                "collectors.modbus needs a package that is not installed here: pip install 'telemetry-bridge[modbus]'"
            ) from exc

        units = {register.unit or connection.unit for register in connection.registers}
        interval_seconds = connection.interval_seconds or config.sampling.interval_seconds
        deadline_seconds = connection.timeout_seconds * (1 + 2 * len(units)) + _EXEC_DEADLINE_EXTRA_SECONDS
        yield Group(interval_seconds, deadline_seconds, (Member(f"modbus.{connection.name}", Modbus(connection)),))


def _mqtt_inputs(config: Config, statistics: Statistics) -> Iterator[Group]:
    for one in config.collectors.mqtt_input:
        from edge_agent.collectors.mqtt_input import MqttInput  # noqa: PLC0415

        name = f"mqtt_input.{one.name}"
        collector = MqttInput(
            one,
            one.broker or config.broker,
            f"edge-{config.device}-input-{one.name}",
            partial(statistics.rejected, name),
            partial(statistics.superseded, name),
        )
        interval_seconds = one.interval_seconds or config.sampling.interval_seconds
        yield Group(interval_seconds, _deadline_seconds(interval_seconds), (Member(name, collector),))


def _plugins(config: Config, statistics: Statistics) -> Iterator[Group]:
    for plugin in config.collectors.plugins:
        from edge_agent.collectors import plugins  # noqa: PLC0415

        name = f"plugin.{plugin.name}"
        interval_seconds = plugin.interval_seconds or config.sampling.interval_seconds
        collector = plugins.build(plugin, interval_seconds, partial(statistics.rejected, name))
        yield Group(interval_seconds, plugin.timeout_seconds, (Member(name, collector),))
