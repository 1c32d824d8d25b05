"""What an outbox says it no longer holds: enough for a ledger without holes, and nothing that may still come."""

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from edge_agent import messages
from edge_agent.outbox import Outbox
from edge_agent.reading import Reading
from edge_agent.write_behind import RESERVED, WriteBehindOutbox
from telemetry_contract.codec import decode_samples
from telemetry_contract.payload import Gone

KIB = 1024
WIDE = tuple(f"metric_{number}" for number in range(20))


def reading(second: int, *keys: str) -> Reading:
    return Reading(second * 1_000, 0, dict.fromkeys(keys or WIDE, float(second)))


@pytest.fixture(params=[Outbox, WriteBehindOutbox])
def kind(request: pytest.FixtureRequest) -> type[Outbox]:
    chosen: type[Outbox] = request.param
    return chosen


@pytest.fixture
def thinned(kind: type[Outbox], tmp_path: Path) -> Iterator[Outbox]:
    """One that thinned a hundred ticks or more, of three layouts, with the newest in memory where it writes behind."""
    with closing(kind.open(tmp_path / "outbox.db", max_bytes=100 * KIB)) as outbox:
        for second in range(0, 8_000, 5):
            outbox.append(reading(second))
            if second % 20 == 0:
                outbox.append(reading(second, "slow"))
            if second % 75 == 0:
                outbox.append(reading(second, "slower", "still"))
            if second % 1_000 == 0:
                outbox.flush()
        assert outbox.thinned > 100
        yield outbox


def held(outbox: Outbox) -> list[int]:
    return [seq for seq, _ in outbox.index(1)]


def numbers(gone: Gone | None) -> set[int]:
    return {seq for ranges in (gone or {}).values() for first, last in ranges for seq in range(first, last + 1)}


def test_an_outbox_that_gave_nothing_up_says_nothing(kind: type[Outbox], tmp_path: Path) -> None:
    with closing(kind.open(tmp_path / "outbox.db", max_bytes=100 * KIB)) as outbox:
        outbox.append_many([reading(second) for second in range(10)])
        outbox.confirm([(1, 2), (5, 6)])
        assert outbox.gone([3, 4, 7, 8]) is None
        assert outbox.gone([10]) is None


def test_together_its_ticks_tell_of_every_number_that_is_gone_once(thinned: Outbox) -> None:
    luck = random.Random(1)  # noqa: S311 - not for secrets
    everything = held(thinned)
    waiting, told = list(thinned.index(1)), set[int]()
    while waiting:
        layout = luck.choice(waiting)[1]
        message = [seq for seq, its in waiting if its == layout][: luck.randint(1, 30)]
        gone = thinned.gone(message)
        assert numbers(gone).isdisjoint(told)
        assert numbers(gone).isdisjoint(everything)
        told |= numbers(gone)
        waiting = [it for it in waiting if it[0] not in message]
        # What is said can be sent.
        ticks = thinned.ticks(message)
        stream = UUID("0190a5c2-7f3b-7c1e-9d52-3b6c1f2a4e10")
        decode_samples(messages.backlog(stream, 1, ticks, thinned.keys(layout), gone).payload)
        decode_samples(messages.live(stream, 1, ticks[-1], thinned.keys(layout), thinned.gone(message[-1:])).payload)
    assert told == set(range(everything[0], everything[-1])) - set(everything)


def test_a_ledger_that_is_told_stays_in_one_piece(thinned: Outbox) -> None:
    settled = set[int]()
    layouts = {layout for _, layout in thinned.index(1)}
    while thinned.depth:
        layout = next(thinned.index(1))[1]
        chosen = [seq for seq, its in thinned.index(1) if its == layout][:50]
        settled |= set(range(1, thinned.low() or 1)) | set(chosen) | numbers(thinned.gone(chosen))
        thinned.confirm([(seq, seq) for seq in chosen])
        # No more holes than ticks that are still to come, each with what is gone below it.
        pieces = sum(1 for seq in settled if seq - 1 not in settled)
        assert pieces <= 1 + sum(1 for seq in held(thinned) if seq < max(settled))
    assert len(layouts) == 3
    assert settled == set(range(1, thinned.next_seq))


