"""Series that send nothing while their device goes on, under a threshold that tells silence."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from harness.api import ok, serving
from harness.broker import Mosquitto
from harness.cloud import at_work
from harness.wait import until

from cloud_ingest.alerts.definition import Definition
from cloud_ingest.alerts.liveness import Hearing, Quiet, has_gone_silent
from cloud_ingest.message import Message
from cloud_ingest.store.alerts import AlertFilter, AlertState, open_alerts
from cloud_ingest.store.batch import BatchWriter, Block
from cloud_ingest.store.database import Connection, connect, server_time_ms
from cloud_ingest.store.hearing import READINGS, beat
from cloud_ingest.store.late_history import LateHistory
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.silent_series import SilentSeries
from cloud_ingest.store.thresholds import change_threshold, create_threshold, delete_threshold
from cloud_ingest.worker import main
from cloud_ingest.worker.alert_topics import payloads

GRACE_MS = 5_000
NAN = float("nan")


@pytest.mark.parametrize(
    ("quiet", "since_ms", "expected"),
    [
        (Quiet(0, 31_000, device_went_on=True, back_since_ms=None), 0, True),
        (Quiet(0, 30_000, device_went_on=True, back_since_ms=None), 0, False),
        (Quiet(0, 31_000, device_went_on=False, back_since_ms=None), 0, False),  # the device itself was silent
        (Quiet(0, 31_000, device_went_on=True, back_since_ms=69_999), 0, True),
        (Quiet(0, 31_000, device_went_on=True, back_since_ms=70_000), 0, False),  # it is just back
        (Quiet(0, 31_000, device_went_on=True, back_since_ms=None), 70_000, False),  # the cloud is just back
    ],
)
def test_a_series_is_silent_while_its_device_goes_on_and_the_cloud_hears(
    quiet: Quiet, since_ms: int, *, expected: bool
) -> None:
    assert has_gone_silent(quiet, 30_000, Hearing(since_ms, 100_000), GRACE_MS, 100_000) is expected
    assert not has_gone_silent(quiet, 30_000, None, GRACE_MS, 100_000)
    assert not has_gone_silent(quiet, 30_000, Hearing(since_ms, 90_000), GRACE_MS, 100_000)


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def connection(url: str) -> Iterator[Connection]:
    with connect(url, "test") as connection:
        beat(connection, READINGS)
        connection.execute(
            "update telemetry.hearing set since = now() - interval '1 hour', until = now() + interval '1 hour'"
        )
        yield connection


class Pump:
    """A device of which `t` may be missing; `ago` is in seconds."""

    def __init__(self, connection: Connection, writer: BatchWriter) -> None:
        self._connection, self._writer, self._stream, self._seq = connection, writer, uuid4(), 0

    def send(self, *, ago: float, **values: float) -> None:
        self._seq += 1
        block = Block(
            message=Message("", b""), site="plant", device="pump", stream=self._stream, low=1, keys=tuple(values),
            seqs=[self._seq], times_ms=np.array([server_time_ms(self._connection) - round(ago * 1000)], np.int64),
            samples=np.array([list(values.values())], np.float64),
        )  # fmt: skip
        assert self._writer.write([block], []).stored_ticks == 1

    def fall_silent(self, **last: float) -> None:
        """The value that `t` sends last is of 60 s ago; the device sends `u` since then."""
        self.send(ago=60, **(last or {"t": 50.0, "u": 1.0}))
        for ago in (40, 25, 20, 10, 0.1):
            self.send(ago=ago, u=1.0)


@pytest.fixture
def pump(url: str, connection: Connection) -> Iterator[Pump]:
    with closing(BatchWriter(url)) as writer:
        yield Pump(connection, writer)


@pytest.fixture
def silent() -> SilentSeries:
    return SilentSeries(GRACE_MS)


def definition(**changes: Any) -> Definition:
    silence = {"after_seconds": 30, "then": "alert"}
    return Definition.model_validate(
        {"name": "hot", "metric": "t", "operator": ">", "warning": 80, "no_data": silence} | changes
    )


def make(connection: Connection, **changes: Any) -> int:
    with connection.transaction():
        return create_threshold(connection, definition(**changes)).threshold_id


def told(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select kind, content ->> 'reason' from telemetry.notification order by notification_id"
    ).fetchall()


OPENED, RETURNED, WITHDRAWN = ("opened", None), ("ended", "returned"), ("ended", "withdrawn")


@pytest.mark.parametrize(("levels", "severity"), [({}, "warning"), ({"warning": None, "critical": 80}, "critical")])
def test_its_silence_is_told_once_and_ends_with_its_next_value(
    connection: Connection, pump: Pump, silent: SilentSeries, levels: dict[str, Any], severity: str
) -> None:
    make(connection, **levels)
    pump.fall_silent()
    assert silent.look(connection) == 1
    assert silent.look(connection) == SilentSeries(GRACE_MS).look(connection) == 0
    (row,) = open_alerts(connection, AlertFilter(), states=list(AlertState), limit=10)
    assert (row.device, row.metric, row.threshold, row.severity, row.state, row.no_data, row.peak, row.level) == (
        "pump", "t", "hot", severity, "firing", True, None, None
    )  # fmt: skip
    assert list(payloads([row])) == ["telemetry/v1/plant/pump/alerts/hot"]
    pump.send(ago=0.05, t=NAN)
    assert silent.look(connection) == 0  # no value is no sign of life
    pump.send(ago=0, t=51.0)
    assert silent.look(connection) == 1
    assert silent.look(connection) == 0
    assert told(connection) == [OPENED, RETURNED]
    rows = connection.execute("select ended_at is not null, end_reason, last_value from telemetry.alert").fetchall()
    assert rows == [(True, "returned", 51.0)]


def test_a_column_without_values_is_silence_and_one_that_never_had_any_is_not(
    connection: Connection, pump: Pump, silent: SilentSeries
) -> None:
    make(connection, metric="*")
    pump.send(ago=60, t=50.0, never=NAN, u=1.0)
    for ago in (40, 25, 10, 0.1):
        pump.send(ago=ago, t=NAN, never=NAN, u=1.0)
    assert silent.look(connection) == 1
    assert silent.look(connection) == 0
    (row,) = open_alerts(connection, AlertFilter(), states=list(AlertState), limit=10)
    assert row.metric == "t"


@pytest.mark.parametrize("then", ["unknown", "keep"])
def test_other_rules_tell_nothing_of_it(connection: Connection, pump: Pump, silent: SilentSeries, then: str) -> None:
    make(connection, no_data={"after_seconds": 30, "then": then})
    pump.fall_silent()
    assert silent.look(connection) == 0


def test_the_silence_of_the_device_is_not_that_of_its_series(
    connection: Connection, pump: Pump, silent: SilentSeries
) -> None:
    make(connection, metric="*")
    pump.send(ago=600, t=50.0, u=1.0)
    assert silent.look(connection) == 0
    pump.send(ago=0.1, u=1.0)  # what comes first of a device that comes back
    assert silent.look(connection) == 0


def test_nothing_is_told_of_a_device_that_is_away_or_just_back(
    connection: Connection, pump: Pump, silent: SilentSeries
) -> None:
    make(connection)
    pump.fall_silent()
    connection.execute(
        "insert into telemetry.device_liveness (device_id, online, since, noticed_at, told)"
        " select device_id, false, now() - interval '1 hour', now(), true from telemetry.device"
    )
    assert silent.look(connection) == 0
    connection.execute("update telemetry.device_liveness set online = true, since = now()")
    assert silent.look(connection) == 0
    connection.execute("update telemetry.device_liveness set since = now() - interval '31 s'")
    assert silent.look(connection) == 1


def test_nothing_is_told_of_what_the_cloud_could_not_hear(
    connection: Connection, pump: Pump, silent: SilentSeries
) -> None:
    make(connection)
    pump.fall_silent()
    connection.execute("update telemetry.hearing set since = now() - interval '10 s'")
    assert silent.look(connection) == 0
    connection.execute("update telemetry.hearing set since = now() - interval '31 s'")
    assert silent.look(connection) == 1


@pytest.mark.parametrize("change", ["deleted", "disabled", "keeps", "other", "longer"])
def test_an_edit_that_leaves_nothing_to_tell_ends_it(
    connection: Connection, pump: Pump, silent: SilentSeries, change: str
) -> None:
    threshold_id = make(connection)
    pump.fall_silent()
    silent.look(connection)
    changes: dict[str, dict[str, Any]] = {
        "disabled": {"enabled": False},
        "keeps": {"no_data": {"then": "keep"}},
        "other": {"metric": "other"},
        "longer": {"no_data": {"after_seconds": 3_000, "then": "alert"}},
    }
    with connection.transaction():
        if change == "deleted":
            delete_threshold(connection, threshold_id)
        else:
            change_threshold(connection, threshold_id, definition(**changes[change]))
    silent.look(connection)
    assert told(connection) == ([OPENED] if change == "longer" else [OPENED, WITHDRAWN])
    assert silent.look(connection) == 0


def test_late_history_leaves_it_alone(connection: Connection, pump: Pump, silent: SilentSeries) -> None:
    make(connection)
    connection.execute("update telemetry.threshold_version set valid_from = now() - interval '1 hour'")
    connection.execute("update telemetry.threshold_epoch set epoch = epoch + 1")
    pump.fall_silent(t=95.0, u=1.0)
    silent.look(connection)
    pump.send(ago=90, t=50.0)
    pump.send(ago=70, t=96.0)
    history = LateHistory(connection)
    (device_id,) = history.due(quiet_seconds=0, longest_seconds=0)
    history.judge(device_id)
    rows = connection.execute(
        "select no_data, end_reason, severity, peak, extract(epoch from now() - start_at) > 65 from telemetry.alert"
        " order by no_data"
    ).fetchall()
    assert rows == [(False, None, "warning", None, True), (True, None, "warning", None, False)]


_LOOK = (
    "import sys; from cloud_ingest.store.database import connect;"
    " from cloud_ingest.store.silent_series import SilentSeries\n"
    "with connect(sys.argv[1], 'silent') as connection: print(SilentSeries(5000).look(connection))"
)


def _waits(connection: Connection) -> bool:
    ((waiting,),) = connection.execute("select count(*) from pg_locks where not granted").fetchall()
    return bool(waiting)


def test_one_that_is_killed_in_between_has_told_nothing_and_another_tells_once(
    url: str, connection: Connection, pump: Pump, silent: SilentSeries
) -> None:
    make(connection)
    pump.fall_silent()
    with connect(url, "holder") as holder, holder.transaction():
        holder.execute("lock table telemetry.notification in share mode")
        with subprocess.Popen([sys.executable, "-c", _LOOK, url]) as process:
            try:
                until(lambda: _waits(connection), 60, "the look waits in the middle of its transaction")
                assert silent.look(connection) == 0  # of two one looks
            finally:
                process.kill()
            assert process.wait() == -signal.SIGKILL
    until(lambda: silent.look(connection) == 1, 60, "another looks once the database let go")
    assert silent.look(connection) == 0
    assert told(connection) == [OPENED]


def test_the_worker_tells_it_and_the_api_shows_it(
    url: str, connection: Connection, pump: Pump, broker: Mosquitto
) -> None:
    make(connection)
    pump.fall_silent()
    connection.execute(
        "insert into telemetry.device_liveness (device_id, online, since, noticed_at, told)"
        " select device_id, true, now() - interval '1 hour', now(), false from telemetry.device"
    )
    with at_work(main.run, url, broker), serving(url) as client:

        def states() -> list[str]:
            return [it["state"] for it in ok(client, "/api/v1/realtime?metric=t")["items"]]

        until(lambda: told(connection) == [OPENED], 60, "the silence is told")
        assert states() == ["firing"]
        (alert,) = ok(client, "/api/v1/alerts")["items"]
        assert (alert["no_data"], alert["state"], alert["metric"]) == (True, "firing", "t")
        pump.send(ago=0, t=51.0)
        until(lambda: told(connection) == [OPENED, RETURNED], 60, "the return is told")
        assert states() == ["ok"]
        assert ok(client, "/api/v1/alerts")["items"] == []
