"""The cloud's roles under test: as processes, or in a thread of the test's own where their log is to be read."""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cloud_ingest import config
from harness.broker import Mosquitto
from harness.processes import Process


def role(name: str, directory: Path, broker: Mosquitto, database_url: str, **settings: str) -> Process:
    """`cloud-ingest NAME`, not started. `settings` are environment names without their prefix."""
    environ = environment(broker, database_url, settings)
    directory.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name("cloud-ingest")
    return Process([program, name], environ, log=directory / f"{name}.log")


@contextmanager
def at_work(
    run: Callable[[config.Config, threading.Event], int], database_url: str, broker: Mosquitto, **settings: str
) -> Iterator[threading.Event]:
    """A role's `run` in a thread until the block ends; then it must stop cleanly. Gives the event that stops it."""
    loaded = config.load(None, environment(broker, database_url, settings))
    stop = threading.Event()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run(loaded, stop)))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(20)
    assert codes == [0]


def environment(broker: Mosquitto, database_url: str, settings: Mapping[str, str]) -> dict[str, str]:
    """What tells a role where broker and database are, and `settings`."""
    return {
        "CLOUD_INGEST_DATABASE_URL": database_url,
        "CLOUD_INGEST_BROKER__HOST": broker.host,
        "CLOUD_INGEST_BROKER__PORT": str(broker.port),
        **{f"CLOUD_INGEST_{name}": value for name, value in settings.items()},
    }
