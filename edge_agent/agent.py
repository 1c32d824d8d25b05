"""The agent: builds the parts, starts them, watches them, and stops them in order."""

import hashlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import psutil

from edge_agent.collectors.registry import groups
from edge_agent.config import Config
from edge_agent.outbox import Outbox
from edge_agent.publisher import Identity, Publisher
from edge_agent.scheduler import Scheduler
from edge_agent.sdnotify import Notifier
from edge_agent.statistics import Statistics
from edge_agent.write_behind import WriteBehindOutbox

# CPU usage is measured over a span, and a single tick has none before it.
_SPAN_SECONDS: Final = 0.25
_CHECK_SECONDS: Final = 5.0
_GRACE_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID: Final = Path("/etc/machine-id")

log = logging.getLogger(__name__)


def run(config: Config) -> int:
    """Measures and sends until SIGTERM or SIGINT; the exit code.

    Neither needs the broker: without it, readings are kept. Raises OutboxError where the outbox can't be opened.
    """
    stop = threading.Event()
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        stop.set()

    notifier = Notifier(os.environ)
    statistics = Statistics()
    publisher = Publisher(config, open_outbox(config), identity(config), on_failure=fail)
    scheduler = Scheduler(groups(config, statistics), publisher.append, statistics)
    with _set_by_signals(stop):
        publisher.start()
        scheduler.start()
        log.info("measuring as device %s of site %s", config.device, config.site)
        notifier.ready(f"device {config.device} of site {config.site}")
        _watch(stop, notifier, publisher, scheduler)
        notifier.stopping()
        scheduler.stop()
        publisher.stop()
    log.info("stopped")
    return 1 if failed.is_set() else 0


def run_once(config: Config, timeout_seconds: float) -> int:
    """One tick of every collector, delivered; 0, or 1 where the outbox still holds ticks after the timeout.

    Raises OutboxError where the outbox can't be opened.
    """
    stop = threading.Event()
    statistics = Statistics()
    publisher = Publisher(config, open_outbox(config), identity(config), on_failure=stop.set)
    scheduler = Scheduler(groups(config, statistics), publisher.append, statistics)
    with _set_by_signals(stop):
        deadline = time.monotonic() + timeout_seconds
        publisher.start()
        stop.wait(_SPAN_SECONDS)
        for reading in scheduler.collect_once():
            publisher.append(reading)
        while publisher.depth and time.monotonic() < deadline and not stop.wait(_POLL_SECONDS):
            pass
        waiting = publisher.depth
        scheduler.stop()
        publisher.stop(grace_seconds=0.0)
    if waiting:
        log.error("%d ticks are not confirmed; they wait in %s", waiting, config.outbox.path)
    return 1 if waiting else 0


def open_outbox(config: Config) -> Outbox:
    """The outbox that the configuration describes; raises OutboxError."""
    kind = WriteBehindOutbox if config.outbox.flush_after_seconds > 0 else Outbox
    return kind.open(
        config.outbox.path,
        max_bytes=config.outbox.max_bytes,
        min_resolution_seconds=config.outbox.min_resolution_seconds,
        machine_id=machine_id(_MACHINE_ID),
    )


def identity(config: Config) -> Identity:
    """What the status message says of this boot and this configuration."""
    digest = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
    return Identity(boot_id=boot_id(_BOOT_ID), config_hash=digest[:16])


def boot_id(file: Path) -> str:
    """What tells this boot from others: Linux's own id, elsewhere the time of the boot."""
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return str(int(psutil.boot_time()))


def machine_id(file: Path) -> str | None:
    """What tells this machine from others (machine-id(5)); None where it has no id yet."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if text and text != "uninitialized" else None


def _watch(stop: threading.Event, notifier: Notifier, publisher: Publisher, scheduler: Scheduler) -> None:
    """Feeds the watchdog with the progress of both until told to stop; says when one of them hangs."""
    period = _CHECK_SECONDS if notifier.watchdog_seconds is None else notifier.watchdog_seconds / 4
    grace = _GRACE_SECONDS if notifier.watchdog_seconds is None else notifier.watchdog_seconds / 2
    hanging: str | None = None
    while not stop.wait(period):
        found = publisher.stalled(grace) or scheduler.stalled(grace)
        if found is None:
            notifier.alive()
        if found is not None and hanging is None:
            log.error("%s", found)
        elif found is None and hanging is not None:
            log.info("works again")
        hanging = found


@contextmanager
def _set_by_signals(event: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set the event."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        event.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
