"""Which devices are there: looked at, kept and told in one transaction, of which there is one at a time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

from psycopg.types.json import Jsonb

from cloud_ingest.alerts.liveness import Ears, Heard, Hearing, Reason, Word, presence
from cloud_ingest.alerts.outages import Round, Seen, SiteRule, Standing, look
from cloud_ingest.store.database import Connection, translated
from cloud_ingest.store.hearing import READINGS, STATUSES
from cloud_ingest.store.rollup.state import from_ms, to_ms

_LOCK: Final = 0x7465_6C65_0005


@dataclass(frozen=True, slots=True)
class LivenessRules:
    """How long a device may be silent where it has no time of its own, the grace after a break, and what a site is."""

    silence_ms: int
    grace_ms: int
    site: SiteRule


_SAID: Final = {
    Reason.STOPPED: "was stopped",
    Reason.LOST: "has lost its connection",
    Reason.SILENT: "is silent",
}


# What is told of a device, by its number, or of none.
_Content: TypeAlias = tuple[int | None, Mapping[str, Any]]


class _Site(NamedTuple):
    """A site, and the number of its outage that is open."""

    name: str
    outage: int | None


class _Device(NamedTuple):
    """A device and how it is."""

    name: str
    site: str
    seen: Seen


# Devices with what was heard of them, what the cloud heard meanwhile, and what is on record; none of the sites at which
# all is as it was: who is there was heard of in time, who is away is told and was not heard of.
_DEVICES: Final = (
    "with seen as materialized ("
    " select device.device_id, device.name, device.site, device.silence_seconds, device_status.online as said,"
    "  device_status.received_at, device_status.status ->> 'reason' as said_reason, streams.arrived, streams.newest,"
    "  coalesce(own.since, readings.since) as heard_since, coalesce(own.until, readings.until) as heard_until,"
    "  held.online, held.since, held.noticed_at, held.reason, held.told, held.outage_id,"
    "  greatest(streams.arrived, case when device_status.online then device_status.received_at end)"
    "   >= now() - coalesce(device.silence_seconds * interval '1 s', %(silence)s) as in_time"
    " from telemetry.device"
    " left join telemetry.device_status using (device_id)"
    " left join telemetry.device_liveness as held using (device_id)"
    " left join telemetry.publisher using (device_id)"
    " left join telemetry.hearing as own on own.part = 'source ' || publisher.name"
    " left join telemetry.hearing as readings on readings.part = %(readings)s"
    " left join (select device_id, max(last_seen) as arrived, max(newest) as newest"
    "  from telemetry.stream group by device_id) as streams using (device_id)"
    ")"
    " select device_id, name, site, silence_seconds, said, received_at, said_reason, arrived, newest, heard_since,"
    "  heard_until, online, since, noticed_at, reason, told, outage_id"
    " from seen where site in (select site from seen where outage_id is not null or not coalesce("
    "   case when online then said is not false and in_time else told and in_time is not true end, false)"
    "  union select site from telemetry.site_outage where ended_at is null)"
)


def look_at_devices(connection: Connection, rules: LivenessRules) -> int:
    """Finds out who is there, and writes what is to be told; how many notifications that made.

    Does nothing where another does the same just now. Raises StoreUnavailable.
    """
    with translated(), connection.transaction():
        ((mine,),) = connection.execute("select pg_try_advisory_xact_lock(%s)", [_LOCK]).fetchall()
        if not mine:
            return 0
        now_ms, statuses = _ears(connection)
        devices = _devices(connection, rules, statuses, now_ms)
        sites: dict[str, dict[int, Seen]] = {}
        for device_id, device in devices.items():
            sites.setdefault(device.site, {})[device_id] = device.seen
        outages: dict[str, int] = dict(
            connection.execute("select site, outage_id from telemetry.site_outage where ended_at is null").fetchall()
        )
        told = 0
        for site in sorted(sites.keys() | outages.keys()):
            outage = outages.get(site)
            found = look(sites.get(site, {}), outage, rules.site, now_ms)
            told += _write(connection, _Site(site, outage), found, devices)
        return told


def _ears(connection: Connection) -> tuple[int, Hearing | None]:
    """The time, and since when statuses are heard."""
    ((now, since, until),) = connection.execute(
        "select clock_timestamp(), since, until from (select) as always left join telemetry.hearing on part = %s",
        [STATUSES],
    ).fetchall()
    return to_ms(now), _hearing(since, until)


def _devices(connection: Connection, rules: LivenessRules, statuses: Hearing | None, now_ms: int) -> dict[int, _Device]:
    found = {}
    for device_id, name, site, *row in _rows(connection, rules):
        silence_seconds, said, said_at, said_reason, arrived, newest, since, until, *standing = row
        word = None if said is None else Word(said, to_ms(said_at), _reason(said_reason))
        signs = [to_ms(it) for it in (arrived, said_at if said else None) if it is not None]
        heard = Heard(
            word,
            max(signs, default=None),
            None if newest is None else to_ms(newest),
            rules.silence_ms if silence_seconds is None else round(silence_seconds * 1000),
        )
        ears = Ears(statuses, _hearing(since, until))
        seen = Seen(_standing(*standing), presence(heard, ears, rules.grace_ms, now_ms))
        found[device_id] = _Device(name, site, seen)
    return found


def _rows(connection: Connection, rules: LivenessRules) -> list[tuple[Any, ...]]:
    parameters = {"readings": READINGS, "silence": timedelta(milliseconds=rules.silence_ms)}
    return connection.execute(_DEVICES, parameters).fetchall()


def _hearing(since: datetime | None, until: datetime | None) -> Hearing | None:
    return None if since is None or until is None else Hearing(to_ms(since), to_ms(until))


def _reason(said: str | None) -> Reason:
    return Reason.STOPPED if said == Reason.STOPPED else Reason.LOST


def _standing(online: bool | None, *row: Any) -> Standing | None:  # noqa: FBT001 - a row of the database
    if online is None:
        return None
    since, noticed_at, reason, told, outage = row
    return Standing(online, to_ms(since), to_ms(noticed_at), None if reason is None else Reason(reason), told, outage)


def _write(connection: Connection, site: _Site, found: Round, devices: Mapping[int, _Device]) -> int:
    """Keeps what was found at one site, and tells it."""
    standings = found.standings
    contents: list[_Content] = [
        (it.device_id, _about_device(devices[it.device_id], standings[it.device_id])) for it in found.notices
    ]
    if found.begun:
        ((outage,),) = connection.execute(
            "insert into telemetry.site_outage (site, started_at, devices) values (%s, %s, %s) returning outage_id",
            [site.name, from_ms(min(standings[it].since_ms for it in found.begun)), _names(found.begun, devices)],
        ).fetchall()
        standings = standings | {it: replace(standings[it], outage=outage) for it in found.begun}
        contents.append((None, _about_site(site.name, outage, _list(found.begun, devices, standings), online=False)))
    if found.joined:
        connection.execute(
            "update telemetry.site_outage set devices = array(select distinct unnest(devices || %s::text[]) order by 1)"
            " where outage_id = %s",
            [_names(found.joined, devices), site.outage],
        )
    if found.ended and site.outage is not None:
        connection.execute(
            "update telemetry.site_outage set ended_at = clock_timestamp() where outage_id = %s", [site.outage]
        )
        standings = {it: device.seen.standing for it in found.left if (device := devices[it]).seen.standing} | standings
        contents.append((None, _about_site(site.name, site.outage, _list(found.left, devices, standings), online=True)))
    _keep(connection, standings)
    _tell(connection, contents)
    return len(contents)


def _keep(connection: Connection, standings: Mapping[int, Standing]) -> None:
    if not standings:
        return
    rows = [
        (it, each.online, from_ms(each.since_ms), from_ms(each.noticed_ms), each.reason, each.told, each.outage)
        for it, each in sorted(standings.items())
    ]
    connection.execute(
        "insert into telemetry.device_liveness (device_id, online, since, noticed_at, reason, told, outage_id)"
        " select * from unnest(%s::integer[], %s::boolean[], %s::timestamptz[], %s::timestamptz[], %s::text[],"
        "  %s::boolean[], %s::bigint[])"
        " on conflict (device_id) do update set online = excluded.online, since = excluded.since,"
        "  noticed_at = excluded.noticed_at, reason = excluded.reason, told = excluded.told,"
        "  outage_id = excluded.outage_id",
        [list(column) for column in zip(*rows, strict=True)],
    )


def _tell(connection: Connection, contents: Sequence[_Content]) -> None:
    if contents:
        connection.execute(
            "insert into telemetry.notification (device_id, kind, content)"
            " select device_id, content ->> 'kind', content"
            " from unnest(%s::integer[], %s::jsonb[]) with ordinality as told (device_id, content, number)"
            " order by number",
            [[device_id for device_id, _ in contents], [Jsonb(content) for _, content in contents]],
        )


def _about_device(device: _Device, standing: Standing) -> dict[str, Any]:
    content: dict[str, Any] = {"device": device.name, "site": device.site, "since_ms": standing.since_ms}
    if standing.online:
        return content | {"kind": "online", "message": f"{device.name} is back"}
    reason = standing.reason or Reason.LOST
    return content | {"kind": "offline", "reason": reason.value, "message": f"{device.name} {_SAID[reason]}"}


def _about_site(site: str, outage: int, away: Sequence[Mapping[str, Any]], *, online: bool) -> dict[str, Any]:
    content = {"site": site, "outage": outage, "devices": away}
    if not online:
        return content | {"kind": "offline", "message": f"{len(away)} devices of {site} can't be heard"}
    still = f", but for {len(away)} of its devices" if away else ""
    return content | {"kind": "online", "message": f"{site} is back{still}"}


def _list(
    device_ids: Iterable[int], devices: Mapping[int, _Device], standings: Mapping[int, Standing]
) -> list[dict[str, Any]]:
    """Those that are away, by name."""
    return sorted(
        (
            {
                "device": devices[it].name,
                "reason": (standings[it].reason or Reason.LOST).value,
                "since_ms": standings[it].since_ms,
            }
            for it in device_ids
        ),
        key=itemgetter("device"),
    )


def _names(device_ids: Iterable[int], devices: Mapping[int, _Device]) -> list[str]:
    return sorted(devices[it].name for it in device_ids)
