"""The agent: builds the parts, starts them, watches them, and stops them in order."""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import msgspec
import psutil

from edge_agent import log as log_setup
from edge_agent import status_server
from edge_agent.collection import Collection
from edge_agent.config import Config
from edge_agent.desired.control import DesiredControl
from edge_agent.desired.file import DesiredFile
from edge_agent.desired.overlay import overlaid
from edge_agent.errors import ConfigError, DiskRefuses
from edge_agent.latest import Latest
from edge_agent.local_http import LocalServer
from edge_agent.orders import Orders
from edge_agent.outbox import Outbox
from edge_agent.publisher import Identity, Publisher
from edge_agent.reading import Reading
from edge_agent.reload import change
from edge_agent.sdnotify import Notifier
from edge_agent.section import plain
from edge_agent.shelter import MAX_BYTES as SHELTER_BYTES
from edge_agent.status_server import Facts
from edge_agent.timestamps import Doubting, Timestamps, Trusting
from edge_agent.write_behind import WriteBehindOutbox
from telemetry_contract.desired import DesiredConfig
from telemetry_contract.payload import DesiredState

# CPU usage is measured over a span, and a single tick has none before it.
_SPAN_SECONDS: Final = 0.25
_CHECK_SECONDS: Final = 5.0
_GRACE_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID: Final = Path("/etc/machine-id")

log = logging.getLogger(__name__)


def run(config: Config, reread: Callable[[], Config] | None = None) -> int:
    """Measures and sends until SIGTERM or SIGINT; the exit code.

    Neither needs the broker: without it, readings are kept. At SIGHUP it goes on with what `reread` answers, as far as
    that can be changed meanwhile. Raises OutboxError where the outbox can't be opened, and ConfigError for what only
    building the parts shows.
    """
    return Agent(config, reread).run()


def run_once(config: Config, timeout_seconds: float) -> int:
    """One tick of every collector, delivered; 0, or 1 where the outbox still holds ticks after the timeout.

    Raises OutboxError where the outbox can't be opened, and ConfigError as `run`.
    """
    orders = Orders()
    with ExitStack() as built:
        outbox = open_outbox(config)
        built.callback(outbox.close)
        who = identity(config)
        times = timestamps(config, who.boot_id, outbox)
        publisher = Publisher(config, outbox, who, on_failure=orders.stop, timestamps=times)
        collection = Collection(config, publisher.append)
        built.pop_all()
    with orders.by_signals():
        deadline = time.monotonic() + timeout_seconds
        publisher.start()
        orders.wait(_SPAN_SECONDS)
        for reading in collection.collect_once():
            publisher.append(reading)
        while publisher.depth and time.monotonic() < deadline and not orders.wait(_POLL_SECONDS):
            pass
        waiting = publisher.depth
        collection.stop()
        publisher.stop(grace_seconds=0.0)
    if waiting:
        log.error("%d ticks are not confirmed; they wait in %s", waiting, config.outbox.path)
    return 1 if waiting else 0


