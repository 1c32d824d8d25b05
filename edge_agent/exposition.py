"""Series as text that Prometheus reads.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/, "Text-based format". Our series keys are
written as it writes them.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from telemetry_contract.metrics import CATALOGUE, Metric, MetricKind, kind_of

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_OF_HISTOGRAMS: Final = ("_bucket", "_count", "_sum")
_HELP_OF_OTHERS: Final = "Measured by a collector of this device."


def exposition(values: Mapping[str, float], own: Mapping[str, Metric]) -> str:
    """The text; `own` describes metrics that the catalogue does not have.

    All series of a metric stand together. Of a metric that nobody describes only what its name says is told. One that
    is no counter and not described, or called as only a part of a histogram may be, is `untyped`.
    """
    by_metric: dict[str, list[str]] = {}
    for key in sorted(values):
        by_metric.setdefault(key.partition("{")[0], []).append(key)
    return "".join(_lines(metric, keys, values, own) for metric, keys in by_metric.items())


def _lines(metric: str, keys: list[str], values: Mapping[str, float], own: Mapping[str, Metric]) -> str:
    return "\n".join([*_about(metric, own), *(f"{key} {float(values[key])!r}" for key in keys), ""])


def _about(metric: str, own: Mapping[str, Metric]) -> Iterator[str]:
    known = own.get(metric) or CATALOGUE.get(metric)
    described = _HELP_OF_OTHERS if known is None else known.help.replace("\\", "\\\\").replace("\n", "\\n")
    kind = kind_of(metric).value
    if kind_of(metric) is MetricKind.GAUGE and (known is None or metric.endswith(_OF_HISTOGRAMS)):
        kind = "untyped"
    yield f"# HELP {metric} {described}"
    yield f"# TYPE {metric} {kind}"
