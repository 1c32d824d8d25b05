"""The writer that the configuration asks for, the same for all that store readings."""

from cloud_ingest.config import Config
from cloud_ingest.derived.feels_like import feels_like
from cloud_ingest.store.batch import BatchWriter
from cloud_ingest.store.cardinality import Budget


def writer_of(config: Config) -> BatchWriter:
    """A writer of its own, not connected yet."""
    budget = Budget(config.ingest.max_series_per_device or None, config.ingest.max_layouts_per_device or None)
    return BatchWriter(config.database_url.get_secret_value(), feels_like(config.derived.feels_like), budget)
