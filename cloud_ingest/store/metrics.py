"""Which metrics are stored, and by which labels their series differ."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from cloud_ingest.store.database import Connection

# Of a label with more values, such as the id of a container, the first by name are told.
MAX_LABEL_VALUES: Final = 100


class MetricRow(NamedTuple):
    """A metric: `labels` holds the values of each label by its name, ordered, at most MAX_LABEL_VALUES of each."""

    metric: str
    unit: str
    series: int
    devices: int
    labels: dict[str, list[str]]


def list_metrics(
    connection: Connection,
    *,
    metric: str | None,
    devices: Sequence[str],
    site: str | None,
    after: str | None,
    limit: int,
) -> list[MetricRow]:
    """Metrics by name, those that fit the glob and that these devices or any have sent, from behind the name `after`.

    `series` counts those of all these devices together.
    """
    rows = connection.execute(
        "with page as ("
        "  select series_key.metric, min(series_key.unit) as unit, count(*) as series,"
        "   count(distinct device.device_id) as devices, array_agg(distinct series_key.key_id) as key_ids"
        "  from telemetry.device"
        "  join lateral (select distinct device_id, key_id from telemetry.device_layout"
        "   join telemetry.layout_position using (layout_id)"
        "   where device_layout.device_id = device.device_id) as held on true"
        "  join telemetry.series_key using (key_id)"
        "  where (%(devices)s::text[] is null or device.name = any (%(devices)s::text[]))"
        "   and (%(site)s::text is null or device.site = %(site)s)"
        "   and (%(metric)s::text is null or series_key.metric like %(metric)s)"
        "   and (%(after)s::text is null or series_key.metric > %(after)s)"
        "  group by series_key.metric order by series_key.metric limit %(limit)s)"
        " select page.metric, page.unit, page.series, page.devices, coalesce(labels.labels, '{}')"
        " from page left join lateral ("
        "  select jsonb_object_agg(name, values order by name) as labels from ("
        "   select name, (array_agg(distinct value order by value))[:%(values)s] as values"
        "   from telemetry.series_key, jsonb_each_text(series_key.labels) as label (name, value)"
        "   where series_key.key_id = any (page.key_ids) group by name) as by_name) as labels on true"
        " order by page.metric",
        {
            "devices": list(devices) or None,
            "site": site,
            "metric": like_of(metric),
            "after": after,
            "limit": limit,
            "values": MAX_LABEL_VALUES,
        },
    ).fetchall()
    return [MetricRow(*row) for row in rows]


def like_of(glob: str | None) -> str | None:
    """A pattern in which `*` stands for anything, as LIKE writes it."""
    return None if glob is None else glob.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_").replace("*", "%")
