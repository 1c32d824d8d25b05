"""What time it is, decided from what can be known: whether to believe the wall clock, and when a reading was taken.

A machine without a battery-backed clock starts in 1970, or where it was switched off, and finds the time minutes later
or never. Two clocks run beside each other here: the wall clock, which may be wrong and may be set, and the boot clock,
which only counts (time asleep included). Once the true time of one moment is known, it is known of every moment of this
boot, also of earlier ones.

All of it is pure: it is told what clocks and servers say, and never asks them.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple, Self

# No clock that shows an earlier time is right. To be moved on now and then, by releases.
EARLIEST_MS: Final = 1_788_220_800_000  # 2026-09-01

# The cloud's time is old by the way it took, so a wall clock that is ahead of it may be right; one behind it is not.
AHEAD_MS: Final = 15_000
BEHIND_MS: Final = 2_000
# The boot clock strays by the error of its crystal: 50 millionths are 0.2 s an hour.
REFERENCE_SECONDS: Final = 3_600
# A reading keeps the time that it came with where that differs from the true one by no more than this.
AGREED_MS: Final = 250

_NS_PER_MS: Final = 1_000_000


class Moment(NamedTuple):
    """One moment on both clocks; `wall_ms` is since the epoch as far as the machine knows, `boot_ns` of this boot."""

    wall_ms: int
    boot_ns: int

    @property
    def offset_ms(self) -> int:
        """What the wall clock adds to the boot clock."""
        return self.wall_ms - self.boot_ns // _NS_PER_MS


class Source(StrEnum):
    """Who says what time it is."""

    NOBODY = "unsynchronised"
    SYSTEM = "system"
    CLOUD = "cloud"


class Timekeeper:
    """Knows the true time of every moment of this boot, as soon as anybody has told it. Not thread-safe.

    The wall clock is believed while the kernel says that it is synchronised; where the kernel can't say, while
    nothing speaks against it. Else the cloud's time counts. What was known once stays known, as the boot clock goes
    on: a wall clock that somebody sets by hand changes nothing.
    """

    def __init__(self) -> None:
        self.source = Source.NOBODY
        self._offset_ms = 0
        self._synchronised: bool | None = False
        self._reference: tuple[int, int] | None = None  # what the cloud's time adds to the boot clock, and when it did

    @property
    def known(self) -> bool:
        """Whether the true time is known."""
        return self.source is not Source.NOBODY

    @property
    def ahead_of_cloud_ms(self) -> int | None:
        """How far what counts here is ahead of the cloud's time as it arrives; None where either is not known."""
        return self._offset_ms - self._reference[0] if self.known and self._reference is not None else None

    def observe(self, now: Moment, *, synchronised: bool | None) -> None:
        """What the clocks show now, and whether the kernel says that the wall clock is right; None: it can't say."""
        self._synchronised = synchronised = synchronised if now.wall_ms >= EARLIEST_MS else False
        if synchronised or (synchronised is None and not self._contradicted(now)):
            self.source, self._offset_ms = Source.SYSTEM, now.offset_ms

    def server_said(self, server_ms: int, now: Moment) -> None:
        """The cloud's time as it arrived now; it may have been long on its way, and is never ahead of the true time."""
        if server_ms < EARLIEST_MS:
            return
        heard = server_ms - now.boot_ns // _NS_PER_MS
        if self._reference is None or heard > self._reference[0] or _is_old(self._reference[1], now):
            self._reference = (heard, now.boot_ns)
        if self._synchronised or (self.known and self._agrees(self._offset_ms)):
            return
        self.source = Source.CLOUD
        self._offset_ms = now.offset_ms if self._agrees(now.offset_ms) else self._reference[0]

    def time_ms(self, boot_ns: int) -> int | None:
        """The true time of a moment of this boot; None while it is not known."""
        return self._offset_ms + boot_ns // _NS_PER_MS if self.known else None

    def corrected(self, reading: Moment) -> int | None:
        """The true time of a reading: its own where that is right; None while it is not known."""
        true_ms = self.time_ms(reading.boot_ns)
        if true_ms is not None and abs(true_ms - reading.wall_ms) <= AGREED_MS:
            return reading.wall_ms
        return true_ms

    def _contradicted(self, now: Moment) -> bool:
        return self._reference is not None and not self._agrees(now.offset_ms)

    def _agrees(self, offset_ms: int) -> bool:
        """Whether this may be right as far as the cloud's time tells."""
        return self._reference is not None and -BEHIND_MS <= offset_ms - self._reference[0] <= AHEAD_MS


class Estimate(NamedTuple):
    """Times for readings of a boot whose true time was never known, in order and with the distances that they had.

    None is before `low_ms` or after `high_ms`; where there is not so much room the distances suffer.
    """

    begin_ms: int
    first_ns: int
    low_ms: int
    high_ms: int | None

    @classmethod
    def between(cls, first: Moment, last: Moment, *, low_ms: int, high_ms: int | None) -> Self:
        """For the readings from `first` to `last`.

        They were taken after `low_ms`, when the readings before them were, and before `high_ms`, when the machine was
        started again (None: it was not). Their own times are kept where that allows; else they end at `high_ms`, as a
        machine is mostly started soon after it stopped, or begin at `low_ms`.
        """
        if high_ms is not None:
            low_ms = min(low_ms, high_ms)
        span_ms = max(0, (last.boot_ns - first.boot_ns) // _NS_PER_MS)
        begin_ms = last.wall_ms - span_ms
        if high_ms is not None and begin_ms + span_ms > high_ms:
            begin_ms = high_ms - span_ms
        if begin_ms < low_ms:
            begin_ms = low_ms if high_ms is None else max(low_ms, high_ms - span_ms)
        return cls(begin_ms, first.boot_ns, low_ms, high_ms)

    def time_ms(self, boot_ns: int) -> int:
        """The time of the reading that was taken then."""
        time_ms = self.begin_ms + max(0, (boot_ns - self.first_ns) // _NS_PER_MS)
        return time_ms if self.high_ms is None else max(self.low_ms, min(time_ms, self.high_ms))


class Boot(NamedTuple):
    """A boot of which readings wait for their time, and the first and the last of them."""

    name: str
    first: Moment
    last: Moment


class Stamp(NamedTuple):
    """How the readings of one boot get their time, and whether it is the true one."""

    time_ms: Callable[[Moment], int]
    known: bool


def stamps(boots: Sequence[Boot], *, present: str, keeper: Timekeeper, newest_ms: int) -> dict[str, Stamp]:
    """For each boot of which readings wait, oldest first; `present` is the one that goes on.

    Nothing older than `newest_ms` was taken, as far as that is known.
    """
    low_ms = max(newest_ms, EARLIEST_MS)
    high_ms = keeper.time_ms(0)
    found: dict[str, Stamp] = {}
    for boot in reversed(boots):
        if boot.name == present and keeper.known:
            found[boot.name] = Stamp(partial(_exact, keeper), known=True)
            continue
        estimate = Estimate.between(boot.first, boot.last, low_ms=low_ms, high_ms=high_ms)
        found[boot.name] = Stamp(partial(_estimated, estimate), known=False)
        high_ms = estimate.time_ms(boot.first.boot_ns)
    return found


def _exact(keeper: Timekeeper, moment: Moment) -> int:
    corrected = keeper.corrected(moment)
    return moment.wall_ms if corrected is None else corrected


def _estimated(estimate: Estimate, moment: Moment) -> int:
    return estimate.time_ms(moment.boot_ns)


def _is_old(heard_ns: int, now: Moment) -> bool:
    return now.boot_ns - heard_ns > REFERENCE_SECONDS * 1_000_000_000
