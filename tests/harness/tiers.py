"""What the tiers must hold: recomputed in plain Python from all that was ever accepted."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from cloud_ingest.store.database import Connection
from cloud_ingest.store.partitions import partitions_of
from cloud_ingest.store.rollup.state import read_state
from cloud_ingest.store.tiers import DAY, FIVE_MINUTES, HOUR, RAW, ROLLUPS, TIERS, Tier

DAY_MS = 24 * 3_600_000
KEEP_MS = {RAW: DAY_MS, FIVE_MINUTES: 7 * DAY_MS, HOUR: 30 * DAY_MS, DAY: 365 * DAY_MS}


class Point(NamedTuple):
    """What a series did in a bucket."""

    values: int
    sum: float
    min: float
    max: float
    last: float


@dataclass(frozen=True)
class Sent:
    """A tick as the cloud has accepted it."""

    device: str
    time_ms: int
    values: dict[str, float]


Where = tuple[str, str, int]  # device, metric and the start of the bucket


def expected(sent: Iterable[Sent], step_ms: int, earliest_ms: int, latest_ms: int) -> dict[Where, Point]:
    """The buckets of the ticks between the times."""
    found: dict[Where, list[tuple[int, float]]] = defaultdict(list)
    for tick in sent:
        if earliest_ms <= tick.time_ms < latest_ms:
            for key, value in tick.values.items():
                if not math.isnan(value):
                    found[tick.device, key, tick.time_ms // step_ms * step_ms].append((tick.time_ms, value))
    return {
        where: Point(len(held), sum(values), min(values), max(values), max(held)[1])
        for where, held in found.items()
        for values in [[value for _, value in held]]
    }


def stored(connection: Connection, tier: Tier) -> dict[Where, Point]:
    """A tier as a user of SQL sees it, from its floor on."""
    floor = read_state(connection).floors[tier.level]
    rows = connection.execute(
        f"select device, metric, (extract(epoch from time) * 1000)::bigint, count, sum, min, max, last"  # noqa: S608
        f" from telemetry.sample_{tier.name} where time >= to_timestamp(%s / 1000.0)",
        [floor],
    ).fetchall()
    return {(device, metric, time): Point(*point) for device, metric, time, *point in rows}


def compare_tiers(connection: Connection, sent: Iterable[Sent]) -> None:
    """Every tier as far as it is held and made must hold what was sent, and neither more nor less."""
    ticks = list(sent)
    state = read_state(connection)
    for tier in ROLLUPS:
        floor, rolled = state.floors[tier.level], state.rolled[tier.level]
        assert stored(connection, tier) == expected(ticks, tier.step_ms, floor, rolled), tier.name
    floor = state.floors[RAW.level]
    rows = connection.execute(
        "select device.name, (extract(epoch from time) * 1000)::bigint, samples from telemetry.reading"
        " join telemetry.device using (device_id) where time >= to_timestamp(%s / 1000.0)",
        [floor],
    ).fetchall()
    held = [tick for tick in ticks if tick.time_ms >= floor]
    assert sorted(map(repr, rows)) == sorted(repr((it.device, it.time_ms, [*it.values.values()])) for it in held)


def finish(round_: Iterator[None]) -> int:
    """Goes through a round; returns in how many steps."""
    count = 0
    for _ in round_:
        count += 1
        assert count < 5_000, "the round does not end"
    return count


def empty(connection: Connection, now_ms: int) -> None:
    """Puts the tiers back to where nothing was ever stored. Devices and layouts stay known."""
    for tier in TIERS:
        partitions_of(connection, tier).drop_before(connection, now_ms + 10_000 * DAY_MS)
    connection.execute("truncate telemetry.rollup_mark, telemetry.rollup_state, telemetry.stream cascade")
    connection.execute("insert into telemetry.rollup_state default values")
