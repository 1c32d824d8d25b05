"""The transaction that makes the promise: a batch of ticks into the database, each once, with a ledger to show it."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
import psycopg

from cloud_ingest.message import Message
from cloud_ingest.store import ledger, rejected
from cloud_ingest.store.database import Connection, connect, translated
from cloud_ingest.store.directory import Directory, Keys
from cloud_ingest.store.migrate import require_current
from cloud_ingest.store.ranges import Range, contains, runs
from cloud_ingest.store.readings import COPY_STATEMENT, Floats, Integers, copy_stream, pack
from cloud_ingest.store.rejected import Rejection
from cloud_ingest.store.rollup.late import Late, Placement, Readings, place

_EXPIRED: Final = "the time of some ticks lies before what any tier still holds"


@dataclass(frozen=True, slots=True)
class Block:
    """Ticks with one set of keys from one message.

    `seqs` and `times_ms` have length n, `samples` has shape (n, len(keys)). A block with a `rejection` is settled in
    the ledger and its message parked, but nothing of it is stored: the edge need not keep what the cloud refused.
    """

    message: Message
    site: str
    device: str
    stream: UUID
    low: int
    keys: Keys
    seqs: list[int]
    times_ms: Integers
    samples: Floats
    rejection: Rejection | None = None

    def refused(self, reason: str, detail: str) -> "Block":
        """The same block, to be parked and not stored."""
        return replace(self, rejection=Rejection(self.message, reason, detail))


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is settled of a stream after a commit, as far as its edge may still hold it: the content of a commit ack."""

    site: str
    device: str
    stream: UUID
    ranges: list[Range]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a committed batch did, in ticks and samples, and which streams it settled."""

    settlements: list[Settlement]
    stored_ticks: int
    stored_samples: int
    duplicate_ticks: int
    rejections: list[Rejection]


class _Numbers(NamedTuple):
    """What stands for the names of a batch in its readings."""

    devices: dict[str, int]
    layouts: dict[Keys, int]


class BatchWriter:
    """Writes batches over one connection, opened when needed and opened anew after a failure. Not thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: tuple[Connection, Directory, Placement] | None = None

    def write(self, blocks: list[Block], rejections: list[Rejection]) -> Outcome:
        """Stores the blocks and parks the rejections in one transaction; it is committed when this returns.

        Raises StoreUnavailable where the outcome is that nothing was committed or is unknown: write the same again,
        the ledger knows. Raises DataRejected where the database refused a value: split the batch. Raises
        SchemaNotReady. After any of them nothing of this batch may be acknowledged.
        """
        try:
            with translated():
                connection, directory, placement = self._open()
                return _write(connection, directory, placement, blocks, rejections)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the connection; the next write opens one."""
        if self._session is not None:
            with suppress(psycopg.Error):
                self._session[0].close()
            self._session = None

    def _open(self) -> tuple[Connection, Directory, Placement]:
        if self._session is None:
            connection = connect(self._url, "cloud-ingest")
            try:
                require_current(connection)
                self._session = (connection, Directory(connection), Placement(connection))
            except BaseException:
                connection.close()
                raise
        return self._session


def _write(
    connection: Connection,
    directory: Directory,
    placement: Placement,
    blocks: list[Block],
    rejections: list[Rejection],
) -> Outcome:
    device_ids = directory.devices((block.device, block.site) for block in blocks)
    layout_ids, invalid = directory.layouts(block.keys for block in blocks if block.rejection is None)
    blocks = [
        block.refused("invalid_series_key", invalid[block.keys]) if block.keys in invalid else block for block in blocks
    ]
    storable = [block for block in blocks if block.rejection is None]
    directory.note_device_layouts((device_ids[block.device], layout_ids[block.keys]) for block in storable)
    outcome = None
    while outcome is None:
        placement.cover(_times(storable))
        outcome = _settle(connection, placement, blocks, rejections, _Numbers(device_ids, layout_ids))
    return outcome


def _settle(
    connection: Connection,
    placement: Placement,
    blocks: list[Block],
    rejections: list[Rejection],
    numbers: _Numbers,
) -> Outcome | None:
    """The transaction; None, with nothing done, where the tiers have moved since the placement was covered."""
    with connection.transaction():
        if not placement.hold():
            return None
        ledger.create(connection, {block.stream: numbers.devices[block.device] for block in reversed(blocks)})
        owners = ledger.lock(connection, {block.stream for block in blocks})
        own = [block for block in blocks if owners[block.stream] == numbers.devices[block.device]]
        foreign = [block for block in blocks if owners[block.stream] != numbers.devices[block.device]]
        fresh, duplicates = _without_settled(connection, own)
        fresh = _without_expired(fresh, placement.earliest_ms)
        stored = [block for block in fresh if block.rejection is None]
        _copy(connection, placement, stored, numbers)
        rejections = [
            *rejections,
            *(block.rejection for block in fresh if block.rejection is not None),
            *(_foreign_stream(block) for block in foreign),
        ]
        rejected.park(connection, rejections)
        ranges = ledger.settle(connection, _entries(own, stored))

    streams = {block.stream: block for block in own}
    return Outcome(
        settlements=[Settlement(it.site, it.device, stream, ranges[stream]) for stream, it in streams.items()],
        stored_ticks=sum(len(block.seqs) for block in stored),
        stored_samples=sum(int(np.count_nonzero(~np.isnan(block.samples))) for block in stored),
        duplicate_ticks=duplicates,
        rejections=rejections,
    )


def _times(blocks: list[Block]) -> Integers:
    return np.concatenate([block.times_ms for block in blocks]) if blocks else np.zeros(0, np.int64)


def _foreign_stream(block: Block) -> Rejection:
    return Rejection(block.message, "foreign_stream", f"stream {block.stream} belongs to another device")


def _without_settled(connection: Connection, blocks: list[Block]) -> tuple[list[Block], int]:
    """The blocks without the ticks that are settled or stand twice in the batch, and how many ticks those were."""
    if not blocks:
        return [], 0
    in_batch: dict[UUID, set[int]] = {}
    for block in blocks:
        in_batch.setdefault(block.stream, set()).update(block.seqs)
    settled = ledger.settled(connection, {stream: runs(seqs) for stream, seqs in in_batch.items()})
    seen: dict[UUID, set[int]] = {}
    fresh = []
    dropped = 0
    for block in blocks:
        before = seen.setdefault(block.stream, set())
        known = settled.get(block.stream, [])
        if known or not before.isdisjoint(block.seqs):
            keep = [i for i, seq in enumerate(block.seqs) if seq not in before and not contains(known, seq)]
            dropped += len(block.seqs) - len(keep)
        else:
            keep = None
        before.update(block.seqs)
        if keep is None:
            fresh.append(block)
        elif keep:
            fresh.append(_selected(block, keep))
    return fresh, dropped


def _without_expired(blocks: list[Block], earliest_ms: int) -> list[Block]:
    """The blocks, where ticks from before `earliest_ms` are refused: no tier holds their time any more."""
    if (_times(blocks) >= earliest_ms).all():
        return blocks
    kept = []
    for block in blocks:
        expired = block.times_ms < earliest_ms
        if block.rejection is not None or not expired.any():
            kept.append(block)
            continue
        kept.append(_selected(block, np.flatnonzero(expired).tolist()).refused("too_old", _EXPIRED))
        if not expired.all():
            kept.append(_selected(block, np.flatnonzero(~expired).tolist()))
    return kept


def _selected(block: Block, indices: list[int]) -> Block:
    return replace(
        block,
        seqs=[block.seqs[i] for i in indices],
        times_ms=block.times_ms[indices],
        samples=block.samples[indices],
    )


def _copy(connection: Connection, placement: Placement, blocks: list[Block], numbers: _Numbers) -> None:
    by_layout: dict[int, list[Block]] = {}
    for block in blocks:
        if block.keys:  # a tick without values is settled, but there is nothing to store
            by_layout.setdefault(numbers.layouts[block.keys], []).append(block)
    parts = []
    late = Late()
    for layout_id, group in by_layout.items():
        lengths = [len(block.seqs) for block in group]
        devices = np.repeat(np.array([numbers.devices[block.device] for block in group], np.int64), lengths)
        times = np.concatenate([block.times_ms for block in group])
        samples = np.concatenate([block.samples for block in group])
        raw = place(Readings(layout_id, times, devices, samples), placement.state, late)
        if len(raw.times_ms):
            parts.append(pack(raw.times_ms, raw.device_ids, layout_id, raw.samples))
    if parts:
        with connection.cursor() as cursor, cursor.copy(COPY_STATEMENT) as copy:
            copy.write(copy_stream(parts))
    placement.store_late(late)


def _entries(own: Iterable[Block], stored: Iterable[Block]) -> dict[UUID, ledger.Entry]:
    seqs: dict[UUID, set[int]] = {}
    lows: dict[UUID, int] = {}
    for block in own:
        seqs.setdefault(block.stream, set()).update(block.seqs)
        lows[block.stream] = max(lows.get(block.stream, 1), block.low)
    ticks: dict[UUID, int] = {}
    newest: dict[UUID, int] = {}
    for block in stored:
        ticks[block.stream] = ticks.get(block.stream, 0) + len(block.seqs)
        newest[block.stream] = max(newest.get(block.stream, 0), int(block.times_ms.max()))
    return {
        stream: ledger.Entry(
            incoming=runs(numbers),
            low=lows[stream],
            ticks=ticks.get(stream, 0),
            newest=datetime.fromtimestamp(newest[stream] / 1000, UTC) if stream in newest else None,
        )
        for stream, numbers in seqs.items()
    }
