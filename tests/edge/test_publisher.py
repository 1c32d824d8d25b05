"""The publisher on a real broker, with a stand-in for the cloud that commits and acknowledges."""

import json
import logging
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.broker import Mosquitto
from harness.committer import Committer
from harness.ports import free_port
from harness.processes import NewProcess
from harness.wait import until
from paho.mqtt.enums import MQTTProtocolVersion

from edge_agent.config import Config
from edge_agent.outbox import Outbox
from edge_agent.publisher import Identity, Publisher
from edge_agent.reading import Reading
from edge_agent.write_behind import WriteBehindOutbox
from telemetry_contract.payload import Backlog, Tick
from telemetry_contract.topics import Kind

STATUS_FIELDS = {"v", "online", "stream", "boot_id", "agent_version", "time", "outbox", "config_hash"}


class Edge:
    """A publisher with its outbox."""

    def __init__(self, directory: Path, port: int) -> None:
        self.path = directory / "outbox.db"
        self.port = port
        self.delivery: dict[str, Any] = {}
        self.outbox_options: dict[str, Any] = {}
        self.broker: dict[str, Any] = {}
        self.number = 0
        self.publisher: Publisher | None = None

    def config(self) -> Config:
        return Config.of(
            {
                "device": "pump",
                "site": "plant",
                "broker": {"host": "127.0.0.1", "port": self.port, **self.broker},
                "outbox": {"path": self.path, **self.outbox_options},
                "delivery": self.delivery,
            }
        )

    def start(self) -> None:
        config = self.config()
        kind = WriteBehindOutbox if config.outbox.flush_after_seconds else Outbox
        outbox = kind.open(self.path, max_bytes=config.outbox.max_bytes)
        self.publisher = Publisher(config, outbox, Identity(boot_id="this boot", config_hash="abc"))
        self.publisher.start()

    def stop(self) -> None:
        if self.publisher is not None:
            self.publisher.stop()
            self.publisher = None

    def measure(self, count: int = 1, values: dict[str, float | None] | None = None) -> None:
        assert self.publisher is not None
        for _ in range(count):
            self.number += 1
            self.publisher.append(Reading(1_700_000_000_000 + self.number, 0, values or {"number": float(self.number)}))

    @property
    def depth(self) -> int:
        assert self.publisher is not None
        return self.publisher.depth

    def wait_delivered(self, timeout: float = 20.0) -> None:
        until(lambda: self.depth == 0, timeout, "an empty outbox")


@pytest.fixture
def edge(tmp_path: Path, broker: Mosquitto) -> Iterator[Edge]:
    made = Edge(tmp_path, broker.port)
    yield made
    made.stop()


@pytest.fixture
def cloud(broker: Mosquitto) -> Iterator[Committer]:
    with Committer(broker.host, broker.port) as committer:
        yield committer


def test_a_tick_is_delivered_and_leaves_the_outbox_with_its_commit_ack(edge: Edge, cloud: Committer) -> None:
    cloud.acknowledging = False
    edge.start()
    edge.measure(values={"cpu_usage_percent": 12.5, "absent": None})
    [arrival] = cloud.wait_for(1)
    assert arrival.kind is Kind.SAMPLES
    assert arrival.content_type == "application/json"
    tick = arrival.message
    assert isinstance(tick, Tick)
    assert (tick.seq, tick.low, tick.t) == (1, 1, 1_700_000_000_001)
    assert tick.values == {"cpu_usage_percent": 12.5, "absent": None}
    assert edge.depth == 1
    cloud.acknowledge(tick.stream, [(1, 1)])
    edge.wait_delivered()


def test_with_nothing_to_do_it_sleeps_and_what_it_reports_is_up_to_date(edge: Edge, cloud: Committer) -> None:
    edge.start()
    publisher = edge.publisher
    assert publisher is not None
    edge.measure()
    cloud.wait_for(1)
    edge.wait_delivered()
    until(lambda: publisher.report.counts.ticks_confirmed == 1 and publisher.report.in_flight == 0, 20, "the report")
    until(publisher._at_rest, 20, "no more to do")  # noqa: SLF001 - it shows in CPU time alone
    assert 1.0 < publisher._wait_seconds(time.monotonic()) <= 10.0  # noqa: SLF001
    until(lambda: publisher.stalled(grace_seconds=0.0) is None, 20, "it to wait")
    edge.measure()
    cloud.wait_for(2)


