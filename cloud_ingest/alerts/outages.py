"""What is told of devices that go and come: one by one, or as one outage where many of a site go together.

A device that goes waits for `window_ms` before it is told: it may come back at once, as after an update, or others of
its site may follow. Where enough do, one outage of the site is told instead, and who follows joins it. It ends when
all are back, or when nobody has come back for a while and those left would not make an outage: they are then away by
themselves, and told as such when they return.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cloud_ingest.alerts.liveness import Presence, Reason


@dataclass(frozen=True, slots=True)
class SiteRule:
    """So many devices that go within `window_ms`, and at least this share of those that were there, are an outage."""

    devices: int
    share: float
    window_ms: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What is on record of a device. `told`: that it is away; `outage`: the number of the one that it is part of."""

    online: bool
    since_ms: int
    noticed_ms: int
    reason: Reason | None = None
    told: bool = False
    outage: int | None = None


class Seen(NamedTuple):
    """A device: what is on record, None where it is new, and how it is now, None where nobody can say."""

    standing: Standing | None
    presence: Presence | None


class Notice(NamedTuple):
    """That one device went, or that it is back."""

    device_id: int
    online: bool


@dataclass(slots=True)
class Round:
    """What came of a look at one site: what changed on record, and what is to be told.

    `begun`: the devices of an outage that begins. `joined`: those that the open one takes in. `ended`: whether that
    ends; `left` are those of it that are still away.
    """

    standings: dict[int, Standing] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    joined: list[int] = field(default_factory=list)
    ended: bool = False
    left: list[int] = field(default_factory=list)


def look(devices: Mapping[int, Seen], outage: int | None, rule: SiteRule, now_ms: int) -> Round:
    """Looks at all devices of a site, by their numbers; `outage` is the number of the one that is open."""
    found = Round()
    now = {it: now for it, seen in devices.items() if (now := _moved(seen, outage, now_ms)) is not None}
    for it, standing in now.items():
        before = devices[it].standing
        if before is not None and standing.online and not before.online and before.told and standing.outage is None:
            found.notices.append(Notice(it, online=True))
    if outage is None:
        _begin(found, now, rule, now_ms)
    else:
        _join(found, now, outage)
        _end(found, now, outage, rule, now_ms)
    found.standings = {it: standing for it, standing in now.items() if standing != devices[it].standing}
    return found


def _moved(seen: Seen, outage: int | None, now_ms: int) -> Standing | None:
    """Where the device stands now. It may have been part of an outage of the site where it was before."""
    before, presence = seen
    if before is not None and before.outage not in (None, outage):
        before = replace(before, outage=None)
    if presence is None or (before is not None and before.online == presence.online):
        return before
    if before is None:  # how it was when it was first looked at is no news
        return Standing(presence.online, presence.since_ms, now_ms, presence.reason, told=not presence.online)
    return Standing(presence.online, presence.since_ms, now_ms, presence.reason, outage=before.outage)


def _begin(found: Round, now: dict[int, Standing], rule: SiteRule, now_ms: int) -> None:
    """Tells those that went as one outage, or each alone."""
    untold = _untold(now)
    if _is_outage(now, untold, rule):
        found.begun = untold if _is_gathered([now[it].noticed_ms for it in untold], rule, now_ms) else []
        now |= {it: replace(now[it], told=True) for it in found.begun}
        return
    for it in untold:
        if now_ms - now[it].noticed_ms >= rule.window_ms:
            found.notices.append(Notice(it, online=False))
            now[it] = replace(now[it], told=True)


def _join(found: Round, now: dict[int, Standing], outage: int) -> None:
    for it in _untold(now):
        if now[it].outage is None:
            found.joined.append(it)
        now[it] = replace(now[it], told=True, outage=outage)


def _untold(now: Mapping[int, Standing]) -> list[int]:
    return [it for it, standing in now.items() if not standing.online and not standing.told]


def _is_outage(now: Mapping[int, Standing], untold: Sequence[int], rule: SiteRule) -> bool:
    were_there = len(untold) + sum(standing.online for standing in now.values())
    return len(untold) >= max(1, rule.devices) and len(untold) >= rule.share * were_there


def _is_gathered(noticed_ms: Iterable[int], rule: SiteRule, now_ms: int) -> bool:
    """Whether no more follow, or the first can't wait any longer."""
    times = list(noticed_ms)
    return now_ms - max(times) >= rule.window_ms // 4 or now_ms - min(times) >= rule.window_ms


def _end(found: Round, now: dict[int, Standing], outage: int, rule: SiteRule, now_ms: int) -> None:
    """Ends the outage where it is over."""
    members = [it for it, standing in now.items() if standing.outage == outage]
    left = [it for it in members if not now[it].online]
    latest_ms = max((now[it].noticed_ms for it in members), default=now_ms)
    if left and (len(left) >= rule.devices or now_ms - latest_ms < rule.window_ms):
        return
    found.ended, found.left = True, left
    now |= {it: replace(now[it], outage=None) for it in members}
