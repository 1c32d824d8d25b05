"""What the clocks of this machine show, and what its kernel thinks of the wall clock."""

import ctypes
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from edge_agent.clock import Moment

# adjtimex(2), <sys/timex.h>
_STA_UNSYNC = 0x0040


class _Timex(ctypes.Structure):
    """The beginning of `struct timex`, which is the same everywhere, and room for more than the rest of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("maximum_error", ctypes.c_long),
        ("estimated_error", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 512),
    )


def boot_ns() -> int:
    """Nanoseconds of a clock that is never set; where the system has one, one that counts time asleep too."""
    if sys.platform == "linux":
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return time.monotonic_ns()


def now() -> Moment:
    """Both clocks, read one after the other."""
    return Moment(time.time_ns() // 1_000_000, boot_ns())


def synchronised() -> bool | None:
    """Whether the kernel says that the wall clock is synchronised, as NTP services tell it; None: it can't be asked."""
    ask = _adjtimex()
    if ask is None:
        return None
    answer = _Timex()
    return None if ask(ctypes.byref(answer)) < 0 else not answer.status & _STA_UNSYNC


def kept_while_off(devices: Path = Path("/sys/class/rtc")) -> bool:
    """Whether the machine has a clock that goes on while it is off, as far as the kernel shows it; else it has."""
    if sys.platform != "linux":
        return True
    try:
        return any(devices.iterdir())
    except OSError:
        return False


@cache
def _adjtimex() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), "adjtimex", None)
    return function
