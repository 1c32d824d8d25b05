"""What the worker counts about itself, in Prometheus terms."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class WorkerMetrics:
    """The counters of one worker process, in a registry of their own. `receiver` is a name in the configuration."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.notifications_sent = Counter(
            "worker_notifications_sent", "Messages that a receiver took.", ["receiver"], registry=self.registry
        )
        self.notifications_failed = Counter(
            "worker_notifications_failed",
            "Attempts to tell a receiver that failed or were refused.",
            ["receiver"],
            registry=self.registry,
        )
        self.notifications_waiting = Gauge(
            "worker_notifications_waiting", "Messages that wait, of all workers.", ["receiver"], registry=self.registry
        )
        self.notifications_oldest_seconds = Gauge(
            "worker_notifications_oldest_seconds",
            "Age of the oldest message that waits, of all workers.",
            ["receiver"],
            registry=self.registry,
        )
        self.notifications_dead = Gauge(
            "worker_notifications_dead",
            "Messages that were given up and are kept, of all workers.",
            ["receiver"],
            registry=self.registry,
        )
