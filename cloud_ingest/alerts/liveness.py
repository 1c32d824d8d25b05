"""Whether a device is there: by its own word or its last will, or by what arrived of it.

Nobody is away because the cloud could not hear: after a break in its listening every device has its whole time, and at
least the grace period, to be heard again. Times are the cloud's, in milliseconds since the epoch, but `measured_ms`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

# Listening that is confirmed anew within this time goes on without a break.
MAX_PAUSE_MS: Final = 5_000


class Reason(StrEnum):
    """Why a device is away."""

    STOPPED = "stopped"  # it said so
    LOST = "lost"  # its last will came
    SILENT = "silent"  # nothing came


class Word(NamedTuple):
    """The newest status of a device, which came at `at_ms`; `reason` where it is offline."""

    online: bool
    at_ms: int
    reason: Reason | None = None


class Hearing(NamedTuple):
    """The cloud listened from `since_ms` to `until_ms`, without a break of more than MAX_PAUSE_MS."""

    since_ms: int
    until_ms: int

    def lasts(self, now_ms: int) -> bool:
        """Whether it goes on."""
        return now_ms - self.until_ms <= MAX_PAUSE_MS


@dataclass(frozen=True, slots=True)
class Ears:
    """Since when the cloud hears statuses, and since when the readings of a device; None: never did."""

    statuses: Hearing | None
    readings: Hearing | None


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard of a device.

    `arrived_ms` is when anything of it came last, but for a word that it is offline; `measured_ms` is the time of its
    newest reading, by its own clock. It is away after `silence_ms` without a sign.
    """

    word: Word | None
    arrived_ms: int | None
    measured_ms: int | None
    silence_ms: int


@dataclass(frozen=True, slots=True)
class LastSample:
    """What is known of a firing series: whether its device is there, and the time of its newest value.

    `rule_silence_ms` is None where silence makes nothing unknown, as the no-data rule of the threshold says.
    """

    online: bool
    seen_ms: int
    rule_silence_ms: int | None


@dataclass(frozen=True, slots=True)
class Quiet:
    """A series without values beside its device, both by the clock of the device: the newest of each.

    `device_went_on` is whether the device sent anything in the older half of the silence, `back_since_ms` when it came
    back, by the clock of the cloud.
    """

    seen_ms: int
    device_ms: int
    device_went_on: bool
    back_since_ms: int | None


class Presence(NamedTuple):
    """How a device is; `since_ms` is when it was last heard of where it is away."""

    online: bool
    since_ms: int
    reason: Reason | None = None


def presence(heard: Heard, ears: Ears, grace_ms: int, now_ms: int) -> Presence | None:
    """How the device is now; None where nobody can say, so that it is what it was."""
    if _left(heard):
        word = heard.word
        if word is None or not _knows(ears.statuses, grace_ms, now_ms):
            return None  # a broker that restarts says this of devices that are about to come back
        return Presence(online=False, since_ms=word.at_ms, reason=word.reason or Reason.LOST)
    if heard.arrived_ms is None:
        return None
    if now_ms - heard.arrived_ms <= heard.silence_ms:
        return Presence(online=True, since_ms=heard.arrived_ms)
    patience_ms = max(grace_ms, heard.silence_ms)
    if all(_knows(it, patience_ms, now_ms) for it in (ears.statuses, ears.readings)):
        return Presence(online=False, since_ms=heard.arrived_ms, reason=Reason.SILENT)
    return None


def _left(heard: Heard) -> bool:
    """Whether it is offline by its word.

    What it measured long after that shows that the word does not hold any more, as where another program sends for it.
    What merely arrived does not: it may have waited in the broker.
    """
    word = heard.word
    if word is None or word.online:
        return False
    again = min(heard.arrived_ms or 0, heard.measured_ms or 0)
    return again <= word.at_ms + heard.silence_ms


def _knows(hearing: Hearing | None, patience_ms: int, now_ms: int) -> bool:
    return hearing is not None and hearing.lasts(now_ms) and now_ms - hearing.since_ms > patience_ms


def is_unknown(last: LastSample, ears: Ears, grace_ms: int, now_ms: int) -> str | None:
    """Why nobody knows how a firing series is: `offline` or `silent`; None where it is known, or nobody can say yet."""
    if not last.online:
        return "offline"
    if last.rule_silence_ms is None or now_ms - last.seen_ms <= last.rule_silence_ms:
        return None
    patience_ms = max(grace_ms, last.rule_silence_ms)
    return "silent" if _knows(ears.readings, patience_ms, now_ms) else None


def has_gone_silent(quiet: Quiet, silence_ms: int, readings: Hearing | None, grace_ms: int, now_ms: int) -> bool:
    """Whether a series is silent while its device goes on and the cloud hears it.

    That its device goes on is what tells its silence from that of the device: of a device that comes back, what it
    sends most often comes first.
    """
    patience_ms = max(grace_ms, silence_ms)
    return (
        quiet.device_ms - quiet.seen_ms > silence_ms
        and quiet.device_went_on
        and (quiet.back_since_ms is None or now_ms - quiet.back_since_ms > patience_ms)
        and _knows(readings, patience_ms, now_ms)
    )