class Agent:
    """The parts of an agent, which run together."""

    def __init__(self, config: Config, reread: Callable[[], Config] | None = None) -> None:
        """Raises OutboxError and ConfigError, and then leaves nothing open."""
        self._reread = reread
        self._orders = Orders()
        file = DesiredFile(config.outbox.path, config.device, config.site)
        self._desired = DesiredControl(config.desired, file, self._orders.wake)
        self._own = config  # as it is written; `_config` is what holds, with what is desired over it
        self._config = self._with_desired(config)
        self._latest = Latest()
        self._began = time.monotonic()
        self._failed = False
        self._needs_restart: tuple[str, ...] = ()
        with ExitStack() as built:
            outbox, open_disk = open_or_shelter(config)
            built.callback(outbox.close)
            self._collection = self._collecting()
            self._identity = identity(self._config, self._desired.report)
            self._server = self._listening(config)
            self._publisher = Publisher(
                config,
                outbox,
                self._identity,
                on_failure=self._fail,
                on_config=self._desired.hear,
                timestamps=timestamps(config, self._identity.boot_id, outbox),
                open_disk=open_disk,
            )
            built.pop_all()

    def run(self) -> int:
        """Until it is told to stop by a signal, or a part fails; the exit code."""
        notifier = Notifier(os.environ)
        with self._orders.by_signals():
            try:
                self._publisher.start()
                self._collection.start()
                if self._server is not None:
                    self._server.start()
                log.info("measuring as device %s of site %s", self._config.device, self._config.site)
                notifier.ready(self._described())
                self._watch(notifier)
            finally:
                notifier.stopping()
                if self._server is not None:
                    self._server.close()
                self._collection.stop()
                self._publisher.stop()
                self._tell_the_end()
        return 1 if self._failed else 0

    def facts(self) -> Facts:
        """What it tells of itself; from any thread."""
        delivery = self._publisher.report
        problems = [self._hanging(_GRACE_SECONDS)]
        if delivery.disk_fails:
            problems.append(f"the disk refuses the outbox; {delivery.in_memory} readings wait in memory only")
        return Facts(
            device=self._config.device,
            site=self._config.site,
            identity=self._identity,
            needs_restart=self._needs_restart,
            ignored_configs=self._desired.ignored,
            labels=self._config.labels,
            uptime_seconds=time.monotonic() - self._began,
            outbox_max_bytes=self._config.outbox.max_bytes,
            values=self._latest.values(),
            delivery=delivery,
            collectors=self._collection.counts(),
            problems=tuple(problem for problem in problems if problem is not None),
        )

    def _take(self, reading: Reading) -> None:
        self._latest.add(reading)
        self._publisher.append(reading)

    def _fail(self) -> None:
        self._failed = True
        self._orders.stop()

    def _listening(self, config: Config) -> LocalServer | None:
        if config.status.listen is None:
            return None
        return LocalServer("status.listen", config.status.listen, status_server.answer(self.facts))

    def _described(self) -> str:
        return f"device {self._config.device} of site {self._config.site}"

    def _hanging(self, grace_seconds: float) -> str | None:
        return self._publisher.stalled(grace_seconds) or self._collection.stalled(grace_seconds)

    def _watch(self, notifier: Notifier) -> None:
        """Feeds the watchdog with the progress of both until told to stop; says when one of them hangs."""
        period = _CHECK_SECONDS if notifier.watchdog_seconds is None else notifier.watchdog_seconds / 4
        grace = _GRACE_SECONDS if notifier.watchdog_seconds is None else notifier.watchdog_seconds / 2
        hanging: str | None = None
        while not self._orders.wait(self._wait_seconds(period)):
            self._follow_desired()
            if self._orders.take_reload():
                notifier.reloading()
                self._reload()
                notifier.ready(self._described())
            found = self._hanging(grace)
            if found is None:
                notifier.alive()
            if found is not None and hanging is None:
                log.error("%s", found)
            elif found is None and hanging is not None:
                log.info("works again")
            hanging = found

    def _wait_seconds(self, period: float) -> float:
        deadline = self._desired.deadline
        return period if deadline is None else min(period, max(0.0, deadline - time.monotonic()))

    def _follow_desired(self) -> None:
        """Goes on with what the cloud wants, where that has changed."""
        try:
            changed = self._desired.turn(time.monotonic(), self._apply_desired)
        except ConfigError as exc:
            log.critical("this device's own configuration can't be gone back to: %s", exc)
            self._fail()
            return
        if changed:
            self._identify()

    def _apply_desired(self, desired: DesiredConfig | None, proved: Callable[[], None]) -> None:
        """See `Apply`."""

        def begin() -> None:
            self._latest.clear()
            self._publisher.prove(proved)

        wanted = overlaid(self._own, desired)
        if change(self._config, wanted).collection:
            self._collection.replace(wanted, before_start=begin)
        else:
            begin()
        self._config = wanted

    def _with_desired(self, own: Config) -> Config:
        """What holds with what is desired, which ends where it does not fit."""
        try:
            return overlaid(own, self._desired.in_effect)
        except ConfigError as exc:
            self._desired.refuse(str(exc))
            return self._with_desired(own)

    def _collecting(self) -> Collection:
        """Collects as both say; as the device's own does where building it shows that what is desired can't be."""
        try:
            return Collection(self._config, self._take)
        except ConfigError as exc:
            if self._desired.in_effect is None:
                raise
            self._desired.refuse(str(exc))
            self._config = self._with_desired(self._own)
            return self._collecting()

    def _identify(self) -> None:
        self._identity = identity(self._config, self._desired.report)
        self._publisher.identify(self._identity)

    def _reload(self) -> None:
        """Goes on with the configuration as it is now written; where that can't be used, as before."""
        before, refused = self._own, ""
        try:
            written = before if self._reread is None else self._reread()
            log_setup.configure(written.logging)  # unchanged too: its files may have been moved away
            found = change(before, written)
            effective = self._with_desired(found.effective)
            if change(self._config, effective).collection:
                self._collection.replace(effective, before_start=self._latest.clear)
        except ConfigError as exc:
            refused = str(exc)
        if refused:
            with suppress(ConfigError):
                log_setup.configure(before.logging)
            for problem in refused.splitlines():
                log.error("the configuration is not reloaded: %s", problem)
            return
        self._own, self._config = found.effective, effective
        self._needs_restart = found.needs_restart
        self._identify()
        log.info("the configuration is reloaded")
        if found.needs_restart:
            log.warning("what changed in %s needs a restart", ", ".join(found.needs_restart))

    def _tell_the_end(self) -> None:
        report = self._publisher.report
        log.info(
            "stopped; the outbox holds %d ticks in %d bytes",
            report.outbox.depth,
            report.outbox.bytes,
            extra={
                "sent": report.counts.ticks_sent,
                "confirmed": report.counts.ticks_confirmed,
                "dropped": report.outbox.dropped,
                "thinned": report.outbox.thinned,
            },
        )


