"""The catalogue against what the collectors really send and what the documentation says of it."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from harness.tree import build_tree

from edge_agent import dry_run
from edge_agent.collectors.connections import Connections
from edge_agent.collectors.cpu import Cpu
from edge_agent.collectors.disk import Disk
from edge_agent.collectors.host import Host
from edge_agent.collectors.memory import Memory
from edge_agent.collectors.network import Network
from edge_agent.collectors.processes import Processes
from edge_agent.collectors.sensors.battery import Battery
from edge_agent.collectors.sensors.hwmon import Hwmon
from edge_agent.collectors.sensors.iio import Iio
from edge_agent.collectors.temperature import Temperature
from edge_agent.collectors.textfile import Textfile
from edge_agent.config import Config
from edge_agent.config import Disk as DiskConfig
from edge_agent.config import Network as NetworkConfig
from edge_agent.config import Processes as ProcessesConfig
from edge_agent.config import Textfile as TextfileConfig
from edge_agent.statistics import Statistics
from telemetry_contract.metrics import CATALOGUE, Metric, MetricKind, kind_of, unit_of
from telemetry_contract.series import SeriesKey

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "metrics.md"
CONTAINERS = ROOT / "tests" / "edge" / "testcases" / "containers"
SENSORS = ROOT / "tests" / "edge" / "testcases" / "sensors"
SYS_CLASSES = ROOT / "tests" / "edge" / "sys_class"


class CoreTimes(NamedTuple):
    user: float = 1.0
    idle: float = 2.0


def labels_by_metric(*answers: Mapping[str, float | None]) -> dict[str, set[tuple[str, ...]]]:
    found: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for answer in answers:
        for text in answer:
            key = SeriesKey.parse(text)
            found[key.metric].add(tuple(name for name, _ in key.labels))
    return dict(found)


def machine_with_everything() -> SimpleNamespace:
    transfers = SimpleNamespace(
        **dict.fromkeys(("read_bytes", "write_bytes", "read_count", "write_count", "read_time", "write_time"), 1),
        busy_time=1,
    )
    packets = SimpleNamespace(
        **dict.fromkeys(("bytes_recv", "bytes_sent", "packets_recv", "packets_sent"), 1),
        **dict.fromkeys(("errin", "errout", "dropin", "dropout"), 0),
    )
    return SimpleNamespace(
        cpu_times=lambda percpu: [CoreTimes()] * 2 if percpu else None,
        getloadavg=lambda: (1.0, 2.0, 3.0),
        cpu_stats=lambda: SimpleNamespace(ctx_switches=1, interrupts=2),
        cpu_freq=lambda: SimpleNamespace(current=600.0),
        virtual_memory=lambda: SimpleNamespace(total=4, available=1, buffers=1, cached=1),
        swap_memory=lambda: SimpleNamespace(total=4, used=1, sin=0, sout=0),
        disk_partitions=lambda **_: [SimpleNamespace(device="/dev/sda", mountpoint="/", fstype="ext4", opts="rw")],
        disk_io_counters=lambda **_: {"sda": transfers},
        net_io_counters=lambda **_: {"eth0": packets},
        net_if_stats=lambda: {"eth0": SimpleNamespace(isup=True, speed=1000)},
        sensors_battery=lambda: SimpleNamespace(percent=50, secsleft=60, power_plugged=False),
    )


def containers_of_every_kind() -> Iterator[Mapping[str, float | None]]:
    """What the hosts of the collector's own tests give, where names come from their engines."""
    for case in CONTAINERS.iterdir():
        yield json.loads((case / "expected.json").read_text())


