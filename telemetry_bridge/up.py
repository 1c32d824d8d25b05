"""`telemetry-bridge up`: starts the parts in order, looks after them, and ends them in the reverse order."""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from telemetry_bridge import broker, leftovers, ports, postgres, roles
from telemetry_bridge.account import database_account
from telemetry_bridge.broker import BrokerChoice
from telemetry_bridge.child import Child, Part
from telemetry_bridge.directory import DataDirectory
from telemetry_bridge.display import Display
from telemetry_bridge.ending import Endable, end, is_gone
from telemetry_bridge.errors import PartFailed
from telemetry_bridge.guard import Guard
from telemetry_bridge.logs import PartLog
from telemetry_bridge.roles import Wiring
from telemetry_bridge.stop_request import Stopped, StopRequest
from telemetry_bridge.watch import Watch
from telemetry_contract.version import __version__

USUAL_BROKER_PORT = 1883
_READY_SECONDS = 60.0  # a slow machine's database recovering from a crash takes its time
_FIRST_READING_SECONDS = 20.0
_POLL_SECONDS = 0.05
_REFRESH_SECONDS = 2.0


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line; `data_dir` is absolute."""

    data_dir: Path
    port: int
    agent: bool
    database_url: str | None
    broker: BrokerChoice
    broker_port: int | None


class LocalSystem:
    """One run. Made and run by the main thread, once."""

    def __init__(self, options: Options, environ: Mapping[str, str], display: Display, stop: StopRequest) -> None:
        self._options = options
        self._environ = environ
        self._display = display
        self._stop = stop
        self._directory = DataDirectory(options.data_dir)
        self._children: list[Child] = []
        self._guard: Guard | None = None
        self._resources = contextlib.ExitStack()

    def run(self) -> int:
        """Run until a stop is requested; the exit code is 0 where every part then ended by itself.

        Raises CannotStart or PartFailed, after everything that had been started was ended.
        """
        with self._directory.held(), self._resources:
            try:
                watch = self._start()
                self._serve(watch)
            except Stopped:
                self._display.end_current()
                self._display.line("")
            finally:
                clean = self._end()
        return 0 if clean else 1

    def _start(self) -> Watch:
        options, display = self._options, self._display
        display.line(f"telemetry-bridge {__version__}, data in {options.data_dir}")
        for name in roles.decided_here(self._environ):
            display.line(f"  note: {name} has no effect here, this command decides it")
        self._end_leftovers()
        broker_port = self._choose_ports()
        self._guard = Guard(self._log("guard"))

        database_url, environ = self._start_database()
        with display.step("broker") as step:
            chosen = broker.choose(
                options.broker, port=broker_port, config=self._directory.broker_config, environ=self._environ
            )
            child = self._launch(chosen.part(self._environ))
            self._await(child, lambda: ports.accepts(broker_port))
            step.say(f"{chosen.name}, {ports.LOOPBACK}:{broker_port}")
        wiring = Wiring(chosen, broker_port, database_url, options.port, ports.free_near(options.port))
        watch = Watch(options.port, wiring.ingest_metrics_port)
        with display.step("schema") as step:
            self._finish(self._launch(roles.migrate_part(environ, wiring)))
            step.say("up to date")
        with display.step("cloud") as step:
            child = self._launch(roles.cloud_part(environ, wiring))
            self._await(child, watch.is_ready)
            step.say("ingest, API and worker")
        if options.agent:
            self._start_agent(wiring, watch)
        display.line("")
        display.line(f"Open http://{ports.LOOPBACK}:{options.port}/ in a browser; Ctrl-C ends everything.", "bold")
        display.line("")
        return watch

    def _end_leftovers(self) -> None:
        """Wait for what a killed run's guard is ending; where that was killed too, end it here."""
        found = leftovers.find(self._directory.running)
        stray = postgres.find_stray(self._directory.postgres)
        if stray is not None and stray.pid not in {it.process.pid for it in found}:
            found.append(Endable("database", stray, postgres.ENDING))
        if not found:
            return
        with self._display.step("clean-up") as step:
            ended = []
            for it in found:
                if not is_gone(it.process):
                    ended.append(it.name)
                    end(it.process, it.ending, hurry=lambda: self._stop.requested)
                self._stop.check()
            step.say(f"an earlier run was killed; ended what was left of it: {', '.join(ended)}")

    def _choose_ports(self) -> int:
        """The broker's port. Raises CannotStart where one that was asked for is taken."""
        ports.require_free(self._options.port, use="the dashboard and the API", option="--port")
        if self._options.broker_port is None:
            return ports.preferred_or_near(USUAL_BROKER_PORT)
        ports.require_free(self._options.broker_port, use="the broker", option="--broker-port")
        return self._options.broker_port

    def _start_database(self) -> tuple[str, Mapping[str, str]]:
        """The database's URL, and the environment for those who use it."""
        if self._options.database_url is not None:
            return self._options.database_url, self._environ
        with self._display.step("database") as step:
            cluster = self._cluster()
            opened = cluster.prepare(self._environ)
            child = self._launch(cluster.part(self._environ))
            self._await(child, cluster.is_ready)
            step.say(f"PostgreSQL, {cluster.data}")
        if cluster.account is not None:
            self._display.line(f"  note: PostgreSQL refuses to run as root; it runs as {cluster.account.name}")
        for directory in opened:
            if not directory.is_relative_to(self._directory.root):
                self._display.line(f"  note: made {directory} passable for other users (o+x), so that it can get in")
        return cluster.url, postgres.without_libpq(self._environ)

    def _cluster(self) -> postgres.Cluster:
        socket, temporary = postgres.choose_socket_directory(self._directory.socket)
        if temporary:
            self._resources.callback(shutil.rmtree, socket, ignore_errors=True)
        return postgres.Cluster(
            postgres.find_programs(), self._directory.postgres, socket, database_account(self._directory.postgres)
        )

    def _start_agent(self, wiring: Wiring, watch: Watch) -> None:
        config = self._directory.agent_config
        if not config.exists():
            config.write_text(roles.initial_agent_config(roles.this_host()), encoding="utf-8")
        with self._display.step("agent") as step:
            began = datetime.now(UTC)
            part = roles.agent_part(self._environ, wiring, config=config, outbox=self._directory.outbox)
            child = self._launch(part)
            if self._reached(lambda: watch.has_reading_since(began), _FIRST_READING_SECONDS):
                step.say("this machine's first reading is stored")
            else:
                step.say(f"running, but without a reading yet; see {child.log.path}")

    def _serve(self, watch: Watch) -> None:
        """Look after the children and show the state; ends by Stopped or PartFailed alone."""
        while True:
            self._check_children()
            for child in self._children:
                child.log.trim()
            self._display.current(watch.line())
            self._stop.wait(_REFRESH_SECONDS)
            self._stop.check()

    def _launch(self, part: Part) -> Child:
        self._stop.check()
        child = Child(part, self._log(part.name))
        self._children.append(child)
        started = [it.endable for it in self._children]
        if self._guard is not None:
            self._guard.watch(child.endable)
            started.append(self._guard.endable)
        leftovers.record(self._directory.running, started)
        return child

    def _finish(self, child: Child) -> None:
        """Wait for a part that ends by itself, however long it takes. Raises PartFailed where it ends badly."""
        self._reached(lambda: child.exit_code is not None, math.inf, others_than=child)
        if child.exit_code != 0:
            raise child.failure()
        self._children.remove(child)

    def _await(self, child: Child, ready: Callable[[], bool]) -> None:
        """Wait until a part is ready. Raises PartFailed where it takes too long or anything ends meanwhile."""
        if not self._reached(ready, _READY_SECONDS):
            raise child.failure(f"was not ready within {_READY_SECONDS:.0f} s")

    def _reached(self, condition: Callable[[], bool], seconds: float, others_than: Child | None = None) -> bool:
        """Whether the condition came true in time, while every child (but one) went on running."""
        deadline = time.monotonic() + seconds
        while not condition():
            self._stop.check()
            self._check_children(others_than)
            if time.monotonic() > deadline:
                return False
            self._stop.wait(_POLL_SECONDS)
        return True

    def _check_children(self, others_than: Child | None = None) -> None:
        for child in self._children:
            if child is not others_than and child.exit_code is not None:
                raise child.failure()
        if self._guard is not None and not self._guard.is_running:
            raise PartFailed("the guard, which ends the other processes if this one is killed, was ended itself")

    def _end(self) -> bool:
        """End everything, the youngest first; False where something had to be killed."""
        self._display.end_current()
        clean = True
        while self._children:
            child = self._children.pop()
            if child.exit_code is None:
                with self._display.step(child.part.name) as step:
                    followed = child.end(self._stop.insisted)
                    step.say("ended" if followed else "had to be killed")
                clean = clean and followed
        self._directory.running.unlink(missing_ok=True)
        if self._guard is not None:
            self._guard.dismiss()
        return clean

    def _log(self, name: str) -> PartLog:
        return PartLog(self._directory.logs / f"{name}.log")