def test_only_a_tick_that_was_measured_afterwards_is_a_proof(edge: Edge, cloud: Committer) -> None:
    proofs: list[str] = []
    cloud.acknowledging = False
    edge.start()
    edge.measure(3)
    until(lambda: set(cloud.seqs) == {1, 2, 3}, 20, "the ticks of before")
    stream = cloud.arrivals[0].message.stream
    assert edge.publisher is not None
    edge.publisher.prove(lambda: proofs.append("replaced"))
    edge.publisher.prove(lambda: proofs.append("proved"))
    edge.measure()
    until(lambda: 4 in cloud.seqs, 20, "the tick of after")
    cloud.acknowledge(stream, [(1, 3)])
    until(lambda: edge.depth == 1, 20, "those of before to be confirmed")
    assert proofs == []
    cloud.acknowledge(stream, [(1, 4)])
    until(lambda: proofs == ["proved"], 20, "the proof")
    edge.measure()
    until(lambda: 5 in cloud.seqs, 20, "one more")
    cloud.acknowledge(stream, [(1, 5)])
    edge.wait_delivered()
    assert proofs == ["proved"]


def test_every_tick_is_delivered_in_order_while_all_is_well(edge: Edge, cloud: Committer) -> None:
    edge.start()
    for number in range(1, 51):
        edge.measure()
        cloud.wait_for(number)
    assert cloud.seqs == list(range(1, 51))
    assert {arrival.kind for arrival in cloud.arrivals} == {Kind.SAMPLES}
    edge.wait_delivered()


def test_the_birth_comes_first_and_tells_of_the_outbox(edge: Edge, cloud: Committer) -> None:
    edge.start()
    edge.measure()
    cloud.wait_for(1)
    [(birth, _), *_] = cloud.statuses
    assert birth.online
    assert (birth.boot_id, birth.config_hash) == ("this boot", "abc")
    assert birth.outbox is not None
    assert birth.outbox.next_seq in {1, 2}
    assert birth.stream == cloud.arrivals[0].message.stream


def test_after_an_outage_the_newest_comes_first_and_the_rest_in_bulk(edge: Edge, broker: Mosquitto) -> None:
    broker.stop()
    edge.start()
    edge.measure(1_000)
    until(lambda: edge.depth == 1_000, 10, "the readings to be stored")
    broker.start()
    with Committer(broker.host, broker.port) as cloud:
        edge.wait_delivered(40)
        first, *rest = cloud.arrivals
        assert first.seqs == [1_000]
        assert isinstance(first.message, Tick)
        assert all(arrival.kind is Kind.BACKLOG and isinstance(arrival.message, Backlog) for arrival in rest)
        assert cloud.seqs[1:] == list(range(1, 1_000))
        assert len(rest) == 10
        [second, *_] = rest
        assert isinstance(second.message, Backlog)
        assert second.message.t[:2] == [1_700_000_000_001, 1_700_000_000_002]
        assert second.message.values == {"number": [float(number) for number in range(1, 101)]}
        assert second.content_type in {"application/json+zlib", "application/json+zstd"}


def test_ticks_measured_during_the_drain_overtake_the_backlog(edge: Edge, broker: Mosquitto) -> None:
    edge.delivery = {"window_messages": 2, "backlog_ticks_per_message": 1, "confirm_timeout_seconds": 3}
    broker.stop()
    edge.start()
    edge.measure(100)
    until(lambda: edge.depth == 100, 10, "the readings to be stored")
    broker.start()
    with Committer(broker.host, broker.port) as cloud:
        cloud.wait_for(20)
        edge.measure()
        edge.wait_delivered(60)
        assert 20 <= cloud.seqs.index(101) < 40
        assert sorted(set(cloud.seqs)) == list(range(1, 102))


def test_ticks_of_different_collectors_travel_with_their_own_kind(edge: Edge, broker: Mosquitto) -> None:
    broker.stop()
    edge.start()
    for _ in range(50):
        edge.measure(values={"a": 1.0, "b": 2.0})
        edge.measure(values={"c": 3.0})
    until(lambda: edge.depth == 100, 10, "the readings to be stored")
    broker.start()
    with Committer(broker.host, broker.port) as cloud:
        edge.wait_delivered()
        assert [list(arrival.message.values) for arrival in cloud.arrivals] == [["c"], ["a", "b"], ["a", "b"], ["c"]]
        assert sorted(cloud.seqs) == list(range(1, 101))