def required(metric: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(label for label in labels if label not in CATALOGUE[metric].optional_labels)


def sensors_of_every_kind(directory: Path) -> Iterator[Mapping[str, float | None]]:
    for case in ("desktop", "server_power", "room"):
        root = build_tree((SENSORS / case / "sys.txt").read_text(), directory / case)
        yield Hwmon(root=root).collect()
        yield Iio(root=root).collect()


def test_catalogue_lists_exactly_what_the_collectors_send(tmp_path: Path) -> None:
    system = machine_with_everything()
    statistics = Statistics()
    statistics.register("exec.boiler")
    statistics.register("execd.meter")
    (tmp_path / "job.prom").touch()
    found = labels_by_metric(
        Cpu(per_core=True, system=system).collect(),
        Memory(system=system).collect(),
        Disk(
            DiskConfig(),
            system=system,
            statvfs=lambda _: os.statvfs_result((4096, 4096, 9, 5, 4, 100, 50, 50, 0, 255)),
            blocks=Path("/nonexistent"),
        ).collect(),
        Network(NetworkConfig(), system=system).collect(),
        Connections().collect(),
        Temperature(classes=SYS_CLASSES / "raspberry_pi").collect(),
        Host(statistics).collect(),
        *sensors_of_every_kind(tmp_path),
        Battery(system=system).collect(),
        Textfile(TextfileConfig(files=(str(tmp_path / "*.prom"),)), lambda _: None).collect(),
        Processes(ProcessesConfig(names=("init",))).collect(),
        *containers_of_every_kind(),
    )
    assert {name: {required(name, labels) for labels in every} for name, every in found.items()} == {
        metric.name: {metric.labels} for metric in CATALOGUE.values()
    }
    used = {label for every in found.values() for labels in every for label in labels}
    assert used >= {label for metric in CATALOGUE.values() for label in metric.optional_labels}


def test_every_series_of_a_dry_run_on_this_machine_is_in_the_catalogue() -> None:
    result = dry_run.collect(Config())
    found = labels_by_metric(*(reading.values for reading in result.readings))
    assert {"cpu_usage_percent", "memory_usage_percent", "disk_used_bytes", "agent_heartbeat_total"} <= found.keys()
    for name, every in found.items():
        assert {required(name, labels) for labels in every} == {CATALOGUE[name].labels}
    assert result.failed == []


def test_documentation_has_a_row_for_each_metric_that_says_what_the_catalogue_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w-]+) \| (.+?) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert rows == [
        (
            metric.name,
            str(metric.kind),
            metric.unit or "-",
            ", ".join([*(f"`{label}`" for label in metric.labels), *(["*who*"] if metric.optional_labels else [])])
            or "-",
            metric.help,
        )
        for metric in CATALOGUE.values()
    ]


def test_documentation_explains_every_label() -> None:
    explained = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^- (`.+?):", DOCUMENT.read_text(), re.MULTILINE))))
    assert explained == {label for it in CATALOGUE.values() for label in (*it.labels, *it.optional_labels)}


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=lambda metric: metric.name)
def test_names_are_canonical_and_help_is_a_sentence(metric: Metric) -> None:
    assert str(SeriesKey.parse(metric.name)) == metric.name
    assert metric.labels == tuple(sorted(metric.labels))
    assert metric.optional_labels == tuple(sorted(metric.optional_labels))
    assert re.fullmatch(r"[A-Z1].+\.", metric.help)


@pytest.mark.parametrize(
    ("name", "kind", "unit"),
    [
        ("boiler_temperature_celsius", MetricKind.GAUGE, "celsius"),
        ("pump_energy_joules_total", MetricKind.COUNTER, "joules"),
        ("network_receive_bytes_total", MetricKind.COUNTER, "bytes"),
        ("bytes", MetricKind.GAUGE, "bytes"),
        ("megabytes", MetricKind.GAUGE, ""),
        ("total", MetricKind.GAUGE, ""),
        ("disk_total_bytes", MetricKind.GAUGE, "bytes"),
    ],
)
def test_kind_and_unit_of_a_metric_that_is_not_listed_are_read_off_its_name(
    name: str, kind: MetricKind, unit: str
) -> None:
    assert kind_of(name) is kind
    assert unit_of(name) == unit
