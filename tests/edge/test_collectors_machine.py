"""The collectors against machines of the test's making, and against this one."""

import json
import math
import socket
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil
import pytest

from edge_agent.collectors.base import series
from edge_agent.collectors.connections import Connections
from edge_agent.collectors.cpu import Cpu
from edge_agent.collectors.host import Host
from edge_agent.collectors.memory import Memory
from edge_agent.collectors.network import Network
from edge_agent.collectors.temperature import Temperature
from edge_agent.config import Network as NetworkConfig
from edge_agent.errors import CollectorError
from edge_agent.statistics import Statistics
from telemetry_contract.series import MAX_KEY_CHARACTERS, SeriesKey

SYS_CLASSES = Path(__file__).with_name("sys_class")


class Times(NamedTuple):
    user: float
    system: float
    idle: float
    iowait: float
    steal: float = 0.0
    guest: float = 0.0


class Machine:
    """Answers like psutil about a processor whose counters the test sets."""

    def __init__(self, *cores: Times) -> None:
        self.cores = list(cores)
        self.frequency: Any = SimpleNamespace(current=1500.0)
        self.now = 100.0

    def cpu_times(self, *, percpu: bool) -> list[Times]:
        assert percpu
        return list(self.cores)

    def getloadavg(self) -> tuple[float, float, float]:
        return (0.5, 1.5, 2.5)

    def cpu_stats(self) -> SimpleNamespace:
        return SimpleNamespace(ctx_switches=1234, interrupts=567)

    def cpu_freq(self) -> Any:
        if isinstance(self.frequency, Exception):
            raise self.frequency
        return self.frequency

    def monotonic(self) -> float:
        return self.now


def cpu_of(machine: Machine, *, per_core: bool = True) -> Cpu:
    return Cpu(per_core=per_core, system=machine, monotonic=machine.monotonic)


def test_cpu_usage_is_what_was_not_idle_since_the_previous_call() -> None:
    machine = Machine(Times(10, 10, 100, 5), Times(0, 0, 50, 0))
    cpu = cpu_of(machine)
    machine.cores = [Times(12, 11, 104, 8), Times(0, 0, 60, 0)]  # 3 of 10 s busy, and none of 10
    machine.now += 10
    found = cpu.collect()
    assert found['cpu_core_usage_percent{core="0"}'] == pytest.approx(30)
    assert found['cpu_core_usage_percent{core="1"}'] == 0
    assert found["cpu_usage_percent"] == pytest.approx(15)
    machine.cores = [Times(22, 11, 104, 8), Times(10, 0, 60, 0)]
    machine.now += 10
    assert cpu.collect()["cpu_usage_percent"] == pytest.approx(100)


def test_cpu_tells_counters_load_and_frequency() -> None:
    machine = Machine(Times(10, 20, 30, 40, 50, guest=9), Times(1, 2, 3, 4, 5, guest=1))
    found = cpu_of(machine, per_core=False).collect()
    assert {key: value for key, value in found.items() if "usage" not in key} == {
        'cpu_seconds_total{mode="user"}': 11,
        'cpu_seconds_total{mode="system"}': 22,
        'cpu_seconds_total{mode="idle"}': 33,
        'cpu_seconds_total{mode="iowait"}': 44,
        'cpu_seconds_total{mode="steal"}': 55,
        "cpu_cores": 2,
        'cpu_load_average{minutes="1"}': 0.5,
        'cpu_load_average{minutes="5"}': 1.5,
        'cpu_load_average{minutes="15"}': 2.5,
        "cpu_context_switches_total": 1234,
        "cpu_interrupts_total": 567,
        "cpu_frequency_hertz": 1.5e9,
    }
    assert not [key for key in found if "core=" in key]


def test_cpu_usage_over_too_short_a_span_is_no_value_and_keeps_its_beginning() -> None:
    machine = Machine(Times(0, 0, 0, 0))
    cpu = cpu_of(machine)
    machine.cores, machine.now = [Times(0.01, 0, 0, 0)], machine.now + 0.01
    assert cpu.collect()["cpu_usage_percent"] is None
    machine.cores, machine.now = [Times(0.01, 0, 0.03, 0)], machine.now + 0.03
    assert cpu.collect()["cpu_usage_percent"] == pytest.approx(25)


def test_cpu_usage_has_no_value_while_cores_come_and_go() -> None:
    machine = Machine(Times(0, 0, 0, 0), Times(0, 0, 0, 0))
    cpu = cpu_of(machine)
    machine.cores, machine.now = [Times(500, 0, 0, 0)], machine.now + 10
    found = cpu.collect()
    assert found["cpu_usage_percent"] is None
    assert found["cpu_cores"] == 1
    machine.cores, machine.now = [Times(505, 0, 5, 0)], machine.now + 10
    assert cpu.collect()["cpu_usage_percent"] == pytest.approx(50)


def test_cpu_usage_stays_in_bounds_when_a_counter_steps_back() -> None:
    machine = Machine(Times(10, 0, 100, 50))
    cpu = cpu_of(machine)
    machine.cores, machine.now = [Times(11, 0, 100, 49)], machine.now + 1
    assert cpu.collect()["cpu_usage_percent"] == pytest.approx(100)


