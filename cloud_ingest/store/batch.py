"""The transaction that makes the promise: a batch of ticks into the database, each once, with a ledger to show it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

import numpy as np
import psycopg

from cloud_ingest.errors import MessageGone, PartRefused
from cloud_ingest.message import Message
from cloud_ingest.store import conflicts, debt, gaps, ledger, publishers, rejected
from cloud_ingest.store.cardinality import NO_LIMIT, Budget
from cloud_ingest.store.content import Candidates
from cloud_ingest.store.database import Connection, connect, translated
from cloud_ingest.store.directory import Directory, Keys
from cloud_ingest.store.judging import Judging
from cloud_ingest.store.migrate import require_current
from cloud_ingest.store.ranges import Range, contains, minus, runs, runs_of
from cloud_ingest.store.readings import COPY_STATEMENT, Floats, Integers, copy_stream, pack
from cloud_ingest.store.rejected import Rejection
from cloud_ingest.store.rollup.late import Late, Placement, Readings, place
from cloud_ingest.store.tiers import RAW

# An ingester that hangs (its machine sleeps, say) in a transaction holds streams that others want; the server ends it.
_LET_GO: Final = "set idle_in_transaction_session_timeout = '10s'"
_EXPIRED: Final = "the time of some ticks lies before what any tier still holds"
_NO_LONGER_RAW: Final = (
    "the time of some readings lies before the raw readings kept, which tell whether they came before"
)


@dataclass(frozen=True, slots=True)
class Block:
    """Ticks with one set of keys from one message.

    `seqs` and `times_ms` have length n, `samples` has shape (n, len(keys)). `told`: where the message says that
    numbers don't come any more, what it says. A block with a `rejection` is settled in
    the ledger and its message parked, but nothing of it is stored: the edge need not keep what the cloud refused.

    `held_back`: its ticks waited for a link, so that alerts judge them as history.

    A block with a `publisher` is not from an agent of ours: its `seqs` mean nothing, its `stream` is `stream_of` its
    device, and which of its ticks are stored already is told by their content.
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
    told: gaps.Told | None = None
    rejection: Rejection | None = None
    publisher: str | None = None
    held_back: bool = False

    # Most blocks hold one tick, for which numpy's reductions take ten times as long as the item.

    @property
    def oldest_ms(self) -> int:
        """The earliest of its times."""
        return int(self.times_ms.item() if len(self.seqs) == 1 else self.times_ms.min())

    @property
    def newest_ms(self) -> int:
        """The latest of its times."""
        return int(self.times_ms.item() if len(self.seqs) == 1 else self.times_ms.max())

    def refused(self, reason: str, detail: str) -> "Block":
        """The same block, to be parked and not stored."""
        return replace(self, rejection=Rejection(self.message, reason, detail, self.device))

    @property
    def parked(self) -> Rejection | None:
        """Its rejection, with what of the ledger is parked and not stored."""
        if self.rejection is None:
            return None
        if self.publisher is not None:
            return self.rejection
        return replace(self.rejection, stream=self.stream, ranges=runs(self.seqs))


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is settled of a stream after a commit, as far as its edge may still hold it: the content of a commit ack."""

    site: str
    device: str
    stream: UUID
    ranges: list[Range]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a committed batch did, in ticks and samples, and which streams it settled.

    `late_ticks` of the stored ones came after the rollup of their time was made. `cloned_messages` hold ticks that are
    not what came under their numbers: another machine has the same stream and name.
    """

    settlements: list[Settlement]
    stored_ticks: int
    stored_samples: int
    late_ticks: int
    duplicate_ticks: int
    rejections: list[Rejection]
    cloned_messages: int = 0


class _Session(NamedTuple):
    """A connection and what is known over it."""

    connection: Connection
    directory: Directory
    placement: Placement
    judging: Judging


# The blocks of each stream, in the order of receipt.
_Streams: TypeAlias = dict[UUID, list[Block]]


class _Numbers(NamedTuple):
    """What stands for the names of a batch in its readings."""

    devices: dict[str, int]
    layouts: dict[Keys, int]


class _Copied(NamedTuple):
    """What was stored: how many samples, and how many ticks that came late."""

    samples: int
    late_ticks: int


class _Mode(NamedTuple):
    """`whole`: all or nothing, and nothing is parked. `replayed`: the number of the rejected message that it was."""

    whole: bool = False
    replayed: int | None = None


