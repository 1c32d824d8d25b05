"""Registers of devices behind one Modbus TCP connection or one serial line (Modbus RTU), by pymodbus.

A device that does not answer or refuses a request costs its own values. The connection is kept from one tick to the
next, and made anew where the other end has closed it meanwhile.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Final

from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.client.base import ModbusBaseSyncClient
from pymodbus.exceptions import ConnectionException, ModbusException

from edge_agent.collectors.modbus.plan import Request, requests, values
from edge_agent.config import Modbus as ModbusConfig
from edge_agent.errors import CollectorError
from edge_agent.limited_log import LimitedLog

logger = logging.getLogger(__name__)

Values = dict[str, float | None]

_PARITIES: Final = {"none": "N", "even": "E", "odd": "O"}

# What a device answers instead, section 7 of the protocol.
_REFUSALS: Final = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "server device failure",
    5: "acknowledge",
    6: "server device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target device failed to respond",
}


class _Refused(Exception):
    """The device said no to one request."""


class Modbus:
    """Asks for all registers at each `collect`."""

    def __init__(self, config: ModbusConfig) -> None:
        # What the library would log of each failure, again and again, is told below when it changes.
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
        self._requests = requests(config.registers, config.unit)
        self._client, self._where = _client(config)
        self._log = LimitedLog(logger, f"collector modbus.{config.name}")
        self._closed = threading.Event()
        self._using = threading.Lock()  # guards the connection, which is not made for two threads, and the next
        self._proven = False  # whether something was answered on this connection

    def collect(self) -> Values:
        """The values of all registers; those that could not be read are None.

        Raises CollectorError where there is no connection or nothing could be read.
        """
        with self._using:
            if self._closed.is_set():
                raise CollectorError("the agent is stopping")
            try:
                return self._ask_all()
            except CollectorError:
                raise
            except Exception:
                self._disconnect()  # who knows what is still under way on it
                raise
            finally:
                if self._closed.is_set():
                    self._disconnect()

    def close(self) -> None:
        """Give the connection up, or have the `collect` that is running do so."""
        self._closed.set()
        if self._using.acquire(blocking=False):
            try:
                self._client.close()
            finally:
                self._using.release()

    def _ask_all(self) -> Values:
        found: Values = {}
        problems: list[str] = []
        silent: set[int] = (
            set()
        )  # units that did not answer are not asked again in this tick: each time costs a timeout
        for request in self._requests:
            nothing: Values = dict.fromkeys(register.series for register in request.registers)
            if request.unit in silent or self._closed.is_set():
                found |= nothing
                continue
            try:
                found |= values(request, self._ask(request))
            except _Refused as exc:
                problems.append(f"unit {request.unit} refuses {_place(request)}: {exc}")
                found |= nothing
            except ModbusException:
                problems.append(f"unit {request.unit} does not answer")
                silent.add(request.unit)
                found |= nothing
                self._disconnect()  # an answer that comes late must not pass for that to the next request
        if problems and all(value is None for value in found.values()):
            raise CollectorError(f"{self._where}: {problems[0]}")
        for problem in problems:
            self._log.warning(f"{self._where}: {problem}")
        return found

    def _ask(self, request: Request) -> Sequence[int]:
        """The registers or bits asked for. Raises _Refused, CollectorError without a connection, ModbusException."""
        self._connect()
        try:
            return self._read(request)
        except ConnectionException:
            if not self._proven:
                raise
        # The other end has closed the connection since it answered last, as many do after some idle time.
        self._disconnect()
        self._connect()
        return self._read(request)

    def _connect(self) -> None:
        if not self._client.connect():  # which does nothing where there is a connection
            raise CollectorError(f"can't connect to {self._where}")

    def _disconnect(self) -> None:
        self._client.close()
        self._proven = False

    def _read(self, request: Request) -> Sequence[int]:
        function_code, read = {
            "coil": (1, self._client.read_coils),
            "discrete": (2, self._client.read_discrete_inputs),
            "holding": (3, self._client.read_holding_registers),
            "input": (4, self._client.read_input_registers),
        }[request.table]
        answer = read(request.address, count=request.count, device_id=request.unit)
        self._proven = True
        if answer.isError():
            raise _Refused(_REFUSALS.get(answer.exception_code, f"code {answer.exception_code}"))
        if answer.function_code != function_code:
            raise _Refused(f"it answers function {answer.function_code}")
        held: Sequence[int] = answer.bits if request.table in {"coil", "discrete"} else answer.registers
        if len(held) < request.count:
            raise _Refused(f"it answers with {len(held)} of {request.count}")
        return held


def _client(config: ModbusConfig) -> tuple[ModbusBaseSyncClient, str]:
    """A client without a connection yet, and what to call the other end."""
    if config.tcp is not None:
        tcp = config.tcp
        client = ModbusTcpClient(tcp.host, port=tcp.port, timeout=config.timeout_seconds, retries=0)
        return client, f"{tcp.host} port {tcp.port}"
    line = config.serial
    assert line is not None  # noqa: S101 - the configuration has one of the two
    serial = ModbusSerialClient(
        str(line.device),
        baudrate=line.baud_rate,
        parity=_PARITIES[line.parity],
        stopbits=line.stop_bits,
        timeout=config.timeout_seconds,
        retries=0,
    )
    return serial, str(line.device)


def _place(request: Request) -> str:
    last = request.address + request.count - 1
    return f"{request.table} {request.address}" + (f" to {last}" if last > request.address else "")