@pytest.mark.parametrize("frequency", [None, NotImplementedError(), FileNotFoundError(), AttributeError()], ids=repr)
def test_cpu_without_a_known_frequency_tells_the_rest(frequency: Any) -> None:
    machine = Machine(Times(0, 0, 0, 0))
    machine.frequency = frequency
    found = cpu_of(machine).collect()
    assert "cpu_frequency_hertz" not in found
    assert "cpu_cores" in found


def memory_of(*, swap_total: int, **parts: int) -> dict[str, float | None]:
    system = SimpleNamespace(
        virtual_memory=lambda: SimpleNamespace(total=1000, available=250, **parts),
        swap_memory=lambda: SimpleNamespace(total=swap_total, used=swap_total // 4, sin=11, sout=12),
    )
    return Memory(system=system).collect()


def test_memory() -> None:
    assert memory_of(swap_total=400, buffers=30, cached=40) == {
        "memory_total_bytes": 1000,
        "memory_available_bytes": 250,
        "memory_used_bytes": 750,
        "memory_usage_percent": 75,
        "memory_buffers_bytes": 30,
        "memory_cached_bytes": 40,
        "swap_total_bytes": 400,
        "swap_used_bytes": 100,
        "swap_usage_percent": 25,
        "swap_in_bytes_total": 11,
        "swap_out_bytes_total": 12,
    }


def test_memory_of_a_machine_without_swap_or_without_linux() -> None:
    found = memory_of(swap_total=0)
    assert found["swap_usage_percent"] is None
    assert "memory_buffers_bytes" not in found


def network_of(config: NetworkConfig, **interfaces: int) -> Mapping[str, float | None]:
    fields = ("bytes_recv", "bytes_sent", "packets_recv", "packets_sent", "errin", "errout", "dropin", "dropout")
    counts = {
        name: SimpleNamespace(**{field: base + place for place, field in enumerate(fields)})
        for name, base in interfaces.items()
    }

    def net_io_counters(*, pernic: bool, nowrap: bool) -> Any:
        assert pernic
        assert not nowrap
        return counts

    links = {
        name: SimpleNamespace(isup=base % 2 == 0, speed=base) for name, base in interfaces.items() if name != "gone0"
    }
    return Network(
        config, system=SimpleNamespace(net_io_counters=net_io_counters, net_if_stats=lambda: links)
    ).collect()


def test_network() -> None:
    assert network_of(NetworkConfig(), eth0=100) == {
        'network_receive_bytes_total{device="eth0"}': 100,
        'network_transmit_bytes_total{device="eth0"}': 101,
        'network_receive_packets_total{device="eth0"}': 102,
        'network_transmit_packets_total{device="eth0"}': 103,
        'network_receive_errors_total{device="eth0"}': 104,
        'network_transmit_errors_total{device="eth0"}': 105,
        'network_receive_dropped_total{device="eth0"}': 106,
        'network_transmit_dropped_total{device="eth0"}': 107,
        'network_up{device="eth0"}': 1,
        'network_speed_bytes_per_second{device="eth0"}': 12_500_000,
    }


def test_network_speed_that_the_driver_does_not_tell_is_no_value() -> None:
    found = network_of(NetworkConfig(), eth0=0)
    assert found['network_speed_bytes_per_second{device="eth0"}'] is None


# A line a socket, as the kernel writes it: slot, local and remote address, state, and more.
PROC_NET = {
    "tcp": ("0A", "01", "01", "06", "0C"),
    "tcp6": ("0A", "08", "FF"),
}


def test_connections_are_counted_by_state(tmp_path: Path) -> None:
    for name, states in PROC_NET.items():
        lines = [f"   {i}: 0100007F:1F90 00000000:0000 {state} 00000000:00000000" for i, state in enumerate(states)]
        (tmp_path / name).write_text("\n".join(["  sl  local_address rem_address   st tx_queue", *lines, ""]))
    found = Connections(root=tmp_path).collect()
    assert len(found) == 11
    assert {key: value for key, value in found.items() if value} == {
        'network_connections{state="established"}': 2,
        'network_connections{state="syn_recv"}': 1,
        'network_connections{state="time_wait"}': 1,
        'network_connections{state="close_wait"}': 1,
        'network_connections{state="listen"}': 2,
    }
    (tmp_path / "tcp6").unlink()
    assert Connections(root=tmp_path).collect().keys() == found.keys()


def test_connections_where_there_is_no_proc_are_those_of_psutil(tmp_path: Path) -> None:
    states = ["ESTABLISHED", "ESTABLISHED", "LISTEN", "NONE"]
    system = SimpleNamespace(
        net_connections=lambda kind: [SimpleNamespace(status=it) for it in states if kind == "tcp"]
    )
    found = Connections(root=tmp_path, system=system).collect()
    assert found['network_connections{state="established"}'] == 2
    assert found['network_connections{state="listen"}'] == 1
    assert sum(found.values()) == 3


def test_connections_that_only_administrators_see_are_said_to_be_so(tmp_path: Path) -> None:
    def refuse(kind: str) -> None:
        raise psutil.AccessDenied(msg=kind)

    with pytest.raises(CollectorError, match="administrators"):
        Connections(root=tmp_path, system=SimpleNamespace(net_connections=refuse)).collect()


def test_connections_on_this_machine_hold_a_socket_that_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)):
        assert Connections().collect()['network_connections{state="listen"}'] >= 1


