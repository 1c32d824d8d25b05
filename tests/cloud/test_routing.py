"""Who is told of what, and what one message says."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cloud_ingest.alerts.notify.backoff import delay_seconds
from cloud_ingest.alerts.notify.change import Change
from cloud_ingest.alerts.notify.message import message_of
from cloud_ingest.alerts.notify.notification import Kind
from cloud_ingest.alerts.notify.routing import Route, group_key, matches, routes
from cloud_ingest.alerts.notify.settings import Match, Receiver
from cloud_ingest.store.alerts import AlertRow
from cloud_ingest.worker.resender import repeated

AT = datetime(2026, 11, 20, 23, 39, tzinfo=UTC)
CONTENT: dict[str, Any] = {
    "threshold": "hot",
    "device": "pump-1",
    "site": "plant",
    "location": "factory.hall",
    "metric": "temperature_celsius",
    "labels": {"sensor": "oil"},
    "unit": "celsius",
    "severity": "warning",
    "value": 83.5,
    "level": 80,
    "time_ms": 1_795_000_000_123,
    "start_ms": 1_795_000_000_000,
    "message": "too hot",
}
RECEIVER: TypeAdapter[Receiver] = TypeAdapter(Receiver)


def change(number: int = 1, kind: str = "opened", alert_id: int | None = 41, **content: Any) -> Change:
    return Change(number, kind, CONTENT | content, AT, alert_id, "critical", AT, AT + timedelta(minutes=1))


def receiver(**settings: Any) -> Receiver:
    return RECEIVER.validate_python({"type": "webhook", "url": "https://h", **settings})


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({}, True),
        ({"min_severity": "critical"}, False),
        ({"site": "pl*"}, True),
        ({"site": "pl"}, False),
        ({"device": "pump-?", "metric": "temperature_*", "threshold": "hot", "location": "factory.*"}, True),
        ({"device": "pump-?", "metric": "humidity_*"}, False),
    ],
)
def test_all_that_is_given_must_hold(match: dict[str, Any], expected: bool) -> None:  # noqa: FBT001 - a parameter
    assert matches(Match.model_validate(match), change()) is expected


def test_a_pattern_does_not_fit_what_is_not_there_and_what_has_no_severity_is_for_all() -> None:
    unplaced = change(location=None)
    assert not matches(Match(location="*"), unplaced)
    assert matches(Match(min_severity="critical"), Change(1, "digest", {}, AT, None, None, None, None))


def test_an_end_is_told_to_those_who_were_told_of_the_episode() -> None:
    receivers = {"all": receiver(group_by=None), "worst": receiver(group_by=None, match={"min_severity": "critical"})}
    ended = change(3, "ended", severity="critical")
    assert routes(receivers, [ended], set()) == []
    assert routes(receivers, [ended], {("worst", 41)}) == [Route("worst", 3, None)]
    both = routes(receivers, [change(1), ended], set())
    assert both == [Route("all", 1, None), Route("all", 3, None)]


def test_a_group_has_the_same_of_what_it_goes_by() -> None:
    assert group_key(None, change()) is None
    assert group_key([], change()) == group_key([], change(device="other", site="other"))
    by_site = ["site", "threshold"]
    assert group_key(by_site, change()) == group_key(by_site, change(device="other"))
    assert group_key(by_site, change()) != group_key(by_site, change(threshold="cold"))
    assert group_key(["location"], change(location=None)) != group_key(["location"], change(location="null"))


def test_a_message_of_one_is_that_one_and_says_the_same_each_time() -> None:
    id_ = UUID(int=7)
    one = message_of(id_, [change()], digest=False)
    assert one == message_of(id_, [change()], digest=False)
    assert (one.id, one.kind, one.title) == (
        id_,
        Kind.FIRING,
        '[warning] hot: pump-1 temperature_celsius{sensor="oil"}',
    )
    assert one.text.splitlines()[0] == "too hot"
    assert one.alert is not None
    assert one.alert.severity == "warning"  # as it was then
    assert one.alert.ends_at is None


def test_an_end_has_a_time_also_where_it_was_withdrawn() -> None:
    ended = message_of(UUID(int=7), [change(kind="ended")], digest=False)
    assert ended.alert is not None
    assert ended.alert.ends_at == datetime(2026, 11, 18, 11, 6, 40, 123_000, tzinfo=UTC)
    content = {name: CONTENT[name] for name in ("threshold", "device", "site", "metric", "labels")}
    row = Change(1, "ended", content | {"reason": "withdrawn"}, AT, 41, "critical", AT, AT + timedelta(minutes=1))
    withdrawn = message_of(UUID(int=7), [row], digest=False)
    assert withdrawn.alert is not None
    assert (withdrawn.alert.ends_at, withdrawn.alert.severity) == (AT + timedelta(minutes=1), "critical")
    assert "no threshold any more" in withdrawn.text


def test_a_group_tells_the_worst_first_and_all_that_it_has() -> None:
    changes = [change(1, "ended"), change(2, device="pump-2"), change(3, "escalated", severity="critical")]
    group = message_of(UUID(int=7), changes, digest=False)
    assert group.kind is Kind.ESCALATED
    assert group.title == "[critical] hot at plant: 1 firing, 1 escalated, 1 resolved"
    assert group.details["kinds"] == {"resolved": 1, "firing": 1, "escalated": 1}
    assert [it["kind"] for it in group.details["changes"]] == ["resolved", "firing", "escalated"]
    assert message_of(UUID(int=7), changes[:1] * 2, digest=False).title == "[resolved] hot at plant: 2 resolved"


def test_a_very_large_group_is_told_in_part_with_its_number() -> None:
    group = message_of(UUID(int=7), [change(number, device=f"d{number}") for number in range(5_000)], digest=True)
    assert group.title == "[digest] hot at plant: 5000 firing"
    assert group.text.splitlines()[-1] == "and 4900 more"
    assert (group.details["count"], len(group.details["changes"])) == (5_000, 100)


def test_a_kind_from_the_future_is_told_all_the_same() -> None:
    told = message_of(
        UUID(int=7), [Change(1, "moved", {"message": "it moved"}, AT, None, None, None, None)], digest=False
    )
    assert (told.kind, told.text.splitlines()[0], told.alert) == (Kind.DIGEST, "it moved", None)


@given(st.integers(1, 10_000), st.none() | st.floats(0, 3_600))
def test_waits_grow_to_a_bound_and_never_end_before_the_receiver_said(failures: int, asked: float | None) -> None:
    shortest = delay_seconds(failures, asked, lambda low, _: low)
    longest = delay_seconds(failures, asked, lambda _, high: high)
    assert max(1.0, asked or 0) <= shortest <= longest <= max(600.0, asked or 0)
    assert longest <= delay_seconds(failures + 1, asked, lambda _, high: high)


def row(alert_id: int, *, ended: bool = False, device: str = "pump") -> AlertRow:
    names = {it.name: None for it in fields(AlertRow)}
    known: dict[str, Any] = {
        "alert_id": alert_id,
        "threshold": "hot",
        "severity": "warning",
        "device": device,
        "site": "plant",
        "metric": "temperature_celsius",
        "labels": {},
        "unit": "celsius",
        "start_at": AT,
        "ended_at": AT + timedelta(seconds=alert_id) if ended else None,
    }
    return AlertRow(**{**names, **known})


def test_of_a_series_only_what_holds_now_is_repeated() -> None:
    now = AT + timedelta(hours=1)
    both = repeated([row(2), row(1, ended=True)], Match(), now)
    assert [(it.alert_id, it.kind) for it in both] == [(2, Kind.FIRING)]
    over = repeated([row(3, ended=True), row(4, ended=True)], Match(), now)
    assert [(it.alert_id, it.kind) for it in over] == [(4, Kind.RESOLVED)]
    assert len(repeated([row(1), row(2, device="valve")], Match(), now)) == 2
    assert repeated([row(1)], Match(site="elsewhere"), now) == []
