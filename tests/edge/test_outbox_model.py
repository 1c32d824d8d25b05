"""The outbox against a dict, under every order of appends, confirmations, stops, crashes and new streams.

It is so small that it often has to give up ticks.
"""

import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.outbox import Outbox, unpack
from edge_agent.reading import Reading
from edge_agent.write_behind import WriteBehindOutbox

KEY_SETS = [("a",), ("a", "b"), ("b", "c", "d")]


class OutboxMachine(RuleBasedStateMachine):
    kinds: ClassVar[list[type[Outbox]]] = [Outbox]

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "outbox.db"
        self.kind = self.kinds[0]
        self.outbox = self.kind.open(self.path, max_bytes=65_536)
        self.held: dict[int, tuple[tuple[str, ...], float]] = {}
        self.used = 0
        self.appended = 0
        self.time_ms = 0
        self.given_up = 0
        self.spared: set[int] = set()
        self.lives = 0

    def teardown(self) -> None:
        self.outbox.close()
        shutil.rmtree(self.directory)

    @rule(
        key_sets=st.lists(st.sampled_from(KEY_SETS), max_size=5),
        copies=st.sampled_from([1, 1, 1, 400]),
        interval_ms=st.sampled_from([1, 1, 100_000, 400_000, -1_000]),
    )
    def append(self, key_sets: list[tuple[str, ...]], copies: int, interval_ms: int) -> None:
        readings = []
        for keys in key_sets * copies:
            self.appended += 1
            self.time_ms = max(0, self.time_ms + interval_ms)
            readings.append(Reading(self.time_ms, 0, dict.fromkeys(keys, float(self.appended))))
        seqs = self.outbox.append_many(readings, spared=self.spared)
        assert seqs == list(range(self.used + 1, self.used + len(readings) + 1))
        self.used += len(readings)
        self.held |= {
            seq: (tuple(it.values), next(iter(it.values.values())) or 0.0)
            for seq, it in zip(seqs, readings, strict=True)
        }
        self.learn_what_was_given_up()

    @rule(data=st.data(), length=st.integers(0, 300))
    def send(self, data: st.DataObject, length: int) -> None:
        """Some of what it holds is on its way until the next time."""
        held = sorted(self.held)
        first = data.draw(st.integers(0, len(held)))
        self.spared = set(held[first : first + length])

    @rule(ranges=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 40)), max_size=4), data=st.data())
    def confirm(self, ranges: list[tuple[int, int]], data: st.DataObject) -> None:
        base = data.draw(st.sampled_from([0, *list(self.held)[:3]]))
        confirmed = [(base + first, base + first + length) for first, length in ranges]
        gone = {seq for seq in self.held if any(first <= seq <= last for first, last in confirmed)}
        assert self.outbox.confirm(confirmed) == len(gone)
        self.held = {seq: it for seq, it in self.held.items() if seq not in gone}

    @rule()
    def flush(self) -> None:
        self.outbox.flush(self.spared)
        self.learn_what_was_given_up()

    @rule(data=st.data())
    def stop_and_start(self, data: st.DataObject) -> None:
        stream = self.outbox.stream
        self.outbox.close()
        self.reopen(data)
        assert self.outbox.stream == stream
        self.learn_what_was_given_up(spared=False)
        assert self.outbox.next_seq == self.used + 1

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        unflushed = self.outbox.unflushed
        self.lives += 1
        left = self.directory / f"{self.lives}.db"
        for suffix in ("", "-wal"):
            if Path(f"{self.path}{suffix}").exists():
                shutil.copy(f"{self.path}{suffix}", f"{left}{suffix}")
        self.outbox.close()
        self.path = left
        self.reopen(data)
        for seq in sorted(self.held)[len(self.held) - unflushed :]:
            del self.held[seq]
        self.learn_what_was_given_up()
        assert self.outbox.next_seq > self.used
        self.used = self.outbox.next_seq - 1

    @precondition(lambda self: self.appended)
    @rule()
    def restart_stream(self) -> None:
        stream = self.outbox.stream
        self.outbox.flush(self.spared)
        self.learn_what_was_given_up()
        low = self.outbox.low()
        shift = self.used if low is None else low - 1
        self.outbox.restart_stream()
        assert self.outbox.stream != stream
        self.held = {seq - shift: it for seq, it in self.held.items()}
        self.used -= shift
        self.given_up = 0
        self.spared = set()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        index = list(self.outbox.index(1))
        assert [seq for seq, _ in index] == sorted(self.held)
        assert self.outbox.depth == len(self.held)
        assert self.outbox.low() == min(self.held, default=None)
        assert self.outbox.dropped + self.outbox.thinned == self.given_up
        assert self.outbox.recent(5) == index[-5:]
        assert self.outbox.used_bytes() <= 65_536
        sample = index[:20] + index[-20:]
        for tick in self.outbox.ticks([seq for seq, _ in sample]):
            keys, value = self.held[tick.seq]
            assert self.outbox.keys(tick.layout) == keys
            assert unpack(tick.data) == (value,) * len(keys)

    def reopen(self, data: st.DataObject) -> None:
        self.kind = data.draw(st.sampled_from(self.kinds))
        self.outbox = self.kind.open(self.path, max_bytes=65_536)

    def learn_what_was_given_up(self, *, spared: bool = True) -> None:
        """Of the older ones some may go, what is on its way the last of all; and what went is counted."""
        gone = self.held.keys() - {seq for seq, _ in self.outbox.index(1)}
        given_up = self.outbox.dropped + self.outbox.thinned
        assert given_up - self.given_up == len(gone)
        self.given_up = given_up
        if gone and spared and not gone.isdisjoint(self.spared):
            assert self.held.keys() - gone - self.spared == set()
        if gone:
            newest = max(self.held)
            assert newest not in gone or gone == self.held.keys()
        for seq in gone:
            del self.held[seq]


class WriteBehindMachine(OutboxMachine):
    kinds: ClassVar[list[type[Outbox]]] = [WriteBehindOutbox, Outbox]


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestWriteBehind = WriteBehindMachine.TestCase
TestWriteBehind.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
