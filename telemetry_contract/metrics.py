"""The metric catalogue: name, kind, unit, labels and help of every metric that the agent's own collectors send.

Names follow https://prometheus.io/docs/practices/naming/. A metric that is not listed (an `exec` collector's, a
foreign publisher's) is as welcome; its unit is read off its name's suffix and its kind off `_total`.
"""

from enum import StrEnum
from typing import NamedTuple


class MetricKind(StrEnum):
    """Whether a value stands for itself or only its increase means something."""

    GAUGE = "gauge"
    COUNTER = "counter"


class Metric(NamedTuple):
    """One metric. `unit` is "" where it counts things or says yes (1) or no (0); `labels` are sorted.

    Each series has all of `labels` and some of `optional_labels`.
    """

    name: str
    kind: MetricKind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    optional_labels: tuple[str, ...] = ()


# Base units by name suffix, `_total` removed; the first that fits. Those of Prometheus
# (https://prometheus.io/docs/practices/naming/#base-units) and those of sensors that it does not name.
_UNIT_SUFFIXES = (
    *("bytes_per_second", "meters_per_second"),
    *("seconds", "celsius", "meters", "bytes", "ratio", "volts", "amperes", "joules", "grams"),
    *("percent", "hertz", "watts", "pascals", "lux", "rpm"),
)


def kind_of(name: str) -> MetricKind:
    """The kind of any metric, from its name."""
    return MetricKind.COUNTER if name.endswith("_total") else MetricKind.GAUGE


def unit_of(name: str) -> str:
    """The unit of any metric, from its name's suffix; "" where it names none."""
    base = name.removesuffix("_total")
    return next((unit for unit in _UNIT_SUFFIXES if base == unit or base.endswith(f"_{unit}")), "")


def _metric(name: str, help_: str, *labels: str) -> Metric:
    return Metric(name, kind_of(name), unit_of(name), help_, labels)


# What a container is called by, as far as it has it.
_CONTAINER = ("container", "id", "namespace", "pod", "pod_uid", "project", "service", "user")


def _of_container(name: str, help_: str, *labels: str) -> Metric:
    return _metric(name, help_, *labels)._replace(optional_labels=_CONTAINER)


