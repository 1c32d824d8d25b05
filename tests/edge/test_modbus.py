"""The modbus collector against devices of the test's making, over real sockets and a real terminal line."""

import itertools
import os
import select
import socket
import struct
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collectors.modbus.collector import Modbus
from edge_agent.collectors.modbus.plan import Request, requests, size, values
from edge_agent.config import Modbus as ModbusConfig
from edge_agent.config import ModbusRegister
from edge_agent.errors import CollectorError

TABLES = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}


class Device:
    """Answers requests (protocol data units) of any unit from its tables; what is not in them does not exist."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[int, int]] = {name: {} for name in TABLES.values()}
        self.requests: list[tuple[int, str, int, int]] = []
        self.silent_units: set[int] = set()
        self.mangle: Callable[[bytes], bytes] = lambda answer: answer

    def answer(self, unit: int, pdu: bytes) -> bytes | None:
        function, address, count = struct.unpack(">BHH", pdu)
        table = TABLES[function]
        self.requests.append((unit, table, address, count))
        if unit in self.silent_units:
            return None
        held = [self.tables[table].get(at) for at in range(address, address + count)]
        if None in held:
            return self.mangle(bytes([function | 0x80, 2]))
        if table in {"coil", "discrete"}:
            bits = sum(bool(bit) << place for place, bit in enumerate(held))
            data = bits.to_bytes((count + 7) // 8, "little")
        else:
            data = b"".join(struct.pack(">H", word) for word in held)
        return self.mangle(bytes([function, len(data)]) + data)


class TcpServer:
    """A device behind Modbus TCP: each frame has its number, a zero, the length of what follows, and the unit."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.connections = 0
        self.hang_up_after: int | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def hang_up(self) -> None:
        """Close every connection, as a device does with one that was idle for long."""
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._thread.join()

    def _accept(self) -> None:
        with ExitStack() as stack:
            while True:
                try:
                    connection = stack.enter_context(self._listener.accept()[0])
                except OSError:
                    break
                self.connections += 1
                self._open.append(connection)
                serving = threading.Thread(target=self._serve, args=(connection,))
                serving.start()
                stack.callback(serving.join)
            self.hang_up()

    def _serve(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        with stream, suppress(OSError):
            for served in itertools.count(1):
                head = stream.read(7)
                if len(head) < 7:
                    return
                number, _, length, unit = struct.unpack(">HHHB", head)
                answer = self.device.answer(unit, stream.read(length - 1))
                if answer is not None:
                    connection.sendall(struct.pack(">HHHB", number, 0, len(answer) + 1, unit) + answer)
                if served == self.hang_up_after:
                    connection.shutdown(socket.SHUT_RDWR)
                    return


def check_sum(frame: bytes) -> bytes:
    """Of a frame on a serial line: section 6.2.2 of the specification for serial lines."""
    crc = 0xFFFF
    for byte in frame:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc.to_bytes(2, "little")


@contextmanager
def serial_line(device: Device) -> Iterator[str]:
    """A terminal line with a device at its other end; requests to read have eight bytes."""
    ours, theirs = os.openpty()
    unplugged, unplug = os.pipe()
    tty.setraw(ours, termios.TCSANOW)
    tty.setraw(theirs, termios.TCSANOW)

    def serve() -> None:
        received = b""
        while unplugged not in select.select([ours, unplugged], [], [])[0]:
            received += os.read(ours, 256)
            while len(received) >= 8:
                frame, received = received[:8], received[8:]
                assert frame[6:] == check_sum(frame[:6])
                answer = device.answer(frame[0], frame[1:6])
                if answer is not None:
                    os.write(ours, frame[:1] + answer + check_sum(frame[:1] + answer))

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        yield os.ttyname(theirs)
    finally:
        os.close(unplug)
        serving.join()
        for end in (unplugged, ours, theirs):
            os.close(end)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def server(device: Device) -> Iterator[TcpServer]:
    it = TcpServer(device)
    yield it
    it.close()


def register(series: str, address: int, **others: Any) -> dict[str, Any]:
    return {"series": series, "address": address, **others}


@contextmanager
def asking(where: TcpServer | str, *registers: dict[str, Any], **others: Any) -> Iterator[Modbus]:
    connection = (
        {"serial": {"device": where, "baud_rate": 115_200}}
        if isinstance(where, str)
        else {"tcp": {"host": "127.0.0.1", "port": where.port}}
    )
    settings = {"name": "meter", "registers": registers, "timeout_seconds": 0.3, **connection, **others}
    collector = Modbus(ModbusConfig.of(settings))
    try:
        yield collector
    finally:
        collector.close()


def failure_of(collector: Modbus) -> str:
    with pytest.raises(CollectorError) as caught:
        collector.collect()
    return str(caught.value)


def words(layout: str, value: float) -> list[int]:
    data = struct.pack(layout, value)
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


def put(device: Device, table: str, address: int, *held: int) -> None:
    device.tables[table].update(enumerate(held, address))


EVERYTHING = (
    register('voltage_volts{phase="1"}', 0, scale=0.1),
    register("temperature_celsius", 1, type="int16", scale=0.5, offset=-40),
    register("energy_joules_total", 10, type="uint64", scale=3_600),
    register("power_watts", 14, type="float32"),
    register("swapped", 16, type="float32", word_order="little"),
    register("balance", 18, type="int32"),
    register("level", 100, table="input"),
    register("exact", 101, table="input", type="float64"),
    register("pump_up", 3, table="coil"),
    register("door_open", 7, table="discrete"),
    register("door_locked", 20, table="discrete"),
)
EXPECTED = {
    'voltage_volts{phase="1"}': pytest.approx(231.4),
    "temperature_celsius": -45.0,
    "energy_joules_total": 3_600.0 * 5_000_000_000,
    "power_watts": 1500.25,
    "swapped": -2.5,
    "balance": -70_000.0,
    "level": 65_535.0,
    "exact": 0.1,
    "pump_up": 1.0,
    "door_open": 0.0,
    "door_locked": 1.0,
}


def fill(device: Device) -> None:
    put(device, "holding", 0, 2314, 0x10000 - 10)
    put(device, "holding", 10, *words(">Q", 5_000_000_000), *words(">f", 1500.25), *reversed(words(">f", -2.5)))
    put(device, "holding", 18, *words(">i", -70_000))
    put(device, "input", 100, 65_535, *words(">d", 0.1))
    put(device, "coil", 3, 1)
    put(device, "discrete", 7, 0)
    put(device, "discrete", 20, 1)


def test_every_table_and_type_over_tcp(device: Device, server: TcpServer) -> None:
    fill(device)
    with asking(server, *EVERYTHING) as collector:
        assert collector.collect() == EXPECTED
        assert collector.collect() == EXPECTED
    assert device.requests[: len(device.requests) // 2] == [
        (1, "coil", 3, 1),
        (1, "discrete", 7, 1),
        (1, "discrete", 20, 1),
        (1, "holding", 0, 2),
        (1, "holding", 10, 10),
        (1, "input", 100, 5),
    ]
    assert server.connections == 1


def test_every_table_and_type_over_a_serial_line(device: Device) -> None:
    fill(device)
    with serial_line(device) as line, asking(line, *EVERYTHING, unit=17) as collector:
        assert collector.collect() == EXPECTED
        assert collector.collect() == EXPECTED
    assert {unit for unit, *_ in device.requests} == {17}


def test_what_a_device_refuses_costs_only_its_own_values(
    device: Device, server: TcpServer, caplog: pytest.LogCaptureFixture
) -> None:
    put(device, "holding", 0, 5)
    with asking(server, register("there", 0), register("absent", 50), register("beside", 51)) as collector:
        assert collector.collect() == {"there": 5.0, "absent": None, "beside": None}
    assert [record.getMessage() for record in caplog.records] == [
        f"collector modbus.meter: 127.0.0.1 port {server.port}: unit 1 refuses holding 50 to 51: illegal data address"
    ]


def test_device_that_refuses_everything_is_a_failure_that_says_why(device: Device, server: TcpServer) -> None:
    with asking(server, register("absent", 50)) as collector:
        assert failure_of(collector).endswith(": unit 1 refuses holding 50: illegal data address")
        device.mangle = lambda _: bytes([0x83, 99])
        assert failure_of(collector).endswith(": unit 1 refuses holding 50: code 99")


@pytest.mark.parametrize("over", ["tcp", "serial"])
def test_silent_unit_costs_its_own_values_and_one_timeout(device: Device, server: TcpServer, over: str) -> None:
    put(device, "holding", 0, 5)
    device.silent_units = {2}
    with ExitStack() as stack:
        where = server if over == "tcp" else stack.enter_context(serial_line(device))
        collector = stack.enter_context(
            asking(where, *(register(f"silent_{at}", at, unit=2) for at in (0, 10, 20)), register("there", 0, unit=3))
        )
        before = time.monotonic()
        assert collector.collect() == {"silent_0": None, "silent_10": None, "silent_20": None, "there": 5.0}
        assert time.monotonic() - before < 3
        assert [unit for unit, *_ in device.requests] == [2, 3]
        device.silent_units = set()
        put(device, "holding", 10, 6)
        put(device, "holding", 20, 7)
        assert collector.collect() == {"silent_0": 5.0, "silent_10": 6.0, "silent_20": 7.0, "there": 5.0}


def test_late_answer_never_passes_for_another(device: Device, server: TcpServer) -> None:
    """The device answers the first request only when the second has come."""
    put(device, "holding", 0, 111)
    put(device, "holding", 10, 222)
    let_go = threading.Event()
    answer = device.answer

    def late(unit: int, pdu: bytes) -> bytes | None:
        if unit == 2:
            let_go.wait(10)
        else:
            let_go.set()
        return answer(unit, pdu)

    device.answer = late  # type: ignore[method-assign]
    with asking(server, register("late", 0, unit=2), register("prompt", 10, unit=3)) as collector:
        assert collector.collect() == {"late": None, "prompt": 222.0}
        assert collector.collect() == {"late": 111.0, "prompt": 222.0}


def test_connection_that_the_device_closed_is_made_anew(device: Device, server: TcpServer) -> None:
    put(device, "holding", 0, 5)
    with asking(server, register("there", 0), register("too", 10)) as collector:
        put(device, "holding", 10, 6)
        for connections in (1, 2, 3):
            assert collector.collect() == {"there": 5.0, "too": 6.0}
            assert server.connections == connections
            server.hang_up()


def test_device_that_hangs_up_after_each_answer_is_still_read(device: Device, server: TcpServer) -> None:
    put(device, "holding", 0, 5)
    put(device, "holding", 10, 6)
    server.hang_up_after = 1
    with asking(server, register("there", 0), register("too", 10)) as collector:
        assert collector.collect() == {"there": 5.0, "too": 6.0}
        assert collector.collect() == {"there": 5.0, "too": 6.0}


def test_serial_adapter_that_is_unplugged_is_used_again_once_it_is_back(device: Device, tmp_path: Path) -> None:
    put(device, "holding", 0, 5)
    adapter = tmp_path / "ttyUSB0"
    with asking(str(adapter), register("there", 0)) as collector:
        for _ in range(2):
            with serial_line(device) as line:
                adapter.symlink_to(line)
                assert collector.collect() == {"there": 5.0}
            adapter.unlink()
            for _ in range(2):
                failure_of(collector)


def test_connection_is_made_anew_after_an_error_that_no_one_foresaw(
    device: Device, server: TcpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(device, "holding", 0, 5)
    with asking(server, register("there", 0)) as collector:
        assert collector.collect() == {"there": 5.0}
        with monkeypatch.context() as patched:
            patched.setattr(collector._client, "read_holding_registers", None)  # noqa: SLF001 - calling it then fails
            with pytest.raises(TypeError):
                collector.collect()
        assert collector.collect() == {"there": 5.0}
        assert server.connections == 2


def test_no_one_there_is_a_failure(free_port: Callable[[], int]) -> None:
    port = free_port()
    nowhere = {"tcp": {"host": "127.0.0.1", "port": port}, "name": "x", "registers": [register("there", 0)]}
    collector = Modbus(ModbusConfig.of(nowhere))
    assert failure_of(collector) == f"can't connect to 127.0.0.1 port {port}"
    collector.close()
    with asking("/dev/nonexistent-line", register("there", 0)) as serial:
        assert failure_of(serial) == "can't connect to /dev/nonexistent-line"


@pytest.mark.parametrize(
    "mangle",
    [
        lambda answer: answer[:-1],
        lambda answer: bytes([answer[0], 2]) + answer[2:4],
        lambda answer: bytes([4]) + answer[1:],
        lambda _: b"\x00",
        lambda _: bytes(200),
        lambda answer: bytes([answer[0], 255]) + answer[2:],
    ],
    ids=["too short", "one register", "another function", "one byte", "zeros", "wrong length"],
)
def test_answer_that_makes_no_sense_is_a_failure_and_no_value(
    device: Device, server: TcpServer, mangle: Callable[[bytes], bytes]
) -> None:
    put(device, "holding", 0, 1, 2)
    with asking(server, register("a", 0), register("b", 1)) as collector:
        assert collector.collect() == {"a": 1.0, "b": 2.0}
        device.mangle = mangle
        failure_of(collector)
        device.mangle = lambda answer: answer
        assert collector.collect() == {"a": 1.0, "b": 2.0}


def test_stop_does_not_wait_for_a_device_that_is_silent(device: Device, server: TcpServer) -> None:
    device.silent_units = {1}
    with asking(server, register("a", 0), timeout_seconds=5) as collector:
        running = threading.Thread(target=failure_of, args=(collector,))
        running.start()
        while not device.requests:
            time.sleep(0.01)
        before = time.monotonic()
        collector.close()
        assert time.monotonic() - before < 1
        assert running.is_alive()
        server.hang_up()
        running.join()
        assert failure_of(collector) == "the agent is stopping"


def test_library_says_nothing_on_its_own(server: TcpServer, caplog: pytest.LogCaptureFixture) -> None:
    with asking(server, register("absent", 50)) as collector:
        failure_of(collector)
        server.close()
        failure_of(collector)
    server.__init__(Device())  # type: ignore[misc]
    assert caplog.records == []


registers_strategy = st.lists(
    st.builds(
        lambda **given: ModbusRegister.of(given),
        series=st.integers(0, 10**9).map(lambda number: f"s{number}"),
        unit=st.none() | st.integers(1, 2),
        table=st.sampled_from(sorted(TABLES.values())),
        address=st.integers(0, 400),
        type=st.sampled_from(["uint16", "int32", "uint64"]),
    ),
    unique_by=lambda it: it.series,
    max_size=40,
)


@given(registers_strategy)
def test_requests_read_every_register_once_and_nothing_else(registers: list[ModbusRegister]) -> None:
    made = requests(registers, 1)

    def wanted(it: ModbusRegister) -> set[tuple[int, str, int]]:
        unit = 1 if it.unit is None else it.unit
        return {(unit, it.table, at) for at in range(it.address, it.address + size(it))}

    asked = [(it.unit, it.table, at) for it in made for at in range(it.address, it.address + it.count)]
    assert set(asked) == {place for it in registers for place in wanted(it)}
    assert sorted(it.series for request in made for it in request.registers) == sorted(it.series for it in registers)
    for request in made:
        assert 1 <= request.count <= (2_000 if request.table in {"coil", "discrete"} else 125)
        for it in request.registers:
            assert wanted(it) <= {
                (request.unit, request.table, at) for at in range(request.address, request.address + request.count)
            }


def test_neighbours_travel_together_up_to_what_one_answer_holds() -> None:
    def made(*registers: dict[str, Any]) -> list[tuple[str, int, int]]:
        planned = requests([ModbusRegister.of(it) for it in registers], 1)
        return [(it.table, it.address, it.count) for it in planned]

    assert made(register("b", 1), register("a", 0), register("c", 3)) == [("holding", 0, 2), ("holding", 3, 1)]
    assert made(register("a", 0, type="int64"), register("b", 2)) == [("holding", 0, 4)]
    assert made(*(register(f"r{at}", at) for at in range(130))) == [("holding", 0, 125), ("holding", 125, 5)]
    assert made(*(register(f"r{at}", at, table="coil") for at in range(2_001))) == [
        ("coil", 0, 2_000),
        ("coil", 2_000, 1),
    ]


def test_not_a_number_is_no_value() -> None:
    (it,) = requests([ModbusRegister.of(register("a", 0, type="float32"))], 1)
    assert values(it, words(">f", float("nan"))) == {"a": None}
    assert values(it, words(">f", float("-inf"))) == {"a": None}
    assert it == Request(1, "holding", 0, 2, it.registers)