_ORDINARY: Final = _Mode()


class _Settled(NamedTuple):
    """Whose a stream is, how it stands after the batch, and what of it was in a gap for being rejected before."""

    device_id: int
    now: ledger.Settled
    owed: list[Range]


class BatchWriter:
    """Writes batches over one connection, opened when needed and opened anew after a failure. Not thread-safe.

    `derive` adds to a block what is computed from it; the same for the same block. `budget` is each device's.
    """

    def __init__(
        self, url: str, derive: Callable[[Block], Block] = lambda block: block, budget: Budget = NO_LIMIT
    ) -> None:
        self._url = url
        self._derive = derive
        self._budget = budget
        self._session: _Session | None = None

    def write(self, blocks: list[Block], rejections: list[Rejection], *, whole: bool = False) -> Outcome:
        """Stores the blocks and parks the rejections in one transaction; it is committed when this returns.

        Raises StoreUnavailable where the outcome is that nothing was committed or is unknown: write the same again,
        the ledger knows. Raises DataRejected where the database refused a value: split the batch. Raises
        SchemaNotReady. After any of them nothing of this batch may be acknowledged.

        `whole` parks nothing: where a part would be refused, nothing is stored and this raises PartRefused.
        """
        try:
            with translated():
                return _write(self._open(), [self._derive(block) for block in blocks], rejections, _Mode(whole))
        except PartRefused:
            raise  # the transaction was undone and the connection is as good as before
        except BaseException:
            self.close()
            raise

    def replay(self, number: int, blocks: list[Block], rejections: list[Rejection]) -> Outcome:
        """As `write`, for the content of one rejected message as it is understood now, each of its ticks once.

        Its ticks that are settled because it was rejected are taken as if they were not. The message is deleted in the
        same transaction, or stays with the new reason where some of it was rejected again. Raises MessageGone too.
        """
        try:
            with translated():
                return _write(
                    self._open(), [self._derive(block) for block in blocks], rejections, _Mode(replayed=number)
                )
        except MessageGone:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the connection; the next write opens one."""
        if self._session is not None:
            with suppress(psycopg.Error):
                self._session.connection.close()
            self._session = None

    def _open(self) -> _Session:
        if self._session is None:
            connection = connect(self._url, "cloud-ingest")
            try:
                with translated():
                    connection.execute(_LET_GO)
                require_current(connection)
                self._session = _Session(
                    connection, Directory(connection, self._budget), Placement(connection), Judging(connection)
                )
            except BaseException:
                connection.close()
                raise
        return self._session


def _write(session: _Session, blocks: list[Block], rejections: list[Rejection], mode: _Mode = _ORDINARY) -> Outcome:
    directory = session.directory
    blocks, taken = _without_taken(session.connection, blocks)  # who can't speak for a device can't move it either
    rejections = [*rejections, *taken]
    devices = directory.devices((block.device, block.site) for block in blocks)
    # Of several that want a device the first is the last of the reversed
    if claims := {devices[it.device]: it.publisher for it in reversed(blocks) if it.publisher is not None}:
        publishers.claim(session.connection, claims)
    layouts, refused = directory.layouts(
        # A tick without values is settled, but there is nothing to store
        (devices[block.device], block.keys)
        for block in blocks
        if block.rejection is None and block.keys
    )
    if refused:
        blocks = [
            block.refused(*why) if (why := refused.get((devices[block.device], block.keys))) is not None else block
            for block in blocks
        ]
    storable = [block for block in blocks if block.rejection is None]
    streams = _by_stream(blocks)
    outcome = None
    while outcome is None:
        directory.make_streams((stream, devices[group[0].device]) for stream, group in streams.items())
        session.placement.cover(_times(storable))
        outcome = _settle(session, streams, rejections, _Numbers(devices, layouts), mode)
    return outcome


def _settle(
    session: _Session, streams: _Streams, rejections: list[Rejection], numbers: _Numbers, mode: _Mode
) -> Outcome | None:
    """The transaction; None, with nothing done, where what was prepared for it does not hold any more."""
    connection, placement = session.connection, session.placement
    with connection.transaction():
        if not placement.hold():
            return None
        known = ledger.lock(connection, {stream: _incoming(group) for stream, group in streams.items()})
        if len(known) < len(streams):
            session.directory.forget_streams()
            return None
        owed: Mapping[UUID, list[Range]] = {}
        doubtful: list[Rejection] = []
        if mode.replayed is not None:
            owed, doubtful = _debt(session, mode.replayed, streams, known, numbers)
            known = {it: replace(each, settled=minus(each.settled, owed.get(it, []))) for it, each in known.items()}
        own, foreign = _by_owner(streams, known, numbers)
        own, taken = _by_publisher(connection, own)
        fresh = _fresh(session, own, known, numbers)
        stored = {stream: [block for block in group if block.rejection is None] for stream, group in fresh.items()}
        copied = _copy(session, _flat(stored), numbers)
        rejections = [
            *rejections,
            *taken,
            *doubtful,
            *(parked for block in _flat(fresh) if (parked := block.parked) is not None),
            *(_foreign_stream(block) for block in foreign),
        ]
        if mode.whole and rejections:
            raise PartRefused("; ".join(f"{each.reason}: {each.detail}" for each in rejections))
        rejected.park(connection, rejections)
        clones = []
        if mode.replayed is None:
            clones = conflicts.of_another_machine(connection, _repeated(own, fresh, known, placement))
        if foreign or clones:
            claims = Counter((it.stream, numbers.devices[it.device]) for it in foreign)
            claims.update((it.stream, it.device_id) for it in clones)
            conflicts.note(connection, claims)
        if mode.replayed is not None:
            paid = [it for stream in owed for it in _incoming(stored.get(stream, []))]
            rejected.release(connection, mode.replayed, paid, delete=not rejections)
        settled = ledger.settle(connection, {it: _entry(group, stored[it], known[it]) for it, group in own.items()})
        ranges = {
            it: _record_gaps(
                connection, it, group, fresh[it], _Settled(known[it].device_id, settled[it], owed.get(it, []))
            )
            for it, group in own.items()
        }

    return Outcome(
        settlements=[
            Settlement(group[-1].site, group[-1].device, stream, ranges[stream])
            for stream, group in own.items()
            if group[-1].publisher is None
        ],
        stored_ticks=_ticks(_flat(stored)),
        stored_samples=copied.samples,
        late_ticks=copied.late_ticks,
        duplicate_ticks=_ticks(_flat(own)) - _ticks(_flat(fresh)),
        rejections=rejections,
        cloned_messages=len(clones),
    )


def _debt(
    session: _Session, number: int, streams: _Streams, known: Mapping[UUID, ledger.Known], numbers: _Numbers
) -> tuple[dict[UUID, list[Range]], list[Rejection]]:
    """What a rejected message owes, and what keeps it rejected for nobody knows whether it was stored.

    Locks the message, after the ledger: as whoever parks a message takes the two locks.
    """
    owed, is_complete = rejected.claim(session.connection, number)
    doubtful: list[Rejection] = []
    if is_complete:
        return owed, doubtful
    raw_from_ms = session.placement.state.floors[RAW.level]
    for stream, group in streams.items():
        device_id = known[stream].device_id
        ticks = [
            debt.Tick(*tick)
            for block in group
            if block.publisher is None and block.keys and numbers.devices[block.device] == device_id
            for tick in zip(block.seqs, block.times_ms.tolist(), block.samples, strict=True)
            if contains(known[stream].settled, tick[0])
        ]
        found = debt.estimate(session.connection, stream, device_id, ticks, raw_from_ms)
        owed[stream] = runs_of([*owed.get(stream, []), *found.owed])
        if found.doubtful:
            detail = (
                f"its ticks {found.doubtful} were settled before it was noted why: nobody knows if they were stored"
            )
            doubtful.append(Rejection(group[0].message, "unknown_if_stored", detail[:300], group[0].device))
    return owed, doubtful


def _by_stream(blocks: Iterable[Block]) -> _Streams:
    streams: _Streams = {}
    for block in blocks:
        streams.setdefault(block.stream, []).append(block)
    return streams


def _by_owner(streams: _Streams, known: Mapping[UUID, ledger.Known], numbers: _Numbers) -> tuple[_Streams, list[Block]]:
    """The blocks that come from the device whose stream it is, and the others."""
    own: _Streams = {}
    foreign: list[Block] = []
    for stream, group in streams.items():
        owner = known[stream].device_id
        mine = [block for block in group if numbers.devices[block.device] == owner]
        if mine:
            own[stream] = mine
        if len(mine) < len(group):
            foreign += [block for block in group if numbers.devices[block.device] != owner]
    return own, foreign


def _without_taken(connection: Connection, blocks: list[Block]) -> tuple[list[Block], list[Rejection]]:
    """The blocks of agents and of those publishers that may speak for their device; what becomes of the others."""
    owners = publishers.owners(connection, {block.device for block in blocks if block.publisher is not None})
    kept, taken = [], []
    for block in blocks:
        owner = publishers.NOBODY if block.publisher is None else owners.get(block.device, publishers.NOBODY)
        if block.publisher is not None and (why := owner.refusal(block.device, block.publisher)) is not None:
            taken.append(Rejection(block.message, "device_taken", why))
        else:
            kept.append(block)
    return kept, taken


def _by_publisher(connection: Connection, streams: _Streams) -> tuple[_Streams, list[Rejection]]:
    """As `_without_taken`, now that the streams are locked: another may have claimed a device meanwhile."""
    kept, taken = _without_taken(connection, _flat(streams))
    return (_by_stream(kept) if taken else streams), taken


def _fresh(session: _Session, streams: _Streams, known: Mapping[UUID, ledger.Known], numbers: _Numbers) -> _Streams:
    """The ticks that are not settled yet, of agents by their numbers, of other publishers by their content."""
    earliest_ms = session.placement.earliest_ms
    published = [block for block in _flat(streams) if block.publisher is not None]
    fresh = {
        stream: _without_expired(
            _without_settled([block for block in group if block.publisher is None], known[stream].settled),
            earliest_ms,
            _EXPIRED,
        )
        for stream, group in streams.items()
    }
    for block in _without_stored(session, published, numbers):
        fresh[block.stream].append(block)
    return fresh


def _without_stored(session: _Session, blocks: list[Block], numbers: _Numbers) -> list[Block]:
    """The blocks of publishers without the ticks that are stored or stood in one before."""
    if not blocks:
        return []
    blocks = _without_expired(blocks, session.placement.state.floors[RAW.level], _NO_LONGER_RAW)
    candidates = Candidates()
    for block in blocks:
        if block.rejection is None:
            candidates.add(numbers.devices[block.device], numbers.layouts[block.keys], block.times_ms)
    candidates.look_up(session.connection)
    fresh = []
    for block in blocks:
        if block.rejection is not None:
            fresh.append(block)
            continue
        ids = numbers.devices[block.device], numbers.layouts[block.keys]
        if keep := candidates.fresh(*ids, block.times_ms, block.samples):
            fresh.append(_selected(block, keep))
    return fresh


def _flat(streams: _Streams) -> list[Block]:
    return [block for group in streams.values() for block in group]


def _ticks(blocks: Iterable[Block]) -> int:
    return sum(len(block.seqs) for block in blocks)


def _times(blocks: list[Block]) -> Integers:
    return np.concatenate([block.times_ms for block in blocks]) if blocks else np.zeros(0, np.int64)


def _incoming(group: list[Block]) -> list[Range]:
    return runs([seq for block in group if block.publisher is None for seq in block.seqs])


def _repeated(
    own: _Streams, fresh: _Streams, known: Mapping[UUID, ledger.Known], placement: Placement
) -> list[conflicts.Repeated]:
    """Of each block of an agent the last tick that is not fresh, where raw readings of its time are kept."""
    floor_ms = placement.state.floors[RAW.level]
    found = []
    for stream, group in own.items():
        if _ticks(group) == _ticks(fresh[stream]):
            continue
        new = {tick for block in fresh[stream] for tick in zip(block.seqs, block.times_ms.tolist(), strict=True)}
        for block in group:
            if block.publisher is not None or block.rejection is not None or not block.keys:
                continue
            ticks = zip(reversed(block.seqs), block.times_ms[::-1].tolist(), strict=True)
            tick = next((it for it in ticks if it not in new and it[1] >= floor_ms), None)
            if tick is not None:
                found.append(conflicts.Repeated(stream, known[stream].device_id, *tick))
    return found


def _foreign_stream(block: Block) -> Rejection:
    detail = f"stream {block.stream} belongs to another device"
    return Rejection(block.message, "foreign_stream", detail, block.device)


def _without_settled(group: list[Block], settled: list[Range]) -> list[Block]:
    """The blocks of a stream without the ticks that are settled or stood in one before."""
    if not settled and len({seq for block in group for seq in block.seqs}) == _ticks(group):
        return group
    before: set[int] = set()
    fresh = []
    for block in group:
        keep = [i for i, seq in enumerate(block.seqs) if seq not in before and not contains(settled, seq)]
        before.update(block.seqs)
        if len(keep) == len(block.seqs):
            fresh.append(block)
        elif keep:
            fresh.append(_selected(block, keep))
    return fresh


def _without_expired(blocks: list[Block], earliest_ms: int, why: str) -> list[Block]:
    """The blocks, where ticks from before `earliest_ms` are refused."""
    if all(block.oldest_ms >= earliest_ms for block in blocks):
        return blocks
    kept = []
    for block in blocks:
        expired = block.times_ms < earliest_ms
        if block.rejection is not None or not expired.any():
            kept.append(block)
            continue
        kept.append(_selected(block, np.flatnonzero(expired).tolist()).refused("too_old", why))
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


def _copy(session: _Session, blocks: list[Block], numbers: _Numbers) -> _Copied:
    """Judges the ticks of the blocks, beside what is stored so far, and stores them."""
    connection, placement = session.connection, session.placement
    by_layout: dict[int, list[Block]] = {}
    for block in blocks:
        if block.keys:
            by_layout.setdefault(numbers.layouts[block.keys], []).append(block)
    parts = []
    present, past = [], []
    late = Late()
    count = 0
    for layout_id, group in by_layout.items():
        lengths = [len(block.seqs) for block in group]
        devices = np.repeat(np.array([numbers.devices[block.device] for block in group], np.int64), lengths)
        times = np.concatenate([block.times_ms for block in group])
        samples = np.concatenate([block.samples for block in group])
        count += samples.size - int(np.count_nonzero(np.isnan(samples)))
        readings = Readings(layout_id, times, devices, samples)
        held_back = np.repeat(np.array([block.held_back for block in group], np.bool_), lengths)
        if held_back.any():
            past.append(readings.rows(held_back))
            present.append(readings.rows(~held_back))
        else:
            present.append(readings)
        raw = place(readings, placement.state, late)
        if len(raw.times_ms):
            parts.append(pack(raw.times_ms, raw.device_ids, layout_id, raw.samples))
    session.judging.judge(present, past, placement.state.floors[RAW.level])
    if parts:
        with connection.cursor() as cursor, cursor.copy(COPY_STATEMENT) as copy:
            copy.write(copy_stream(parts))
    placement.store_late(late)
    return _Copied(count, late.ticks)


def _entry(own: list[Block], stored: list[Block], known: ledger.Known) -> ledger.Entry:
    """What the blocks of a stream add to the ledger: all of them are settled, some were stored.

    What was before the ledger hears of a stream for the first time is nobody's gap.
    """
    newest = max((block.newest_ms for block in stored), default=None)
    incoming = _incoming(own)
    first = min(block.low for block in own) if known.is_new else 1
    return ledger.Entry(
        incoming=runs_of([(1, first - 1), *incoming]) if first > 1 else incoming,
        low=max(block.low for block in own),
        ticks=_ticks(stored),
        newest=None if newest is None else datetime.fromtimestamp(newest / 1000, UTC),
    )


def _record_gaps(
    connection: Connection, stream: UUID, own: list[Block], fresh: list[Block], settled: _Settled
) -> list[Range]:
    """Keeps why numbers of a stream were not stored; what is settled of it that its edge may still hold."""
    refused = [block for block in fresh if block.rejection is not None and block.publisher is None]
    if anew := minus(_incoming(refused), settled.owed):
        gaps.record_rejected(connection, stream, anew, *_span_ms(refused))
    if settled.owed:
        stored = _incoming([block for block in fresh if block.rejection is None])
        gaps.recover(connection, stream, minus(stored, minus(stored, settled.owed)))
    told = [block.told for block in own if block.told is not None]
    if not told or (settled.now.complete_below_low and not any(each.gone for each in told)):
        return settled.now.ranges
    return gaps.record(connection, stream, settled.device_id, told)


def _span_ms(blocks: list[Block]) -> tuple[int, int]:
    return min(block.oldest_ms for block in blocks), max(block.newest_ms for block in blocks)
