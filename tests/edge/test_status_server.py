import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from harness.absence import Absent, skip_or_fail
from harness.promtool import promtool
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import dry_run
from edge_agent.config import Config
from edge_agent.delivery_report import DeliveryCounts, DeliveryReport
from edge_agent.exposition import exposition
from edge_agent.latest import KEPT_INTERVALS, KEPT_SECONDS, Latest
from edge_agent.local_http import Request, Response
from edge_agent.publisher import Identity
from edge_agent.reading import Reading
from edge_agent.statistics import CollectorCounts
from edge_agent.status_server import AGENT_METRICS, Facts, answer
from edge_agent.timestamps import ClockReport
from telemetry_contract.metrics import CATALOGUE
from telemetry_contract.payload import DesiredState, OutboxState
from telemetry_contract.series import SeriesKey
from telemetry_contract.version import __version__

DOCUMENT = Path(__file__).parents[2] / "docs" / "edge.md"

WELL = Facts(
    device="pump",
    site="plant",
    identity=Identity(boot_id="boot", config_hash="abc", desired=DesiredState(state="applied", version=3, in_effect=3)),
    needs_restart=(),
    ignored_configs=5,
    labels={},
    uptime_seconds=12.5,
    outbox_max_bytes=1_000_000,
    values={"cpu_usage_percent": 12.5, 'disk_used_bytes{mount="/"}': 9e10, 'disk_used_bytes{mount="/b"}': 5.0},
    delivery=DeliveryReport(
        stream=UUID(int=7),
        connected=True,
        in_flight=2,
        stalled=False,
        in_memory=0,
        disk_fails=False,
        untimed_readings=0,
        clock=ClockReport(known=True, source="system"),
        outbox=OutboxState(
            depth=3, bytes=4_096, low=5, next_seq=8, oldest_time=1_763_678_400_123, dropped=1, thinned=4
        ),
        counts=DeliveryCounts(messages_sent=10, ticks_sent=20, ticks_confirmed=9, commit_acks=8, ignored_acks=6),
    ),
    collectors={"cpu": CollectorCounts(failures=1, overruns=2, rejected_values=3)},
    problems=(),
)


def got(path: str, facts: Facts = WELL, method: str = "GET") -> Response:
    return answer(lambda: facts)(Request(method, path))