def devices(found: Mapping[str, float | None]) -> set[str]:
    return {dict(SeriesKey.parse(key).labels)["device"] for key in found}


def test_network_leaves_out_what_only_joins_parts_of_this_machine() -> None:
    interfaces = {"lo": 0, "eth0": 0, "wlan0": 1, "veth12ab": 0, "docker0": 0}
    assert devices(network_of(NetworkConfig(), **interfaces)) == {"eth0", "wlan0"}
    assert devices(network_of(NetworkConfig(exclude_interfaces=("wlan*",)), **interfaces)) == interfaces.keys() - {
        "wlan0"
    }


def test_network_interface_that_vanishes_between_two_looks_keeps_its_counters() -> None:
    found = network_of(NetworkConfig(), gone0=0)
    assert len(found) == 8
    assert not any(key.startswith("network_up") for key in found)


@pytest.mark.parametrize("case", sorted(SYS_CLASSES.iterdir()), ids=lambda case: str(case.name))
def test_temperature(case: Path) -> None:
    found = Temperature(classes=case).collect()
    assert found == json.loads((case / "expected.json").read_text())


def test_temperature_where_there_is_no_sys(tmp_path: Path) -> None:
    assert Temperature(classes=tmp_path / "absent").collect() == {}


def test_host_tells_uptime_heartbeat_the_agents_needs_and_how_collectors_fare() -> None:
    statistics = Statistics()
    for name in ("cpu", "exec.boiler"):
        statistics.register(name)
    statistics.failed("cpu")
    statistics.overran("cpu")
    statistics.rejected("exec.boiler", 3)
    uptimes = iter([1000.0, 1005.0, 1010.0])
    process = SimpleNamespace(
        cpu_times=lambda: SimpleNamespace(user=1.5, system=0.25), memory_info=lambda: SimpleNamespace(rss=31_000_000)
    )
    system = SimpleNamespace(boot_time=lambda: 1.7e9, users=lambda: ["a", "a"], pids=lambda: [1, 2, 40])
    host = Host(statistics, process=process, uptime=lambda: next(uptimes), system=system)
    assert host.collect() == {
        "host_uptime_seconds": 1005,
        "host_boot_time_seconds": 1.7e9,
        "host_processes": 3,
        "host_users": 2,
        "agent_heartbeat_total": 1,
        "agent_uptime_seconds": 5,
        "agent_cpu_seconds_total": 1.75,
        "agent_resident_memory_bytes": 31_000_000,
        'agent_collector_failures_total{collector="cpu"}': 2,
        'agent_collector_failures_total{collector="exec.boiler"}': 0,
        'agent_collector_rejected_values_total{collector="exec.boiler"}': 3,
    }
    assert host.collect()["agent_heartbeat_total"] == 2


@pytest.mark.skipif(psutil.WINDOWS, reason="the first process tells nothing there")
def test_host_counts_no_processes_where_it_sees_only_some() -> None:
    system = SimpleNamespace(boot_time=lambda: 1.7e9, users=list, pids=lambda: [40, 41])
    found = Host(Statistics(), system=system).collect()
    assert found["host_processes"] is None


def test_host_on_this_machine_agrees_with_psutil() -> None:
    found = Host(Statistics()).collect()
    uptime, boot_time = found["host_uptime_seconds"], found["host_boot_time_seconds"]
    assert uptime is not None
    assert boot_time is not None
    assert uptime > 0
    assert boot_time == psutil.boot_time()
    assert found["host_processes"] == pytest.approx(len(psutil.pids()), rel=0.5)
    rss = psutil.Process().memory_info().rss
    assert found["agent_resident_memory_bytes"] == pytest.approx(rss, rel=0.2)


def test_memory_on_this_machine_adds_up() -> None:
    found = Memory().collect()
    total, available, used = (found[f"memory_{part}_bytes"] for part in ("total", "available", "used"))
    assert total is not None
    assert available is not None
    assert used == total - available > 0


@pytest.mark.parametrize("label", ["a\nb", "\x00", "sd\udce9", "x" * 3000, '"' * 3000, "\\" * 999], ids=ascii)
def test_a_label_that_no_key_could_hold_still_makes_a_canonical_key(label: str) -> None:
    key = series("disk_used_bytes", mount=label)
    assert len(key) <= MAX_KEY_CHARACTERS
    assert str(SeriesKey.parse(key)) == key
    assert key.encode()


def test_numbers_of_this_machine_are_finite() -> None:
    for collector in (Cpu(per_core=True), Memory(), Network(NetworkConfig()), Temperature(), Host(Statistics())):
        answer: Mapping[str, float | None] = collector.collect()
        for key, value in answer.items():
            assert str(SeriesKey.parse(key)) == key
            assert value is None or math.isfinite(value)
