"""Metrics in the Prometheus text format, read.

https://prometheus.io/docs/instrumenting/exposition_formats/. Histograms and summaries are what they are in the text: a
series for each bucket or quantile, `_sum` and `_count`. Timestamps are not used.
"""

import math

from prometheus_client.parser import text_string_to_metric_families

from edge_agent.errors import CollectorError
from telemetry_contract.errors import InvalidSeriesKey
from telemetry_contract.series import SeriesKey


def parse(text: str) -> tuple[dict[str, float | None], list[str]]:
    """The values by canonical series key, None for NaN and infinities, and what is wrong with each entry left out.

    Raises CollectorError where the text is not in the format.
    """
    found: dict[str, float | None] = {}
    unusable: list[str] = []
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                try:
                    key = str(SeriesKey.of(sample.name, sample.labels))
                except InvalidSeriesKey as exc:
                    unusable.append(str(exc))
                    continue
                if key in found:
                    unusable.append(f"{key} is given twice")
                else:
                    found[key] = float(sample.value) if math.isfinite(sample.value) else None
    except (ValueError, LookupError, ArithmeticError) as exc:  # what the parser raises for one text or another
        raise CollectorError(f"not in the Prometheus text format: {exc}") from exc
    return found, unusable