def metrics(text: str) -> dict[str, float]:
    return {
        key: float(value)
        for key, _, value in (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    }


def test_metrics_are_those_of_the_collectors_and_of_the_agent() -> None:
    response = got("/metrics")
    assert (response.status, response.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert metrics(response.body) == {
        "cpu_usage_percent": 12.5,
        'disk_used_bytes{mount="/"}': 9e10,
        'disk_used_bytes{mount="/b"}': 5,
        f'agent_info{{device="pump",site="plant",version="{__version__}"}}': 1,
        "agent_healthy": 1,
        "agent_connected": 1,
        "agent_window_messages": 2,
        "agent_window_stalled": 0,
        "agent_outbox_ticks": 3,
        "agent_outbox_bytes": 4_096,
        "agent_outbox_max_bytes": 1_000_000,
        "agent_outbox_oldest_time_seconds": 1_763_678_400.123,
        "agent_outbox_dropped_ticks_total": 1,
        "agent_outbox_thinned_ticks_total": 4,
        "agent_outbox_write_failing": 0,
        "agent_waiting_readings": 0,
        "agent_clock_known": 1,
        "agent_untimed_readings": 0,
        "agent_sent_messages_total": 10,
        "agent_sent_ticks_total": 20,
        "agent_confirmed_ticks_total": 9,
        "agent_refused_messages_total": 0,
        "agent_commit_acks_total": 8,
        "agent_ignored_acks_total": 6,
        "agent_ignored_configs_total": 5,
        "agent_uptime_seconds": 12.5,
        'agent_collector_failures_total{collector="cpu"}': 3,
    }


def test_its_own_metrics_carry_the_labels_of_the_configuration_too() -> None:
    stale = {'agent_uptime_seconds{room="a"}': 5.0}
    told = metrics(got("/metrics", replace(WELL, labels={"room": "a"}, values=stale)).body)
    assert told['agent_uptime_seconds{room="a"}'] == 12.5
    assert "agent_uptime_seconds" not in told


def test_every_metric_of_the_agent_is_described_and_given() -> None:
    given = {SeriesKey.parse(key).metric for key in metrics(got("/metrics").body)}
    assert AGENT_METRICS.keys() <= given
    assert given <= AGENT_METRICS.keys() | CATALOGUE.keys()
    assert AGENT_METRICS.keys().isdisjoint(CATALOGUE)


def test_an_empty_outbox_has_no_oldest_time() -> None:
    empty = replace(WELL.delivery, outbox=OutboxState())
    assert "agent_outbox_oldest" not in got("/metrics", replace(WELL, delivery=empty)).body


def test_what_the_agent_says_of_itself_comes_before_what_a_collector_sent_a_tick_ago() -> None:
    stale = {"agent_uptime_seconds": 5.0, 'agent_collector_failures_total{collector="cpu"}': 0.0}
    text = got("/metrics", replace(WELL, values=stale)).body
    assert metrics(text)["agent_uptime_seconds"] == 12.5
    assert text.count("agent_uptime_seconds ") == 3  # HELP, TYPE and the value


def test_all_is_well() -> None:
    response = got("/healthz")
    assert (response.status, response.body) == (200, "ok\n")


def test_what_is_not_well_is_said_with_503() -> None:
    facts = replace(WELL, problems=("the publisher has ended", "the disk refuses"))
    response = got("/healthz", facts)
    assert (response.status, response.body) == (503, "the publisher has ended\nthe disk refuses\n")
    assert metrics(got("/metrics", facts).body)["agent_healthy"] == 0


def test_status_is_json() -> None:
    response = got("/status", replace(WELL, needs_restart=("broker",)))
    assert (response.status, response.content_type) == (200, "application/json")
    told = json.loads(response.body)
    assert told["delivery"].pop("outbox")["depth"] == 3
    assert told["delivery"].pop("counts")["ticks_confirmed"] == 9
    assert told == {
        "device": "pump",
        "site": "plant",
        "agent_version": __version__,
        "boot_id": "boot",
        "config": {"hash": "abc", "needs_restart": ["broker"]},
        "desired": {"state": "applied", "version": 3, "in_effect": 3},
        "ignored_configs": 5,
        "uptime_seconds": 12.5,
        "healthy": True,
        "problems": [],
        "delivery": {
            "stream": str(UUID(int=7)),
            "connected": True,
            "in_flight": 2,
            "stalled": False,
            "in_memory": 0,
            "disk_fails": False,
            "untimed_readings": 0,
            "clock": {"known": True, "source": "system", "ahead_of_cloud_ms": None},
        },
        "collectors": {"cpu": {"failures": 1, "overruns": 2, "rejected_values": 3, "superseded_values": 0}},
    }


def test_the_first_page_names_the_others() -> None:
    body = got("/").body
    for path in re.findall(r"(?m)^/\w+", body):
        assert got(path).status == 200
    assert set(re.findall(r"(?m)^/\w+", body)) == {"/metrics", "/healthz", "/status"}


def test_other_paths_and_methods_are_refused() -> None:
    assert got("/x").status == 404
    refused = got("/status", method="POST")
    assert (refused.status, refused.headers) == (405, {"Allow": "GET, HEAD"})
    assert got("/status", method="HEAD").status == 200


@pytest.fixture(scope="module")
def check_metrics() -> Path:
    try:
        return promtool()
    except Absent as absent:
        skip_or_fail(absent)


def complaints(program: Path, text: str) -> str:
    checked = subprocess.run([program, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    return f"{checked.stdout}{checked.stderr}"


def test_promtool_has_nothing_to_say_about_the_metrics_of_this_machine(check_metrics: Path) -> None:
    measured = dry_run.collect(Config())
    values = {key: value for reading in measured.readings for key, value in reading.values.items() if value is not None}
    assert len(values) > 20
    assert complaints(check_metrics, got("/metrics", replace(WELL, values=values)).body) == ""


def test_promtool_has_nothing_to_say_about_any_metric_of_the_catalogue(check_metrics: Path) -> None:
    values = {str(SeriesKey.of(metric.name, dict.fromkeys(metric.labels, "x"))): 1.0 for metric in CATALOGUE.values()}
    assert complaints(check_metrics, got("/metrics", replace(WELL, values=values)).body) == ""


def test_promtool_understands_what_users_call_their_series(check_metrics: Path) -> None:
    values = {
        str(SeriesKey.of("boiler_count")): 1.0,
        str(SeriesKey.of("latency_bucket", {"le": "0.5"})): 1e300,
        str(SeriesKey.of("pump_speed", {"a": 'quote " backslash \\ line\nfeed', "b": "é €"})): -0.1,
    }
    assert complaints(check_metrics, got("/metrics", replace(WELL, values=values)).body) == ""


def test_promtool_would_complain(check_metrics: Path) -> None:
    assert "no help text" in complaints(check_metrics, "x 1\n")
    assert complaints(check_metrics, "x{ 1\n") != ""


LABELS = st.dictionaries(
    st.from_regex(r"[a-z_]{1,4}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5).map(lambda it: f'{it}\\"'),
    max_size=2,
)
KEYS = st.builds(SeriesKey.of, st.sampled_from(["a", "a_total", "b:c", "cpu_usage_percent"]), LABELS).map(str)


@given(st.dictionaries(KEYS, st.floats(allow_nan=False, allow_infinity=False), max_size=8))
def test_any_series_stands_once_below_the_description_of_its_metric(values: dict[str, float]) -> None:
    told: dict[str, float] = {}
    described: list[str] = []
    for line in exposition(values, {}).splitlines():
        if line.startswith("# HELP "):
            described.append(line.split()[2])
        elif not line.startswith("#"):
            key, _, value = line.rpartition(" ")
            assert SeriesKey.parse(key).metric == described[-1]
            told[key] = float(value)
    assert told == values
    assert len(described) == len(set(described))


def test_kinds_and_help() -> None:
    text = exposition({"cpu_usage_percent": 1, "foreign": 2, "foreign_total": 3}, {})
    assert "# TYPE cpu_usage_percent gauge\n" in text
    assert f"# HELP cpu_usage_percent {CATALOGUE['cpu_usage_percent'].help}\n" in text
    assert "# TYPE foreign untyped\n" in text
    assert "# TYPE foreign_total counter\n" in text


def test_values_are_the_newest_of_each_series_while_they_are_fresh() -> None:
    now = [100.0]
    latest = Latest(lambda: now[0])
    latest.add(Reading(1, 1, {"a": 1.0, "b": 2.0}, interval_seconds=5))
    latest.add(Reading(2, 2, {"a": 3.0, "c": None}, interval_seconds=5))
    latest.add(Reading(2, 2, {"slow": 4.0}, interval_seconds=3_600))
    assert latest.values() == {"a": 3.0, "b": 2.0, "slow": 4.0}
    now[0] += 5 * KEPT_INTERVALS + KEPT_SECONDS
    latest.add(Reading(3, 3, {"a": None}, interval_seconds=5))
    assert latest.values() == {"b": 2.0, "slow": 4.0}
    now[0] += 1
    assert latest.values() == {"slow": 4.0}
    now[0] += 4 * 3_600
    assert latest.values() == {}
    latest.add(Reading(4, 4, {"b": 1.0}))
    assert latest.values() == {"b": 1.0}