_METRICS = (
    _metric("cpu_usage_percent", "CPU time not idle since the previous reading, all cores together, 0 to 100."),
    _metric("cpu_core_usage_percent", "CPU time of one core not idle since the previous reading, 0 to 100.", "core"),
    _metric("cpu_seconds_total", "CPU time of all cores since the start, by what it was spent on.", "mode"),
    _metric("cpu_cores", "Logical cores that are online."),
    _metric("cpu_load_average", "Processes that run or wait to run, averaged over 1, 5 or 15 minutes.", "minutes"),
    _metric("cpu_frequency_hertz", "Present clock frequency, averaged over the cores, where the machine tells it."),
    _metric("cpu_context_switches_total", "Switches from one thread to another."),
    _metric("cpu_interrupts_total", "Interrupts served."),
    _metric("memory_total_bytes", "Memory that the operating system has."),
    _metric("memory_available_bytes", "Memory that programs could get without swapping."),
    _metric("memory_used_bytes", "Memory in use: total - available."),
    _metric("memory_buffers_bytes", "Memory in use for buffers of block devices (Linux)."),
    _metric("memory_cached_bytes", "Memory in use for the content of files (Linux)."),
    _metric("memory_usage_percent", "Memory in use, 0 to 100: (total - available) / total."),
    _metric("swap_total_bytes", "Size of the swap space."),
    _metric("swap_used_bytes", "Swap space in use."),
    _metric("swap_usage_percent", "Swap space in use, 0 to 100; no value where there is none."),
    _metric("swap_in_bytes_total", "Bytes read back from swap."),
    _metric("swap_out_bytes_total", "Bytes written to swap."),
    _metric("disk_total_bytes", "Size of the file system mounted at `mount`.", "mount"),
    _metric("disk_used_bytes", "Bytes in use on the file system mounted at `mount`.", "mount"),
    _metric("disk_available_bytes", "Bytes that programs without privileges may still write.", "mount"),
    _metric("disk_usage_percent", "Space in use, 0 to 100, as df says it: used / (used + available).", "mount"),
    _metric("disk_read_only", "1 where the file system is mounted read-only, as after an error, else 0.", "mount"),
    _metric("disk_inodes", "Inodes that the file system has, where their number is fixed.", "mount"),
    _metric("disk_inodes_used", "Inodes in use.", "mount"),
    _metric("disk_inodes_usage_percent", "Inodes in use, 0 to 100.", "mount"),
    _metric("disk_read_bytes_total", "Bytes read from the disk.", "device"),
    _metric("disk_written_bytes_total", "Bytes written to the disk.", "device"),
    _metric("disk_reads_total", "Reads that the disk completed.", "device"),
    _metric("disk_writes_total", "Writes that the disk completed.", "device"),
    _metric("disk_read_seconds_total", "Time that reads took, added up over all of them.", "device"),
    _metric("disk_write_seconds_total", "Time that writes took, added up over all of them.", "device"),
    _metric("disk_busy_seconds_total", "Time in which the disk had something to do (Linux).", "device"),
    _metric("network_receive_bytes_total", "Bytes received.", "device"),
    _metric("network_transmit_bytes_total", "Bytes sent.", "device"),
    _metric("network_receive_packets_total", "Packets received.", "device"),
    _metric("network_transmit_packets_total", "Packets sent.", "device"),
    _metric("network_receive_errors_total", "Packets received that were damaged or could not be taken.", "device"),
    _metric("network_transmit_errors_total", "Packets that could not be sent because of an error.", "device"),
    _metric("network_receive_dropped_total", "Packets received and dropped, mostly for lack of room.", "device"),
    _metric("network_transmit_dropped_total", "Packets dropped before they were sent.", "device"),
    _metric("network_up", "1 where the interface is up and has a link, else 0.", "device"),
    _metric("network_speed_bytes_per_second", "What the link can carry, where the driver tells.", "device"),
    _metric("network_connections", "TCP connections and listening sockets of this state.", "state"),
    _metric("temperature_celsius", "What a temperature sensor measures.", "chip", "sensor"),
    _metric("humidity_percent", "Relative humidity of the air at a sensor.", "chip", "sensor"),
    _metric("pressure_pascals", "Pressure of the air or what else a sensor is in.", "chip", "sensor"),
    _metric("illuminance_lux", "How bright it is at a sensor.", "chip", "sensor"),
    _metric("fan_speed_rpm", "Turns of a fan in a minute.", "chip", "sensor"),
    _metric("voltage_volts", "Voltage that a chip measures.", "chip", "sensor"),
    _metric("current_amperes", "Current that a chip measures.", "chip", "sensor"),
    _metric("power_watts", "Power that a chip measures.", "chip", "sensor"),
    _metric("energy_joules_total", "Energy that a chip has counted.", "chip", "sensor"),
    _metric("battery_charge_percent", "Charge of the battery, 0 to 100."),
    _metric("battery_remaining_seconds", "How long the battery lasts; no value on the mains or where it is not known."),
    _metric("battery_plugged_in", "1 where the machine is on the mains, else 0."),
    _metric("textfile_age_seconds", "Time since a file of the `textfile` collector was written.", "file"),
    _metric("textfile_used", "1 where a file's series are sent, 0 where it is too old or can't be used.", "file"),
    _metric("host_uptime_seconds", "Time since the machine started, time asleep included."),
    _metric("host_boot_time_seconds", "When the machine started, as its own clock has it: seconds since 1970."),
    _metric("host_processes", "Processes; no value where the system hides those of others."),
    _metric("host_users", "Login sessions."),
    _metric("agent_heartbeat_total", "Ticks of the `host` collector since the agent started."),
    _metric("agent_uptime_seconds", "Time since the agent started."),
    _metric("agent_cpu_seconds_total", "CPU time that the agent has used."),
    _metric("agent_resident_memory_bytes", "Memory that the agent holds (resident set size)."),
    _metric(
        "agent_collector_failures_total",
        "Ticks for which a collector gave nothing: it failed or was late.",
        "collector",
    ),
    _metric(
        "agent_collector_rejected_values_total",
        "Entries that a program, file, plugin or device of yours gave and that were not usable.",
        "collector",
    ),
    _metric(
        "agent_collector_superseded_values_total",
        "Values that a newer one replaced before a tick took them.",
        "collector",
    ),
    _metric("process_cpu_percent", "CPU time since the previous reading; 100 is one core.", "process"),
    _metric(
        "process_resident_memory_bytes", "Memory held (resident set size); what is shared counts often.", "process"
    ),
    _metric("process_count", "Processes of this name.", "process"),
    _of_container("container_info", "1, for the image that the container was made from.", "image"),
    _of_container("container_cpu_percent", "CPU time since the previous reading; 100 is one core."),
    _of_container("container_cpu_seconds_total", "CPU time since the container started."),
    _of_container("container_cpu_throttled_seconds_total", "Time for which its CPU limit kept it waiting."),
    _of_container("container_memory_working_set_bytes", "Memory in use, without file cache that lay unused."),
    _of_container("container_memory_limit_bytes", "Memory that it may use at most, where that is limited."),
    _of_container("container_memory_usage_percent", "Working set by limit, 0 to 100, where there is a limit."),
    _of_container("container_oom_kills_total", "Processes killed because the memory did not suffice."),
    _of_container("container_pids", "Processes and threads."),
    _of_container("container_disk_read_bytes_total", "Bytes read from disks."),
    _of_container("container_disk_written_bytes_total", "Bytes written to disks."),
    _of_container("container_disk_reads_total", "Reads that disks completed."),
    _of_container("container_disk_writes_total", "Writes that disks completed."),
    _of_container(
        "container_pressure_stalled_seconds_total",
        "Time in which some, or all that could run, had to wait for a resource.",
        *("kind", "resource"),
    ),
)

CATALOGUE: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
