"""Which requests read all registers that are wanted, and the values in what they answer.

Data model and limits: https://modbus.org/docs/Modbus_Application_Protocol_V1_1b3.pdf, sections 4 and 6.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from edge_agent.config import ModbusRegister

_MAX_REGISTERS = 125
_MAX_BITS = 2_000
_BIT_TABLES = frozenset({"coil", "discrete"})

# Types in struct's notation. A register has two bytes, the high one first; where a value takes several registers the
# protocol does not say which comes first.
_FORMATS: Mapping[str, str] = {
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "int64": ">q",
    "uint64": ">Q",
    "float32": ">f",
    "float64": ">d",
}


@dataclass(frozen=True)
class Request:
    """`count` registers (or bits) from `address` on of one table of one unit, and what is to be found there."""

    unit: int
    table: str
    address: int
    count: int
    registers: tuple[ModbusRegister, ...]


def requests(registers: Iterable[ModbusRegister], default_unit: int) -> tuple[Request, ...]:
    """As few requests as read exactly these registers: what lies between may not exist, and then all would fail."""

    def place(register: ModbusRegister) -> tuple[int, str]:
        return default_unit if register.unit is None else register.unit, register.table

    made: list[Request] = []
    for (unit, table), together in groupby(sorted(registers, key=lambda it: (*place(it), it.address)), key=place):
        limit = _MAX_BITS if table in _BIT_TABLES else _MAX_REGISTERS
        last: Request | None = None
        for register in together:
            end = register.address + size(register)
            if last is None or register.address > last.address + last.count or end - last.address > limit:
                last = Request(unit, table, register.address, size(register), (register,))
                made.append(last)
            else:
                count = max(last.count, end - last.address)
                last = made[-1] = replace(last, count=count, registers=(*last.registers, register))
    return tuple(made)


def size(register: ModbusRegister) -> int:
    """How many registers (or bits) a value takes."""
    return 1 if register.table in _BIT_TABLES else struct.calcsize(_FORMATS[register.type]) // 2


def values(request: Request, answer: Sequence[int]) -> dict[str, float | None]:
    """What the answer says of each series; a number that is none (a float's NaN) is no value.

    `answer` holds at least as many registers or bits as were asked for.
    """
    return {register.series: _value(register, request, answer) for register in request.registers}


def _value(register: ModbusRegister, request: Request, answer: Sequence[int]) -> float | None:
    start = register.address - request.address
    if register.table in _BIT_TABLES:
        number: float = answer[start]
    else:
        words = answer[start : start + size(register)]
        in_order = words if register.word_order == "big" else reversed(words)
        data = b"".join(word.to_bytes(2, "big") for word in in_order)
        (number,) = struct.unpack(_FORMATS[register.type], data)
    scaled = number * register.scale + register.offset
    return scaled if math.isfinite(scaled) else None