def test_nothing_is_sent_beyond_the_window_while_nothing_is_confirmed(edge: Edge, cloud: Committer) -> None:
    cloud.acknowledging = False
    edge.delivery = {"window_messages": 4, "backlog_ticks_per_message": 10, "confirm_timeout_seconds": 3_600}
    edge.start()
    edge.measure(1_000)
    cloud.wait_for(4)
    edge.measure(10)
    until(lambda: edge.depth == 1_010, 10, "the readings to be stored")
    assert len(cloud.arrivals) == 4
    cloud.acknowledging = True
    cloud.acknowledge(cloud.arrivals[0].message.stream, [(1, 1_000)])
    edge.wait_delivered()


def test_what_is_not_confirmed_in_time_is_sent_again(edge: Edge, cloud: Committer) -> None:
    cloud.acknowledging = False
    edge.delivery = {"confirm_timeout_seconds": 1}
    edge.start()
    edge.measure()
    cloud.wait_for(3)
    assert set(cloud.seqs) == {1}
    cloud.acknowledging = True
    edge.wait_delivered()


def test_a_broker_that_is_killed_loses_nothing(edge: Edge, broker: Mosquitto) -> None:
    # It may be back before anybody listens: what is sent to nobody then waits out this timeout, at worst twice.
    edge.delivery = {"confirm_timeout_seconds": 1}
    with Committer(broker.host, broker.port) as cloud:
        cloud.acknowledging = False
        edge.start()
        edge.measure(40)
        until(lambda: set(cloud.seqs) == set(range(1, 41)), 10, "all ticks")
    broker.kill()
    edge.measure(10)
    broker.start()
    with Committer(broker.host, broker.port) as cloud:
        edge.wait_delivered(40)
        assert set(cloud.seqs) == set(range(1, 51))
        assert cloud.statuses, "a broker that has forgotten its retained messages gets a birth"


def test_a_restarted_agent_goes_on_where_it_stopped(edge: Edge, broker: Mosquitto) -> None:
    with Committer(broker.host, broker.port) as cloud:
        cloud.acknowledging = False
        edge.start()
        edge.measure(3)
        until(lambda: set(cloud.seqs) == {1, 2, 3}, 10, "all ticks")
        [stream] = {arrival.message.stream for arrival in cloud.arrivals}
        edge.stop()
    with Committer(broker.host, broker.port) as cloud:
        edge.start()
        edge.wait_delivered()
        assert cloud.seqs == [3, 1, 2]
        edge.measure()
        edge.wait_delivered()
        assert cloud.seqs == [3, 1, 2, 4]
        assert {arrival.message.stream for arrival in cloud.arrivals} == {stream}


def test_acks_that_are_none_are_ignored(edge: Edge, cloud: Committer, caplog: pytest.LogCaptureFixture) -> None:
    cloud.acknowledging = False
    edge.start()
    edge.measure(2)
    until(lambda: set(cloud.seqs) == {1, 2}, 10, "both ticks")
    stream = cloud.arrivals[0].message.stream
    other = type(stream)(int=stream.int ^ 1)
    for hostile in (b"", b"\xff" * 100, b"{}", b"[" * 100_000, b"x\x9c", json.dumps({"v": 2}).encode()):
        cloud.publish(hostile)
    cloud.acknowledge(other, [(1, 2)])
    for number in range(3, 13):
        edge.measure()
        until(lambda: number in cloud.seqs, 10, "a round after that ack")  # noqa: B023 - asked at once
    assert edge.depth == 12
    cloud.acknowledge(stream, [])
    cloud.publish(json.dumps({"v": 1, "stream": str(stream), "committed": [[5, 1]], "server_time": 1}).encode())
    cloud.acknowledge(stream, [(2, 2)])
    until(lambda: edge.depth == 11, 10, "the one true ack to arrive")
    assert len([record for record in caplog.records if "ignored" in record.message]) == 1


