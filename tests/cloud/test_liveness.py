"""Who is there, by what was heard and by when the cloud could hear; and what is told where many of a site go."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from harness.api import ok, serving
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.alerts.liveness import MAX_PAUSE_MS, Ears, Heard, Hearing, Presence, Reason, Word, presence
from cloud_ingest.alerts.outages import Round, Seen, SiteRule, Standing, look
from cloud_ingest.store.database import Connection, connect
from cloud_ingest.store.hearing import READINGS, STATUSES, beat
from cloud_ingest.store.liveness import LivenessRules, look_at_devices
from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.status import record_status
from telemetry_contract.payload import Status

SILENCE, GRACE = 10_000, 5_000
NOW = 1_000_000
LISTENING = Hearing(0, NOW)
EARS = Ears(LISTENING, LISTENING)


def heard(**changes: Any) -> Heard:
    return Heard(**{"word": None, "arrived_ms": None, "measured_ms": None, "silence_ms": SILENCE, **changes})


def at(how: Heard, ears: Ears = EARS, now: int = NOW) -> Presence | None:
    return presence(how, ears, GRACE, now)


# One device


def test_a_device_is_there_as_long_as_something_comes_and_silent_after_its_time() -> None:
    assert at(heard(arrived_ms=NOW - SILENCE)) == Presence(online=True, since_ms=NOW - SILENCE)
    gone = NOW - SILENCE - 1
    assert at(heard(arrived_ms=gone)) == Presence(online=False, since_ms=gone, reason=Reason.SILENT)
    assert at(heard()) is None


@pytest.mark.parametrize("reason", [Reason.LOST, Reason.STOPPED])
def test_its_last_word_counts_though_readings_that_waited_in_the_broker_come_after_it(reason: Reason) -> None:
    word = Word(online=False, at_ms=NOW - 60_000, reason=reason)
    away = Presence(online=False, since_ms=word.at_ms, reason=reason)
    assert at(heard(word=word)) == away
    assert at(heard(word=word, arrived_ms=NOW, measured_ms=word.at_ms - 1)) == away
    measured_since = heard(word=word, arrived_ms=NOW, measured_ms=NOW - 1_000)
    assert at(measured_since) == Presence(online=True, since_ms=NOW)


def test_nobody_is_away_for_what_the_cloud_could_not_hear() -> None:
    silent = heard(arrived_ms=NOW - 10 * SILENCE)
    deaf = Hearing(0, NOW - MAX_PAUSE_MS - 1)
    fresh = Hearing(NOW - SILENCE, NOW)
    for ears in (Ears(None, LISTENING), Ears(LISTENING, None), Ears(deaf, LISTENING), Ears(LISTENING, deaf),
                 Ears(fresh, LISTENING), Ears(LISTENING, fresh)):  # fmt: skip
        assert at(silent, ears) is None
    later = NOW + 1
    assert at(silent, Ears(fresh, LISTENING), later) == Presence(
        online=False, since_ms=NOW - 10 * SILENCE, reason=Reason.SILENT
    )


def test_a_last_will_of_a_broker_that_restarts_waits_for_the_grace_to_be_over() -> None:
    lost = heard(word=Word(online=False, at_ms=NOW, reason=Reason.LOST), arrived_ms=NOW)
    back = Ears(Hearing(NOW - GRACE, NOW), LISTENING)
    assert at(lost, back) is None
    assert at(lost, back, NOW + 1) == Presence(online=False, since_ms=NOW, reason=Reason.LOST)


@given(
    st.none()
    | st.builds(Word, st.booleans(), st.integers(0, 60_000), st.sampled_from([None, Reason.LOST, Reason.STOPPED])),
    st.none() | st.integers(0, 60_000),
    st.integers(0, 60_000),
    st.integers(0, 60_000),
    st.integers(60_000, 90_000),
)
def test_who_is_silent_was_listened_for_long_enough_by_all(
    word: Word | None, arrived: int | None, since: int, other: int, now: int
) -> None:
    ears = Ears(Hearing(since, now), Hearing(other, now))
    found = at(heard(word=word, arrived_ms=arrived, measured_ms=arrived), ears, now)
    if found is not None and found.reason is Reason.SILENT:
        assert arrived is not None
        assert now - max(arrived, since, other) > SILENCE
    if found is not None and found.online:
        assert arrived is not None
        assert now - arrived <= SILENCE


# A site

RULE = SiteRule(devices=3, share=0.5, window_ms=8_000)
HERE = Presence(online=True, since_ms=0)


def gone(now: int) -> Presence:
    return Presence(online=False, since_ms=now, reason=Reason.LOST)


class Site:
    """A site over time: `told` is what was told of each device, alone or with others."""

    def __init__(self, count: int) -> None:
        self.now = 0
        self.standings: dict[int, Standing | None] = dict.fromkeys(range(count))
        self.outage: int | None = None
        self.begun = 0
        self.alone: list[tuple[int, int, bool]] = []
        self.told: dict[int, list[bool]] = {it: [] for it in range(count)}
        self.look(dict.fromkeys(range(count), HERE))

    def look(self, presences: dict[int, Presence | None], seconds: float = 0) -> Round:
        self.now += round(seconds * 1000)
        devices = {it: Seen(standing, presences.get(it)) for it, standing in self.standings.items()}
        members = self.members()
        found = look(devices, self.outage, RULE, self.now)
        self.standings |= found.standings
        for device_id, online in found.notices:
            self.alone.append((self.now, device_id, online))
            self.told[device_id].append(online)
        if found.begun:
            self.begun += 1
            self.outage = self.begun
            self.standings |= {it: replace(found.standings[it], outage=self.outage) for it in found.begun}
        for it in (*found.begun, *found.joined):
            self.told[it].append(False)
        if found.ended:
            self.outage = None
            for it in members - set(found.left):
                self.told[it].append(True)
        return found

    def members(self) -> set[int]:
        return {it for it, each in self.standings.items() if each is not None and each.outage is not None}


def test_one_device_is_told_when_it_has_been_away_for_the_window_and_when_it_is_back() -> None:
    site = Site(6)
    site.look({0: gone(0)})
    site.look({}, 7.9)
    assert site.alone == []
    site.look({}, 0.1)
    site.look({0: HERE}, 60)
    assert site.alone == [(8_000, 0, False), (68_000, 0, True)]


def test_a_device_that_is_back_at_once_is_not_told() -> None:
    site = Site(6)
    site.look({0: gone(0)})
    site.look({0: HERE}, 5)
    site.look({}, 60)
    assert site.alone == []


def test_many_are_one_outage_which_others_join_and_which_ends_when_all_are_back() -> None:
    site = Site(6)
    site.look({0: gone(0), 1: gone(0), 2: gone(0)})
    assert not site.begun  # more may follow
    site.look({3: gone(0)}, 1)
    assert site.look({}, 2).begun == [0, 1, 2, 3]
    assert site.look({4: gone(0)}, 20).joined == [4]
    assert not site.look(dict.fromkeys(range(4), HERE), 60).ended
    found = site.look({4: HERE}, 1)
    assert (found.ended, found.left, site.alone) == (True, [], [])


def test_too_small_a_share_of_a_site_is_told_one_by_one() -> None:
    site = Site(7)
    site.look({0: gone(0), 1: gone(0), 2: gone(0)})
    site.look({}, 8)
    assert [it[1:] for it in site.alone] == [(0, False), (1, False), (2, False)]


def test_those_that_stay_away_when_the_others_are_back_are_away_by_themselves() -> None:
    site = Site(6)
    site.look({it: gone(0) for it in range(6)})
    site.look({}, 2)
    assert not site.look(dict.fromkeys(range(5), HERE), 60).ended
    found = site.look({}, 8)
    assert (found.ended, found.left, site.alone) == (True, [5], [])
    site.look({5: HERE}, 600)
    assert [it[1:] for it in site.alone] == [(5, True)]


def test_how_it_is_at_the_first_look_is_no_news() -> None:
    site = Site(0)
    site.standings = dict.fromkeys(range(9))
    site.told = {it: [] for it in range(9)}
    site.look({it: gone(0) for it in range(9)})
    site.look({}, 100)
    assert (site.alone, site.begun) == ([], 0)
    site.look({0: HERE}, 1)
    assert [it[1:] for it in site.alone] == [(0, True)]


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.5, 1, 3, 9]),
        st.dictionaries(st.integers(0, 7), st.sampled_from([HERE, gone(0), None]), max_size=8),
    ),
    max_size=40,
)


@given(STEPS)
def test_whoever_went_is_told_once_and_nobody_twice(steps: list[tuple[float, dict[int, Presence | None]]]) -> None:
    site = Site(8)
    for seconds, presences in steps:
        alone = len(site.alone)
        members = site.members()
        site.look(presences, seconds)
        assert not {it for _, it, _ in site.alone[alone:]} & members
        again = site.look({})
        assert again == Round()
    site.look({}, 9)
    site.look({}, 9)
    for it, standing in site.standings.items():
        assert standing is not None
        assert standing.online != standing.told or standing.outage is not None
        if not standing.online:
            assert site.told[it][-1:] == [False]
    for kinds in site.told.values():
        assert kinds == [number % 2 == 1 for number in range(len(kinds))]


# In the database

RULES = LivenessRules(silence_ms=60_000, grace_ms=5_000, site=SiteRule(devices=3, share=0.5, window_ms=0))


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def connection(url: str) -> Iterator[Connection]:
    with connect(url, "test") as connection:
        listen(connection)
        yield connection


def listen(connection: Connection, since: timedelta = timedelta(hours=1)) -> None:
    """As if the cloud had been listening for so long."""
    for part in (STATUSES, READINGS):
        beat(connection, part)
    connection.execute("update telemetry.hearing set since = now() - %s", [since])


def say(connection: Connection, device: str, *, online: bool, stream: UUID | None = None, ago: float = 0) -> None:
    status = Status(
        v=1, online=online, stream=stream or uuid4(), boot_id="b", agent_version="1", reason=None if online else "lost"
    )
    record_status(connection, "plant", device, status, datetime.now(UTC) - timedelta(seconds=ago))


def told(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select kind, content ->> 'device', jsonb_array_length(content -> 'devices') from telemetry.notification"
        " order by notification_id"
    ).fetchall()


def test_a_device_goes_by_its_last_will_and_is_told_once(connection: Connection) -> None:
    say(connection, "pump", online=True)
    look_at_devices(connection, RULES)
    say(connection, "pump", online=False)
    assert look_at_devices(connection, RULES) == 1
    assert look_at_devices(connection, RULES) == 0
    say(connection, "pump", online=True)
    look_at_devices(connection, RULES)
    look_at_devices(connection, RULES)
    assert told(connection) == [("offline", "pump", None), ("online", "pump", None)]


def test_a_device_has_its_own_time_to_be_silent(connection: Connection) -> None:
    say(connection, "slow", online=True, ago=50)
    say(connection, "quick", online=True, ago=50)
    look_at_devices(connection, RULES)
    connection.execute("update telemetry.device set silence_seconds = 30 where name = 'quick'")
    look_at_devices(connection, RULES)
    assert told(connection) == [("offline", "quick", None)]
    assert connection.execute("select reason from telemetry.device_liveness where not online").fetchall() == [
        ("silent",)
    ]


def test_a_site_is_told_as_one_with_all_that_went(connection: Connection) -> None:
    names = [f"pump-{it}" for it in range(20)]
    for name in names:
        say(connection, name, online=True)
    look_at_devices(connection, RULES)
    for name in names:
        say(connection, name, online=False)
    look_at_devices(connection, RULES)
    say(connection, "late", online=True)
    look_at_devices(connection, RULES)
    say(connection, "late", online=False)
    look_at_devices(connection, RULES)
    assert told(connection) == [("offline", None, 20)]
    for name in ("late", *names):
        say(connection, name, online=True)
    look_at_devices(connection, RULES)
    assert told(connection) == [("offline", None, 20), ("online", None, 0)]
    assert connection.execute(
        "select cardinality(devices), ended_at is not null from telemetry.site_outage"
    ).fetchall() == [(21, True)]
    assert connection.execute("select count(outage_id) from telemetry.device_liveness").fetchall() == [(0,)]


def test_after_the_cloud_was_away_everybody_has_time_to_come_back(connection: Connection) -> None:
    for it in range(9):
        say(connection, f"pump-{it}", online=True, ago=40)
    look_at_devices(connection, RULES)
    connection.execute("update telemetry.device_status set received_at = now() - interval '3 hours'")
    connection.execute("update telemetry.hearing set until = now() - interval '2 hours' where part = %s", [READINGS])
    look_at_devices(connection, RULES)
    beat(connection, READINGS)
    look_at_devices(connection, RULES)
    assert told(connection) == []
    listen(connection, timedelta(seconds=70))
    look_at_devices(connection, RULES)
    assert told(connection) == [("offline", None, 9)]


def test_two_that_look_at_once_tell_once(url: str, connection: Connection) -> None:
    say(connection, "pump", online=True)
    look_at_devices(connection, RULES)
    say(connection, "pump", online=False)
    with connect(url, "other") as other, other.transaction():
        assert look_at_devices(other, RULES) == 1
        assert look_at_devices(connection, RULES) == 0
    assert look_at_devices(connection, RULES) == 0
    assert told(connection) == [("offline", "pump", None)]


# Over the API


def test_the_api_says_who_is_there_and_sets_the_time_to_be_silent(url: str, connection: Connection) -> None:
    say(connection, "pump", online=True, ago=50)
    look_at_devices(connection, RULES)
    with serving(url) as client:
        assert ok(client, "/api/v1/devices/pump")["online"] is True
        answer = client.put("/api/v1/devices/pump/liveness", json={"silence_seconds": 30})
        assert answer.json() == {"device": "pump", "silence_seconds": 30}
        look_at_devices(connection, RULES)
        found = ok(client, "/api/v1/devices/pump")
        assert (found["online"], found["reason"], found["silence_seconds"]) == (False, "silent", 30)
        assert ok(client, "/api/v1/devices")["items"][0]["online"] is False
        say(connection, "pump", online=True)
        assert ok(client, "/api/v1/devices/pump")["online"] is True  # its own word is newer
        client.put("/api/v1/devices/pump/liveness", json={"silence_seconds": None}).raise_for_status()
        assert ok(client, "/api/v1/devices/pump")["silence_seconds"] is None
        assert client.put("/api/v1/devices/pump/liveness", json={"silence_seconds": 9}).status_code == 422
        assert client.put("/api/v1/devices/none/liveness", json={"silence_seconds": 30}).status_code == 404