def test_what_was_dropped_between_ticks_is_told(tmp_path: Path) -> None:
    with closing(Outbox.open(tmp_path / "outbox.db", max_bytes=100 * KIB, min_resolution_seconds=0)) as outbox:
        sent = outbox.append_many([reading(second) for second in range(400)])[100:110]
        for second in range(400, 800):
            outbox.append_many([reading(second)], spared=sent)
        low, after = held(outbox)[0], held(outbox)[10]
        assert low == sent[0]
        assert outbox.gone([after]) == {"thinned": [(sent[-1] + 1, after - 1)]}


def test_what_a_crash_may_have_lost_is_told_with_the_tick_after_it(kind: type[Outbox], tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with closing(WriteBehindOutbox.open(path, max_bytes=100 * KIB)) as outbox:
        outbox.append_many([reading(second, "a") for second in range(10)])
        outbox.flush()
        outbox.append_many([reading(second, "a") for second in range(5)])
        crash(outbox, path)
    with closing(kind.open(path, max_bytes=100 * KIB)) as outbox:
        assert held(outbox) == list(range(1, 11))
        after = outbox.append(reading(20, "a"))
        assert after > 10 + RESERVED
        lost = {"lost": [(11, after - 1)]}
        assert outbox.gone([9, 10, after]) == lost
        assert outbox.gone([after]) == lost
        assert outbox.gone([9, 10]) is None
        outbox.confirm([(1, 10)])
        assert outbox.gone([after]) == lost
        outbox.append_many([reading(21, "a"), reading(22, "a")])
        outbox.confirm([(after + 1, after + 1)])
        assert outbox.gone([after + 2]) is None
    with closing(kind.open(path, max_bytes=100 * KIB)) as outbox:
        assert outbox.gone([after, after + 2]) == lost


def test_two_crashes_with_nothing_between_are_one_loss(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    for _ in range(2):
        with closing(WriteBehindOutbox.open(path, max_bytes=100 * KIB)) as outbox:
            first = outbox.append(reading(1, "a"))
            crash(outbox, path)
    with closing(WriteBehindOutbox.open(path, max_bytes=100 * KIB)) as outbox:
        after = outbox.append(reading(2, "a"))
        assert after > first + RESERVED
        assert outbox.gone([after]) == {"lost": [(1, after - 1)]}


def test_a_crash_with_nothing_in_memory_lost_only_what_was_reserved(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with closing(WriteBehindOutbox.open(path, max_bytes=100 * KIB)) as outbox:
        outbox.append(reading(1, "a"))
        outbox.flush()
        crash(outbox, path)
    with closing(WriteBehindOutbox.open(path, max_bytes=100 * KIB)) as outbox:
        after = outbox.append(reading(2, "a"))
        assert outbox.gone([1, after]) == {"lost": [(2, after - 1)]}


def test_a_stop_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with closing(WriteBehindOutbox.open(path, max_bytes=100 * KIB)) as outbox:
        outbox.append_many([reading(1, "a"), reading(2, "a")])
    with closing(WriteBehindOutbox.open(path, max_bytes=100 * KIB)) as outbox:
        assert outbox.append(reading(3, "a")) == 3
        assert outbox.gone([1, 2, 3]) is None


def test_a_new_stream_knows_nothing_of_the_losses_below_it(thinned: Outbox) -> None:
    thinned.restart_stream()
    assert thinned.gone(held(thinned)[:5]) is None


def crash(outbox: Outbox, path: Path) -> None:
    """Leaves the file as it is; the process does not end here, so its lock is given back by hand."""
    left = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
    outbox.close()
    Path(f"{path}-shm").unlink(missing_ok=True)
    for suffix, content in left.items():
        Path(f"{path}{suffix}").write_bytes(content)
    # Closed once more by the test, which must not fail.
    outbox.close = lambda: None  # type: ignore[method-assign]