def test_with_confirm_broker_the_puback_is_the_confirmation(edge: Edge, cloud: Committer) -> None:
    cloud.acknowledging = False
    edge.delivery = {"confirm": "broker"}
    edge.start()
    edge.measure(500)
    edge.wait_delivered()
    until(lambda: sorted(cloud.seqs) == list(range(1, 501)), 10, "all ticks, each once")


def test_an_ack_of_a_tick_that_was_never_sent_begins_a_new_stream(
    edge: Edge, cloud: Committer, caplog: pytest.LogCaptureFixture
) -> None:
    cloud.acknowledging = False
    edge.start()
    edge.measure(3)
    until(lambda: set(cloud.seqs) == {1, 2, 3}, 10, "all ticks")
    old = cloud.arrivals[0].message.stream
    cloud.acknowledging = True
    cloud.acknowledge(old, [(1, 90)])
    edge.wait_delivered()
    [new] = {arrival.message.stream for arrival in cloud.arrivals} - {old}
    assert cloud.committed[new] == {1, 2, 3}
    assert "old copy" in caplog.text
    until(lambda: cloud.statuses[-1][0].stream == new, 10, "a birth of the new stream")


def test_an_outbox_found_damaged_while_it_runs_is_kept_aside_and_a_new_stream_begins(
    edge: Edge, cloud: Committer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox.open(edge.path, max_bytes=100_000_000)
    outbox.append_many([Reading(it, 0, {f"metric_{key}": 1.0 for key in range(50)}) for it in range(5_000)])
    old = outbox.stream
    outbox.close()
    with edge.path.open("r+b") as file:
        file.seek(100 * 4096)
        file.write(b"\xa5" * 300 * 4096)
    edge.start()
    until(lambda: "a new stream begins" in caplog.text, 20, "the damage to be found")
    edge.measure(3)
    edge.wait_delivered()
    [new] = {arrival.message.stream for arrival in cloud.arrivals} - {old}
    assert cloud.committed[new] == {1, 2, 3}
    [_] = [file for file in tmp_path.glob("outbox.db.damaged-*") if file.stat().st_size > 1_000_000]


def test_a_stop_says_goodbye_and_delivers_what_it_can(edge: Edge, cloud: Committer) -> None:
    edge.start()
    until(lambda: cloud.statuses, 10, "the birth")
    edge.measure(20)
    edge.stop()
    assert set(cloud.seqs) == set(range(1, 21))
    until(lambda: not cloud.statuses[-1][0].online, 5, "the goodbye")
    goodbye, _ = cloud.statuses[-1]
    assert (goodbye.reason, goodbye.outbox and goodbye.outbox.depth) == ("stopped", 0)


def test_the_status_is_retained_for_those_who_come_later(edge: Edge, broker: Mosquitto) -> None:
    edge.start()
    until(lambda: _retained(broker), 10, "a retained status")
    edge.stop()
    with Committer(broker.host, broker.port) as cloud:
        until(lambda: cloud.statuses, 10, "the retained status")
        [(status, retained)] = cloud.statuses
        assert retained
        assert (status.online, status.reason) == (False, "stopped")


def _retained(broker: Mosquitto) -> bool:
    with Committer(broker.host, broker.port) as cloud:
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline and not cloud.statuses:
            time.sleep(0.01)
        return bool(cloud.statuses)


def test_stopping_without_a_broker_takes_no_time_and_keeps_everything(tmp_path: Path) -> None:
    edge = Edge(tmp_path, free_port())
    edge.start()
    edge.measure(100)
    began = time.monotonic()
    edge.stop()
    assert time.monotonic() - began < 2
    outbox = Outbox.open(edge.path, max_bytes=10_000_000)
    assert outbox.depth == 100
    outbox.close()


def test_a_tick_confirmed_before_it_is_flushed_never_touches_the_disk(edge: Edge, cloud: Committer) -> None:
    edge.outbox_options = {"flush_after_seconds": 3_600}
    edge.start()
    edge.measure()
    edge.wait_delivered()
    log = edge.path.with_name("outbox.db-wal")
    before = log.stat().st_size
    edge.measure(100)
    edge.wait_delivered()
    assert log.stat().st_size == before
    assert set(cloud.seqs) == set(range(1, 102))


def test_what_is_not_confirmed_is_flushed_in_time(edge: Edge, cloud: Committer) -> None:
    cloud.acknowledging = False
    edge.outbox_options = {"flush_after_seconds": 1}
    edge.start()
    edge.measure(5)
    until(lambda: set(cloud.seqs) == set(range(1, 6)), 10, "all ticks to be sent")
    log = edge.path.with_name("outbox.db-wal")
    before = log.stat().st_size
    until(lambda: log.stat().st_size > before, 10, "the flush")


def test_a_broker_with_few_messages_in_flight_is_not_overrun(
    edge: Edge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = Mosquitto(tmp_path / "small", extra_config="max_inflight_messages 2")
    small.start()
    try:
        edge.port = small.port
        edge.delivery = {"confirm": "broker", "backlog_ticks_per_message": 1}
        edge.start()
        edge.measure(200)
        edge.wait_delivered()
        assert caplog.text.count("connected to the broker") == 1
    finally:
        small.close()


def test_messages_are_made_to_fit_the_broker_and_a_tick_that_never_fits_holds_up_nothing(
    edge: Edge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = Mosquitto(tmp_path / "small", extra_config="max_packet_size 3000")
    small.start()
    wide: dict[str, float | None] = {f"metric_with_a_rather_long_name_{number}": float(number) for number in range(40)}
    too_wide: dict[str, float | None] = {f"metric_{number}": number * 1.000001 for number in range(4_000)}
    try:
        edge.port = small.port
        edge.delivery = {"confirm": "broker"}
        edge.start()
        edge.measure(values=too_wide)
        edge.measure(30, wide)
        until(lambda: edge.depth == 1, 20, "all but one tick to be delivered")
        assert "more than the broker takes" in caplog.text
        assert caplog.text.count("connected to the broker") == 1
    finally:
        small.close()


def test_the_broker_in_pure_python_will_do(edge: Edge, tmp_path: Path, new_process: NewProcess) -> None:
    port = free_port()
    config = tmp_path / "amqtt.yaml"
    config.write_text(
        f"listeners: {{default: {{type: tcp, bind: '127.0.0.1:{port}'}}}}\n"
        "plugins: {amqtt.plugins.authentication.AnonymousAuthPlugin: {allow_anonymous: true}}\n"
    )
    edge.port = port
    edge.broker = {"protocol": "3.1.1"}
    edge.start()
    edge.measure(1_000)
    new_process([Path(sys.executable).with_name("amqtt"), "-c", config]).start()
    until(lambda: _accepts(port), 20, "amqtt")
    with Committer("127.0.0.1", port, protocol=MQTTProtocolVersion.MQTTv311) as cloud:
        edge.wait_delivered(60)
        assert set(cloud.seqs) == set(range(1, 1_001))


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_topic_that_is_forbidden_is_said_and_costs_nothing(
    edge: Edge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read telemetry/#\ntopic write telemetry/v1/plant/pump/status\n")
    strict = Mosquitto(tmp_path / "strict", extra_config=f"acl_file {acl}")
    strict.start()
    try:
        edge.port = strict.port
        edge.delivery = {"confirm": "broker"}
        edge.start()
        edge.measure(5)
        until(lambda: "refused a message: Not authorized" in caplog.text, 10, "the refusal")
        assert edge.depth == 5
    finally:
        strict.close()


@pytest.fixture(autouse=True)
def _log_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_limited_backlog_holds_back_nothing_new(edge: Edge, cloud: Committer) -> None:
    cloud.acknowledging = False
    edge.delivery = {"backlog_bytes_per_second": 100, "backlog_ticks_per_message": 10}
    edge.start()
    edge.measure(2_000)
    until(lambda: edge.publisher and edge.publisher.report.outbox.next_seq == 2_001, 20, "all stored")
    edge.stop()
    cloud.acknowledging = True
    began = time.monotonic()
    edge.start()
    for number in range(2_001, 2_011):
        edge.measure()
        until(lambda: number in cloud.seqs, 20, "the newest to arrive")  # noqa: B023 - asked at once
    held_back = sum(len(arrival.seqs) for arrival in cloud.arrivals if arrival.kind is Kind.BACKLOG)
    # A tick takes more than 10 bytes; two seconds' worth and one message more may have gone at each of the two starts.
    assert held_back <= (time.monotonic() - began) * 10 + 400
    assert edge.depth > 1_000
