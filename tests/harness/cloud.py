"""The cloud's roles under test: as processes, or in a thread of the test's own where their log is to be read."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cloud_ingest import config
from harness.broker import Mosquitto
from harness.processes import Process

PROGRAM = Path(sys.executable).with_name("cloud-ingest")


def cloud_ingest(*args: str, code: int = 0, **environ: str) -> tuple[str, str]:
    """Standard output and error of the program, which must end with `code`, and never with a traceback."""
    done = subprocess.run(
        [PROGRAM, *args],
        check=False,
        capture_output=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", **{f"CLOUD_INGEST_{name}": it for name, it in environ.items()}},
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == code, f"{done.returncode}\n{out}\n{err}"
    assert "Traceback" not in out + err
    assert "secret-word" not in out + err
    return out, err


def role(name: str, directory: Path, broker: Mosquitto, database_url: str, **settings: str) -> Process:
    """`cloud-ingest NAME`, not started. `settings` are environment names without their prefix."""
    environ = environment(broker, database_url, settings)
    directory.mkdir(parents=True, exist_ok=True)
    return Process([PROGRAM, name], environ, log=directory / f"{name}.log")


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