def open_outbox(config: Config) -> Outbox:
    """The outbox that the configuration describes; raises OutboxError."""
    kind = WriteBehindOutbox if config.outbox.flush_after_seconds > 0 else Outbox
    return kind.open(
        config.outbox.path,
        max_bytes=config.outbox.max_bytes,
        min_resolution_seconds=config.outbox.min_resolution_seconds,
        machine_id=machine_id(_MACHINE_ID),
    )


def open_or_shelter(config: Config) -> tuple[Outbox, Callable[[], Outbox] | None]:
    """The outbox; where the disk refuses it, one in memory, and what opens that on disk later. Raises OutboxError."""
    try:
        return open_outbox(config), None
    except DiskRefuses as exc:
        log.error("%s; readings are kept and sent from memory until the disk takes them", exc)  # noqa: TRY400 - the disk
        memory = Outbox.in_memory(
            max_bytes=min(SHELTER_BYTES, config.outbox.max_bytes),
            min_resolution_seconds=config.outbox.min_resolution_seconds,
        )
        return memory, lambda: open_outbox(config)


def timestamps(config: Config, boot: str, outbox: Outbox) -> Timestamps:
    """How readings get their times, as the configuration says."""
    if config.clock.trust == "always":
        return Trusting()
    return Doubting(boot, max_wait_seconds=config.clock.max_wait_seconds, newest_ms=outbox.newest_ms())


def identity(config: Config, desired: DesiredState | None = None) -> Identity:
    """What the status message says of this boot and this configuration, and of what is desired of it."""
    digest = hashlib.sha256(msgspec.json.encode(plain(config))).hexdigest()
    return Identity(boot_id=boot_id(_BOOT_ID), config_hash=digest[:16], desired=desired)


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
