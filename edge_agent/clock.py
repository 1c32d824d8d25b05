"""What time it is, decided from what can be known: whether to believe the wall clock, and when a reading was taken.

A machine without a battery-backed clock starts in 1970, or where it was switched off, and finds the time minutes later
or never. Two clocks run beside each other here: the wall clock, which may be wrong and may be set, and the boot clock,
which only counts (time asleep included). Once the true time of one moment is known, it is known of every moment of this
boot, also of earlier ones.

All of it is pure: it is told what clocks and servers say, and never asks them.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

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


def estimated(group: Sequence[Moment], *, low_ms: int, high_ms: int | None) -> list[int]:
    """Times for readings of a boot whose true time was never known, in order and with the distances they had.

    They lie between `low_ms`, when the readings before them were taken, and `high_ms`, when the machine was started
    again (None: it was not). Their own times are kept where these allow; else they end at `high_ms`, as a machine is
    mostly started soon after it stopped, or begin at `low_ms`. Where there is not so much room the distances suffer.
    """
    if not group:
        return []
    first = group[0].boot_ns
    since_ms = [max(0, (it.boot_ns - first) // _NS_PER_MS) for it in group]
    begin_ms = group[-1].wall_ms - since_ms[-1]
    if high_ms is not None and begin_ms + since_ms[-1] > high_ms:
        begin_ms = high_ms - since_ms[-1]
    if begin_ms < low_ms:
        begin_ms = low_ms if high_ms is None else max(low_ms, high_ms - since_ms[-1])
    times = [begin_ms + since for since in since_ms]
    return times if high_ms is None else [max(low_ms, min(time, high_ms)) for time in times]


def _is_old(heard_ns: int, now: Moment) -> bool:
    return now.boot_ns - heard_ns > REFERENCE_SECONDS * 1_000_000_000
