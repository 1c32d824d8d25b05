"""TCP ports of the loopback interface: which are free, and who has one that is not."""

import errno
import itertools
import socket

import psutil

from telemetry_bridge.errors import CannotStart

LOOPBACK = "127.0.0.1"
_MAX_PORT = 65_535


def require_free(port: int, *, use: str, option: str) -> None:
    """Raise CannotStart, naming who has the port and a choice that works, unless this port can be listened on."""
    reason = _refusal(port)
    if reason is None:
        return
    if reason == errno.EADDRINUSE:
        who = _holder(port)
        problem = f"port {port} on {LOOPBACK}, wanted for {use}, is taken{'' if who is None else f' by {who}'}"
    elif reason in (errno.EACCES, errno.EPERM):
        problem = f"port {port}, wanted for {use}, is reserved for the administrator"
    else:
        problem = f"port {port} on {LOOPBACK}, wanted for {use}, can't be used ({errno.errorcode.get(reason, reason)})"
    raise CannotStart(f"{problem}; choose another: telemetry-bridge up {option} {free_near(port)}")


def preferred_or_near(port: int) -> int:
    """The port itself where it is free, otherwise the next free one."""
    return port if _refusal(port) is None else free_near(port)


def free_near(port: int) -> int:
    """The next port above that was free a moment ago.

    Not one that the kernel picks: those also become the local ends of outgoing connections, and a server that is
    restarted might find its port taken by one.
    """
    first = max(port, 1023) + 1
    for candidate in itertools.chain(range(first, _MAX_PORT + 1), range(1024, first)):
        if _refusal(candidate) is None:
            return candidate
    raise CannotStart(f"no port of {LOOPBACK} is free")


def accepts(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


def _refusal(port: int) -> int | None:
    """The error number with which the system refuses to listen there; None where it allows it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that connections of an earlier run that linger in TIME_WAIT don't count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except OSError as exc:
            return exc.errno
    return None


def _holder(port: int) -> str | None:
    """The process that listens there, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens_there = connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,)
            if listens_there and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.Error, OSError):
        return None
    return None
