"""Episodes that late samples changed or showed: how they are recorded, and told in one digest a device and return."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import nan
from typing import Any, Final

from psycopg.types.json import Jsonb

from cloud_ingest.alerts.history import Episode
from cloud_ingest.alerts.judging import Watched
from cloud_ingest.alerts.late import Recorded, Revision
from cloud_ingest.alerts.machine import Ended, Open, Peak, State
from cloud_ingest.alerts.rule import Severity
from cloud_ingest.store import alert_episodes
from cloud_ingest.store.alert_episodes import Subject
from cloud_ingest.store.database import Connection
from cloud_ingest.store.rollup.state import from_ms

_CLEARED: Final = "cleared"
_REVISED: Final = "revised"  # samples that came late showed that it was none
_SHOWN_EPISODES: Final = 20


@dataclass(frozen=True, slots=True)
class Return:
    """What came late of a device, and what it made of the record. `too_old` ticks could not be judged."""

    device_id: int
    first_ms: int
    last_ms: int
    too_old: int
    revisions: Mapping[Watched, Revision]

    @property
    def added(self) -> int:
        """How many episodes nobody knew of."""
        return sum(len(it.added) for it in self.revisions.values())

    @property
    def changed(self) -> int:
        """How many are otherwise than they were recorded."""
        return sum(len(it.changed) for it in self.revisions.values())

    @property
    def disproved(self) -> int:
        """How many were none."""
        return sum(len(it.disproved) for it in self.revisions.values())


def read(
    connection: Connection, device_id: int, states: Mapping[Watched, State], from_time_ms: int
) -> dict[Watched, list[Recorded]]:
    """The episodes of a device that had not ended before the time. `states` know the peaks of those that are open."""
    recorded: dict[Watched, list[Recorded]] = {}
    for alert_id, threshold_id, key_id, reason, severity, *columns in connection.execute(
        "select alert_id, threshold_id, key_id, end_reason, severity, version,"
        " (extract(epoch from start_at) * 1000)::bigint, (extract(epoch from fired_at) * 1000)::bigint,"
        " (extract(epoch from ended_at) * 1000)::bigint,"
        " peak, (extract(epoch from peak_at) * 1000)::bigint, last_value"
        " from telemetry.alert where device_id = %(device)s and (ended_at is null or ended_at >= %(from)s)"
        " and not no_data"
        " and end_reason is distinct from %(revised)s",
        {"device": device_id, "from": from_ms(from_time_ms), "revised": _REVISED},
    ).fetchall():
        watched = Watched(device_id, threshold_id, key_id)
        version, start_ms, fired_ms, end_ms, *peak = columns
        is_final = reason not in (None, _CLEARED)
        if end_ms is None:
            known = states[watched].peak if watched in states else None
            is_final = known is None  # somebody else's
            peak = [nan, start_ms, nan] if known is None else [known.value, known.time_ms, known.last]
        episode = Episode(start_ms, fired_ms, end_ms, Severity[severity.upper()], version, *peak)
        recorded.setdefault(watched, []).append(Recorded(alert_id, episode, is_final))
    return recorded


def write(connection: Connection, told: Return, subject: Callable[[int, int, int], Subject]) -> None:
    """Records what was judged, and that it is to be told: all in one digest, and the end of what people think is open.

    Nothing is told where nothing is other than it was recorded.
    """
    with connection.pipeline():
        for watched, revision in told.revisions.items():
            for recorded in revision.disproved:
                _disprove(connection, recorded, subject(*watched))
            # What ends goes first: a series has one open episode
            for recorded, episode in sorted(revision.changed, key=lambda it: it[1].end_ms is None):
                _change(connection, recorded, episode, subject(*watched))
            for episode in revision.added:
                _add(connection, watched, episode)
        if told.added or told.changed or told.disproved or told.too_old:
            connection.execute(
                "insert into telemetry.notification (device_id, kind, content) values (%s, 'digest', %s)",
                [told.device_id, Jsonb(_digest(connection, told, subject))],
            )


def _add(connection: Connection, watched: Watched, episode: Episode) -> None:
    connection.execute(
        "insert into telemetry.alert (threshold_id, version, device_id, key_id, severity, start_at, fired_at, ended_at,"
        " end_reason, peak, peak_at, last_value, late)"
        " values (%(threshold)s, %(version)s, %(device)s, %(key)s, %(severity)s, %(start)s, %(fired)s, %(end)s,"
        " %(reason)s, %(peak)s, %(peak_at)s, %(last)s, true)",
        {
            "threshold": watched.threshold_id,
            "device": watched.device_id,
            "key": watched.key_id,
            **_columns(episode),
        },
    )


def _change(connection: Connection, recorded: Recorded, episode: Episode, subject: Subject) -> None:
    connection.execute(
        "update telemetry.alert set version = %(version)s, severity = %(severity)s, start_at = %(start)s,"
        " fired_at = %(fired)s, ended_at = %(end)s, end_reason = %(reason)s, peak = %(peak)s, peak_at = %(peak_at)s,"
        " last_value = %(last)s where alert_id = %(alert)s",
        {"alert": recorded.alert_id, **_columns(episode)},
    )
    if recorded.episode.end_ms is None and episode.end_ms is not None:
        _tell_end(connection, recorded, episode, subject)


def _disprove(connection: Connection, recorded: Recorded, subject: Subject) -> None:
    episode = recorded.episode
    connection.execute(
        "update telemetry.alert set ended_at = coalesce(ended_at, fired_at), end_reason = %(reason)s"
        " where alert_id = %(alert)s",
        {"alert": recorded.alert_id, "reason": _REVISED},
    )
    if episode.end_ms is None:
        _tell_end(connection, recorded, None, subject)


def _tell_end(connection: Connection, recorded: Recorded, judged: Episode | None, subject: Subject) -> None:
    """Whoever was told that it fires must not wait for its end for ever. None is judged where it was disproved."""
    episode = judged or recorded.episode
    opened = Open(episode.start_ms, episode.fired_ms, episode.severity, episode.version)
    end_ms = episode.fired_ms if episode.end_ms is None else episode.end_ms
    ended = Ended(opened, Peak(episode.peak, episode.peak_ms, episode.last), end_ms, episode.last)
    content = {**alert_episodes.content(subject, ended), "reason": _REVISED if judged is None else _CLEARED}
    connection.execute(
        "insert into telemetry.notification (alert_id, kind, content) values (%s, 'ended', %s)",
        [recorded.alert_id, Jsonb(content)],
    )


def _columns(episode: Episode) -> dict[str, Any]:
    """As they are recorded; the peak of an open one stands in its state."""
    columns: dict[str, Any] = {
        "version": episode.version,
        "severity": episode.severity.name.lower(),
        "start": from_ms(episode.start_ms),
        "fired": from_ms(episode.fired_ms),
        **dict.fromkeys(("end", "reason", "peak", "peak_at", "last")),
    }
    if episode.end_ms is not None:
        columns |= {"end": from_ms(episode.end_ms), "reason": _CLEARED, "last": episode.last}
        columns |= {"peak": episode.peak, "peak_at": from_ms(episode.peak_ms)}
    return columns


def _digest(connection: Connection, told: Return, subject: Callable[[int, int, int], Subject]) -> dict[str, Any]:
    name, site = connection.execute(
        "select name, site from telemetry.device where device_id = %s", [told.device_id]
    ).fetchall()[0]
    counts = {"added": told.added, "changed": told.changed, "disproved": told.disproved, "ticks_too_old": told.too_old}
    episodes = sorted(
        chain.from_iterable(_shown(revision, subject(*watched)) for watched, revision in told.revisions.items()),
        key=lambda it: (it["start_ms"], it["metric"], it["threshold"] or ""),
    )
    return {
        "kind": "digest",
        "device": name,
        "site": site,
        "from_ms": told.first_ms,
        "to_ms": told.last_ms,
        **counts,
        "episodes": episodes[-_SHOWN_EPISODES:],
        "message": _message(name, told),
    }


def _message(device: str, told: Return) -> str:
    start, end = (from_ms(it).strftime("%Y-%m-%d %H:%M:%S UTC") for it in (told.first_ms, told.last_ms))
    text = f"{device} sent what it had measured from {start} to {end}: {told.added} alerts that nobody was told of"
    if told.changed:
        text += f", {told.changed} that were otherwise than told"
    if told.disproved:
        text += f", {told.disproved} that were none"
    if told.too_old:
        text += f"; {told.too_old} ticks were too old to be judged"
    return text


def _shown(revision: Revision, subject: Subject) -> Iterable[dict[str, Any]]:
    judged = [("added", it) for it in revision.added]
    judged += [("changed", it) for _, it in revision.changed]
    judged += [("disproved", it.episode) for it in revision.disproved]
    for what, episode in judged:
        yield {
            **alert_episodes.about(subject),
            "change": what,
            "severity": episode.severity.name.lower(),
            "start_ms": episode.start_ms,
            "end_ms": episode.end_ms,
            "peak": episode.peak,
        }
