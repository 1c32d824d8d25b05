"""What the ingest role counts about itself, in Prometheus terms."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class IngestMetrics:
    """The counters of one ingest process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.messages = Counter(
            "ingest_messages_received", "Messages taken from the broker, redeliveries included.", registry=self.registry
        )
        self.ticks = Counter("ingest_ticks_stored", "Readings committed.", registry=self.registry)
        self.samples = Counter("ingest_samples_stored", "Values committed.", registry=self.registry)
        self.clones = Counter(
            "ingest_messages_cloned",
            "Messages of a second machine with the name and outbox of another.",
            registry=self.registry,
        )
        self.duplicates = Counter(
            "ingest_ticks_duplicate", "Readings that were settled already and changed nothing.", registry=self.registry
        )
        self.rejected = Counter(
            "ingest_messages_rejected", "Messages parked in `rejected`.", ["reason"], registry=self.registry
        )
        self.commit_seconds = Histogram(
            "ingest_commit_seconds",
            "Time of a batch from its first statement to its commit.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.batch_ticks = Histogram(
            "ingest_batch_ticks",
            "Readings in a batch.",
            buckets=(1, 10, 100, 1_000, 10_000, 100_000),
            registry=self.registry,
        )
        self.lag_seconds = Gauge(
            "ingest_lag_seconds", "Age of the newest reading of the last batch at its commit.", registry=self.registry
        )
        self.message_lag_seconds = Histogram(
            "ingest_message_lag_seconds",
            "Age of the newest reading of each message when it was committed.",
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3_600, 86_400),
            registry=self.registry,
        )
        self.late = Counter(
            "ingest_ticks_late",
            "Readings committed after the rollup of their time was made, so that it is made again.",
            registry=self.registry,
        )
        self.queue = Gauge(
            "ingest_queue_messages", "Messages received and not yet committed and acknowledged.", registry=self.registry
        )
        self.database_up = Gauge("ingest_database_up", "1 while batches can be committed.", registry=self.registry)
        self.source_up = Gauge(
            "ingest_source_up",
            "1 while this process is subscribed for the source of other publishers.",
            ["source"],
            registry=self.registry,
        )
        self.texts = Counter(
            "ingest_source_texts",
            "Values of other publishers that were left out because they are text.",
            ["source"],
            registry=self.registry,
        )
        self.broker_up = Gauge("ingest_broker_up", "1 while subscribed.", registry=self.registry)
