"""What the agent tells of itself to people and programs on this machine: `/metrics`, `/healthz` and `/status`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec

from edge_agent.collectors.base import series
from edge_agent.constant_labels import ConstantLabels
from edge_agent.delivery_report import DeliveryReport
from edge_agent.exposition import CONTENT_TYPE, exposition
from edge_agent.local_http import Answer, Request, Response
from edge_agent.publisher import Identity
from edge_agent.statistics import CollectorCounts
from telemetry_contract.metrics import Metric, kind_of, unit_of
from telemetry_contract.version import __version__

JSON: Final = "application/json"
INDEX: Final = """\
edge-agent, on this device:
/metrics  the newest value of each series and the agent's own metrics, as Prometheus reads them
/healthz  200 while all is well, 503 with what is not
/status   how the agent fares, as JSON
"""


@dataclass(frozen=True)
class Facts:
    """Everything that is told, at one moment.

    `needs_restart` are sections of the configuration that were changed since the start and have no effect yet, and
    `problems` is what keeps the agent from its work, a sentence each.
    """

    device: str
    site: str
    identity: Identity
    needs_restart: tuple[str, ...]
    ignored_configs: int
    labels: Mapping[str, str]
    uptime_seconds: float
    outbox_max_bytes: int
    values: Mapping[str, float]
    delivery: DeliveryReport
    collectors: Mapping[str, CollectorCounts]
    problems: tuple[str, ...]


def answer(facts: Callable[[], Facts]) -> Answer:
    """Answers requests from what `facts` tells at that moment; it is called from several threads at once."""
    pages: dict[str, Callable[[], Response]] = {
        "/": lambda: Response(HTTPStatus.OK, INDEX),
        "/metrics": lambda: _metrics(facts()),
        "/healthz": lambda: _health(facts()),
        "/status": lambda: _status(facts()),
    }

    def answered(request: Request) -> Response:
        page = pages.get(request.path)
        if page is None:
            return Response(HTTPStatus.NOT_FOUND, f"there are {', '.join(pages)}\n")
        if request.method not in {"GET", "HEAD"}:
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, "there is only GET\n", headers={"Allow": "GET, HEAD"})
        return page()

    return answered


def _metrics(facts: Facts) -> Response:
    labels = ConstantLabels(facts.labels)
    own = {labels.key(key): value for key, value in _own_values(facts)}
    text = exposition({**facts.values, **own}, AGENT_METRICS)
    return Response(HTTPStatus.OK, text, CONTENT_TYPE)


def _health(facts: Facts) -> Response:
    if not facts.problems:
        return Response(HTTPStatus.OK, "ok\n")
    return Response(HTTPStatus.SERVICE_UNAVAILABLE, "".join(f"{problem}\n" for problem in facts.problems))


def _status(facts: Facts) -> Response:
    content = {
        "device": facts.device,
        "site": facts.site,
        "agent_version": __version__,
        "boot_id": facts.identity.boot_id,
        "config": {"hash": facts.identity.config_hash, "needs_restart": facts.needs_restart},
        "desired": facts.identity.desired,
        "ignored_configs": facts.ignored_configs,
        "uptime_seconds": round(facts.uptime_seconds, 3),
        "healthy": not facts.problems,
        "problems": facts.problems,
        "delivery": facts.delivery,
        "collectors": facts.collectors,
    }
    encoded = msgspec.json.format(msgspec.json.encode(content), indent=2).decode()
    return Response(HTTPStatus.OK, f"{encoded}\n", JSON)


def _metric(name: str, help_: str, *labels: str) -> Metric:
    return Metric(name, kind_of(name), unit_of(name), help_, labels)


AGENT_METRICS: Final = {
    metric.name: metric
    for metric in (
        _metric("agent_info", "1; the labels say which agent this is.", "device", "site", "version"),
        _metric("agent_healthy", "1 while all is well, 0 while /healthz names a problem."),
        _metric("agent_connected", "1 while there is a connection to the broker, else 0."),
        _metric("agent_window_messages", "Messages that are sent and not confirmed."),
        _metric("agent_window_stalled", "1 while nothing is confirmed any more, else 0."),
        _metric("agent_outbox_ticks", "Ticks in the outbox."),
        _metric("agent_outbox_bytes", "Space of the outbox in use."),
        _metric("agent_outbox_max_bytes", "Space that the outbox may use."),
        _metric("agent_outbox_oldest_time_seconds", "Time of the oldest tick in the outbox, since the epoch."),
        _metric("agent_outbox_dropped_ticks_total", "Ticks of this stream that were given up for want of space."),
        _metric("agent_outbox_thinned_ticks_total", "Ticks of this stream that were left out of the oldest ones."),
        _metric("agent_outbox_write_failing", "1 while the disk refuses the outbox, else 0."),
        _metric("agent_waiting_readings", "Readings in memory that the disk refuses."),
        _metric("agent_clock_known", "1 while the time is known, else 0."),
        _metric("agent_untimed_readings", "Readings that wait until it is known when they were taken."),
        _metric("agent_sent_messages_total", "Messages with ticks that were sent, again ones included."),
        _metric("agent_sent_ticks_total", "Ticks that were sent, again ones included."),
        _metric("agent_confirmed_ticks_total", "Ticks that were confirmed."),
        _metric("agent_refused_messages_total", "Messages that the broker refused."),
        _metric("agent_commit_acks_total", "Commit acks for this stream that were received."),
        _metric("agent_ignored_acks_total", "Messages on the ack topic that are no commit ack."),
        _metric("agent_ignored_configs_total", "Messages on the config topic that are no desired configuration."),
    )
}


def _own_values(facts: Facts) -> Iterator[tuple[str, float]]:
    """Those of the collectors carry the names that the `host` collector sends them under."""
    delivery, outbox, counts = facts.delivery, facts.delivery.outbox, facts.delivery.counts
    yield series("agent_info", device=facts.device, site=facts.site, version=__version__), 1
    yield "agent_healthy", not facts.problems
    yield "agent_connected", delivery.connected
    yield "agent_window_messages", delivery.in_flight
    yield "agent_window_stalled", delivery.stalled
    yield "agent_outbox_ticks", outbox.depth
    yield "agent_outbox_bytes", outbox.bytes
    yield "agent_outbox_max_bytes", facts.outbox_max_bytes
    if outbox.oldest_time is not None:
        yield "agent_outbox_oldest_time_seconds", outbox.oldest_time / 1_000
    yield "agent_outbox_dropped_ticks_total", outbox.dropped
    yield "agent_outbox_thinned_ticks_total", outbox.thinned
    yield "agent_outbox_write_failing", delivery.disk_fails
    yield "agent_waiting_readings", delivery.in_memory
    yield "agent_clock_known", delivery.clock.known
    yield "agent_untimed_readings", delivery.untimed_readings
    yield "agent_sent_messages_total", counts.messages_sent
    yield "agent_sent_ticks_total", counts.ticks_sent
    yield "agent_confirmed_ticks_total", counts.ticks_confirmed
    yield "agent_refused_messages_total", counts.refused_messages
    yield "agent_commit_acks_total", counts.commit_acks
    yield "agent_ignored_acks_total", counts.ignored_acks
    yield "agent_ignored_configs_total", facts.ignored_configs
    yield "agent_uptime_seconds", facts.uptime_seconds
    for name, of_collector in facts.collectors.items():
        failures = of_collector.failures + of_collector.overruns
        yield series("agent_collector_failures_total", collector=name), failures
