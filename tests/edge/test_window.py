import random
from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.window import Lane, Limits, Window

TIMEOUT = 30.0
TICK_BYTES = 100


class Edge:
    """A window with an outbox and a publisher, reduced to what they decide."""

    def __init__(self, *, messages: int = 8, ticks: int = 4, size: int = 10_000, message_bytes: int = 400) -> None:
        self.limits = Limits(messages, size, ticks, message_bytes, TIMEOUT)
        self.luck = random.Random(1)  # noqa: S311 - not for secrets
        self.window = Window(self.limits, lambda high: self.luck.uniform(0, high))
        self.held: dict[int, int] = {}
        self.newest: dict[int, int] = {}
        self.last = 0
        self.now = 1_000.0
        self.in_flight: dict[int, tuple[Lane, list[int]]] = {}
        self.sent: list[list[int]] = []

    def append(self, layout: int = 1, count: int = 1) -> None:
        for _ in range(count):
            self.last += 1
            self.held[self.last] = layout
            self.newest[layout] = self.last
            self.window.appended(self.last, layout)

    def index(self, first: int) -> Iterator[tuple[int, int]]:
        yield from [(seq, layout) for seq, layout in self.held.items() if seq >= first]

    def next(self) -> list[int]:
        """Sends one message; its ticks."""
        seq = self.window.live(self.now)
        lane, seqs = (Lane.LIVE, [seq]) if seq is not None else (Lane.BACKLOG, [])
        if not seqs:
            seqs = self.window.backlog(self.now, self.index, lambda _: self.limits.message_bytes // TICK_BYTES)
        if any(seq not in self.held for seq in seqs):
            self.window.forget(set(seqs) - self.held.keys())
            return self.next()
        if seqs:
            message_id = self.window.sent(self.now, lane, seqs, TICK_BYTES * len(seqs))
            self.in_flight[message_id] = lane, seqs
            self.sent.append(seqs)
        return seqs

    def pump(self) -> list[list[int]]:
        """Sends all that may be sent."""
        before = len(self.sent)
        while self.next():
            pass
        return self.sent[before:]

    def confirm(self, *seqs: int) -> None:
        deleted = sum(self.held.pop(seq, None) is not None for seq in seqs)
        self.window.confirmed(self.now, [(seq, seq) for seq in sorted(seqs)], deleted=deleted)

    def puback(self) -> None:
        for message_id in self.in_flight:
            self.window.acknowledged(self.now, message_id)
        self.in_flight.clear()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.window.expire(self.now)

    def work_off(self, *, poison: frozenset[int] = frozenset(), minutes: int = 600) -> None:
        """A healthy cloud confirms each second what it got, except poison."""
        for _ in range(minutes * 60):
            got = [seq for seqs in self.pump() for seq in seqs]
            self.puback()
            self.wait(1.0)
            self.confirm(*(seq for seq in got if seq not in poison))
            if self.held.keys() <= poison:
                return
        raise AssertionError(f"still held: {sorted(self.held.keys() - poison)[:20]}")


def test_nothing_is_sent_without_a_connection() -> None:
    edge = Edge()
    edge.append(count=3)
    assert edge.pump() == []


def test_after_a_reconnect_the_newest_goes_first_then_the_rest_from_the_oldest() -> None:
    edge = Edge()
    edge.append(count=10)
    edge.window.connect(100)
    assert edge.pump() == [[10], [1, 2, 3, 4], [5, 6, 7, 8], [9]]
    edge.window.disconnect()
    edge.append()
    edge.window.connect(100)
    assert edge.pump() == [[11], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_each_key_set_has_its_newest_tick_on_the_live_lane() -> None:
    edge = Edge(messages=16)
    for layout in (1, 2, 1, 3, 1, 1):
        edge.append(layout)
    edge.window.connect(100)
    assert edge.pump() == [[6], [4], [2], [1, 3, 5]]


def test_while_connected_every_tick_goes_live_at_once() -> None:
    edge = Edge()
    edge.window.connect(100)
    for seq in range(1, 20):
        edge.append(layout=seq % 3)
        assert edge.pump() == [[seq]]
        edge.puback()
        edge.confirm(seq)


def test_ticks_that_overtake_their_confirmations_travel_together() -> None:
    edge = Edge(messages=8, ticks=4)
    edge.window.connect(100)
    edge.append(count=2)
    assert edge.pump() == [[2], [1]]
    edge.append()
    edge.append()
    assert edge.pump() == [[4], [3]]
    for _ in range(5):
        edge.append()
    assert edge.pump() == [[5, 6, 7, 8], [9]]


def test_a_live_lane_that_is_full_holds_nothing_back() -> None:
    edge = Edge(messages=8)
    edge.window.connect(100)
    for layout in range(1, 6):
        edge.append(layout)
    assert edge.pump() == [[5], [4], [1], [2], [3]]


def test_the_window_bounds_messages_and_moves_with_confirmations() -> None:
    edge = Edge(messages=4, ticks=2)
    edge.append(count=20)
    edge.window.connect(100)
    assert edge.pump() == [[20], [1, 2], [3, 4], [5, 6]]
    edge.puback()
    assert edge.pump() == []
    edge.confirm(1)
    assert edge.pump() == []
    edge.confirm(1, 2)
    assert edge.pump() == [[7, 8]]


def test_the_window_bounds_bytes_but_a_large_message_goes_alone() -> None:
    edge = Edge(messages=100, ticks=4, size=1_600)
    edge.append(count=40)
    edge.window.connect(100)
    assert edge.pump() == [[40], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    small = Edge(messages=100, ticks=4, size=10)
    small.append(count=40)
    small.window.connect(100)
    assert small.pump() == [[40], [1, 2, 3, 4]]


def test_a_message_holds_no_more_ticks_than_fit() -> None:
    edge = Edge(ticks=50, message_bytes=300)
    edge.append(count=7)
    edge.window.connect(100)
    assert edge.pump() == [[7], [1, 2, 3], [4, 5, 6]]


def test_it_is_at_rest_once_the_broker_and_the_cloud_have_answered_everything() -> None:
    edge = Edge()
    edge.window.connect(10)
    status = edge.window.status_sent(edge.now)
    assert not edge.window.at_rest
    edge.window.acknowledged(edge.now, status)
    assert edge.window.at_rest
    edge.append()
    edge.pump()
    edge.puback()
    assert not edge.window.at_rest
    edge.confirm(1)
    assert edge.window.at_rest


def test_the_receive_maximum_of_the_broker_is_kept_with_room_for_live_and_status() -> None:
    edge = Edge(messages=100, ticks=1)
    edge.append(count=50)
    edge.window.connect(5)
    assert edge.window.room_for_status()
    edge.window.status_sent(edge.now)
    assert edge.pump() == [[50], [1]]
    edge.append()
    assert edge.pump() == [[51]]
    assert edge.window.room_for_status()
    edge.window.status_sent(edge.now)
    assert not edge.window.room_for_status()
    assert edge.pump() == []
    edge.puback()
    assert edge.pump() == [[2]]


def test_a_broker_that_takes_one_message_at_a_time_gets_one_at_a_time() -> None:
    edge = Edge()
    edge.append(count=9)
    edge.window.connect(1)
    assert edge.pump() == [[9]]
    assert not edge.window.room_for_status()
    edge.puback()
    assert edge.pump() == [[1, 2, 3, 4]]


def test_without_confirmations_the_flow_stops_but_for_probes() -> None:
    edge = Edge(messages=8, ticks=4)
    edge.append(count=1_000)
    edge.window.connect(100)
    edge.pump()
    edge.puback()
    edge.wait(TIMEOUT)
    before = len(edge.sent)
    for _ in range(3_600):
        edge.wait(1.0)
        edge.append()
        edge.pump()
        edge.puback()
        assert edge.window.in_flight <= 2
    probes = edge.sent[before:]
    assert 2 * 3_600 / 95 <= len(probes) <= 2 * 3_600 / 30
    assert max(probes[-1][0], probes[-2][0]) > 4_000, "one of the lanes asks with the newest"
    asked = [seqs[0] for seqs in probes if len(seqs) > 1]
    assert len(set(asked)) > 5, "the other goes through the backlog"
    assert edge.window.stalled
    got = [seq for seqs in probes[-2:] for seq in seqs]
    edge.confirm(*got)
    assert not edge.window.stalled
    assert edge.pump()[1][0] == 1, "from the oldest on"


def test_a_lost_message_is_sent_again_while_the_others_flow() -> None:
    edge = Edge(messages=8, ticks=2)
    edge.append(count=200)
    edge.window.connect(100)
    lost = edge.pump()[1]
    edge.work_off(minutes=3)
    assert sum(lost[0] in seqs for seqs in edge.sent) == 2 - (lost[0] not in edge.sent[1])


def test_what_is_never_confirmed_holds_up_nothing_else() -> None:
    edge = Edge(messages=8, ticks=4)
    edge.append(count=400)
    poison = frozenset(range(1, 60)) | {400}
    edge.window.connect(100)
    edge.work_off(poison=poison, minutes=5)
    assert edge.held.keys() == poison
    before = len(edge.sent)
    for _ in range(4 * 3_600):
        edge.wait(1.0)
        edge.pump()
        edge.puback()
    assert len(edge.sent) - before < 59 * 12, "it is tried less and less often"


def test_what_is_never_confirmed_holds_up_the_rest_for_minutes_only_while_live_ticks_flow() -> None:
    edge = Edge(messages=8, ticks=4)
    edge.append(count=400)
    poison = frozenset(range(1, 60))
    edge.window.connect(100)
    for second in range(1_800):
        edge.append()
        got = [seq for seqs in edge.pump() for seq in seqs]
        edge.puback()
        edge.wait(1.0)
        edge.confirm(*(seq for seq in got if seq not in poison))
        if not edge.held.keys() & set(range(60, 400)):
            assert second < 600
            return
    raise AssertionError(f"still held: {sorted(edge.held.keys() - poison)}")


def test_a_slow_cloud_that_goes_on_confirming_is_not_asked_twice() -> None:
    edge = Edge(messages=32, ticks=1)
    edge.append(count=300)
    edge.window.connect(100)
    queue: list[int] = []
    while edge.held:
        queue += [seq for seqs in edge.pump() for seq in seqs]
        edge.puback()
        edge.wait(20.0)
        edge.confirm(queue.pop(0))
    assert len(edge.sent) == 300


def test_a_refused_message_is_sent_again_after_a_pause() -> None:
    edge = Edge()
    edge.append()
    edge.window.connect(100)
    edge.pump()
    for attempt in range(1, 6):
        [message_id] = edge.in_flight
        edge.in_flight.clear()
        edge.window.refused(edge.now, message_id, for_its_content=False)
        assert edge.window.stalled
        assert edge.window.in_flight == 0
        edge.wait(2.0**attempt)
        assert edge.pump() == [[1]]


def test_a_message_refused_for_its_content_lets_others_pass() -> None:
    edge = Edge(messages=4, ticks=1)
    edge.append(count=3)
    edge.window.connect(100)
    edge.pump()
    [bad] = [it for it, (_, seqs) in edge.in_flight.items() if seqs == [1]]
    edge.window.refused(edge.now, bad, for_its_content=True)
    edge.append(count=20)
    edge.work_off(poison=frozenset({1}), minutes=5)


def test_what_the_live_lane_may_not_send_goes_by_the_backlog() -> None:
    edge = Edge()
    edge.window.connect(100)
    for _ in range(600):
        edge.append()
        before = set(edge.in_flight)
        edge.pump()
        for message_id in set(edge.in_flight) - before:
            lane, seqs = edge.in_flight.pop(message_id)
            if lane is Lane.LIVE:
                edge.window.refused(edge.now, message_id, for_its_content=False)
            else:
                edge.window.acknowledged(edge.now, message_id)
                edge.confirm(*seqs)
        edge.wait(1.0)
    assert len(edge.held) < 5


def test_a_cloud_that_comes_back_gets_everything_without_a_reconnect_and_without_a_new_tick() -> None:
    edge = Edge()
    edge.append(count=100)
    edge.window.connect(100)
    for _ in range(3_600):
        edge.pump()
        edge.puback()
        edge.wait(1.0)
    edge.work_off(minutes=5)


def test_late_news_of_given_up_messages_ends_a_stall() -> None:
    edge = Edge()
    edge.append(count=30)
    edge.window.connect(100)
    first = edge.pump()
    edge.puback()
    edge.wait(TIMEOUT)
    assert edge.window.stalled
    edge.confirm(*(seq for seqs in first for seq in seqs))
    assert not edge.window.stalled
    assert edge.pump()[0][0] not in {seq for seqs in first for seq in seqs}


def test_a_broker_that_stops_to_acknowledge_is_noticed() -> None:
    edge = Edge()
    edge.append(count=30)
    edge.window.connect(100)
    edge.pump()
    edge.wait(59.0)
    assert not edge.window.is_unanswered(edge.now)
    edge.wait(1.0)
    assert edge.window.is_unanswered(edge.now)
    edge.puback()
    assert not edge.window.is_unanswered(edge.now)


def test_dropped_ticks_are_forgotten() -> None:
    edge = Edge()
    edge.append(count=30)
    edge.window.connect(100)
    edge.pump()
    edge.held = {seq: layout for seq, layout in edge.held.items() if seq > 25}
    edge.window.forget_below(26)
    edge.wait(TIMEOUT)
    edge.work_off(minutes=5)


def test_a_new_stream_starts_afresh() -> None:
    edge = Edge()
    edge.append(count=30)
    edge.window.connect(100)
    edge.pump()
    edge.window.reset()
    edge.held, edge.last = {}, 0
    edge.append(count=3)
    assert edge.pump() == [[3], [1, 2]]


def test_neither_lane_starves_the_other() -> None:
    edge = Edge(messages=8, ticks=4)
    edge.append(count=2_000)
    edge.window.connect(100)
    for _ in range(400):
        newest = edge.last + 1
        edge.append()
        got = edge.pump()
        assert got[0] == [newest]
        edge.puback()
        edge.wait(1.0)
        edge.confirm(*(seq for seqs in got for seq in seqs))
    assert len(edge.held) < 10


def test_pauses_are_bounded_when_a_cloud_is_away_for_a_year() -> None:
    edge = Edge()
    edge.append(count=3)
    edge.window.connect(100)
    for _ in range(3_000):
        edge.pump()
        edge.puback()
        edge.wait(100.0)
    before = len(edge.sent)
    edge.wait(100.0)
    edge.pump()
    assert len(edge.sent) > before


class WindowMachine(RuleBasedStateMachine):
    """Any order of appends, links, losses, confirmations and refusals."""

    @initialize(
        messages=st.integers(2, 9),
        ticks=st.integers(1, 5),
        size=st.sampled_from([100, 1_000, 5_000]),
        fitting=st.integers(1, 6),
    )
    def start(self, messages: int, ticks: int, size: int, fitting: int) -> None:
        self.edge = Edge(messages=messages, ticks=ticks, size=size, message_bytes=fitting * TICK_BYTES)
        self.connected = False
        self.first_of_connection = False
        self.receive_maximum = 0
        self.unacknowledged: dict[int, list[int]] = {}
        self.delivered: set[int] = set()
        self.ever_sent: set[int] = set()
        self.confirmed: set[int] = set()

    @rule(layout=st.integers(1, 3), count=st.sampled_from([1, 1, 2, 10]))
    def append(self, layout: int, count: int) -> None:
        self.edge.append(layout, count)

    @rule(receive_maximum=st.sampled_from([1, 2, 3, 5, 65_535]))
    def connect(self, receive_maximum: int) -> None:
        self.edge.window.connect(receive_maximum)
        self.edge.in_flight.clear()
        self.unacknowledged.clear()
        self.connected, self.receive_maximum = True, receive_maximum
        self.first_of_connection = True

    @rule()
    def disconnect(self) -> None:
        self.edge.window.disconnect()
        self.edge.in_flight.clear()
        self.unacknowledged.clear()
        self.connected = False

    @rule(count=st.sampled_from([1, 3, 100]))
    def send(self, count: int) -> None:
        suspects = self.edge.window._suspects  # noqa: SLF001 - a waiting tick may not be the first
        present = [seq for seq in self.edge.newest.values() if seq in self.edge.held and seq not in suspects]
        for _ in range(count):
            before = set(self.edge.in_flight)
            seqs = self.edge.next()
            if not seqs:
                break
            assert self.connected
            assert set(seqs) <= self.edge.held.keys()
            assert len({self.edge.held[seq] for seq in seqs}) == 1
            assert seqs == sorted(set(seqs))
            assert len(seqs) <= self.edge.limits.ticks_per_message
            if self.first_of_connection:
                assert not present or seqs == [max(present)]
                self.first_of_connection = False
            [message_id] = set(self.edge.in_flight) - before
            self.unacknowledged[message_id] = seqs
            self.ever_sent.update(seqs)

    @precondition(lambda self: self.unacknowledged)
    @rule(data=st.data(), arrives=st.booleans(), refusal=st.sampled_from([None, None, None, False, True]))
    def answer(self, data: st.DataObject, arrives: bool, refusal: bool | None) -> None:  # noqa: FBT001 - a strategy
        message_id = data.draw(st.sampled_from(sorted(self.unacknowledged)))
        seqs = self.unacknowledged.pop(message_id)
        if refusal is None:
            assert set(self.edge.window.acknowledged(self.edge.now, message_id)) <= set(seqs)
            self.delivered.update(seqs if arrives else [])
        else:
            self.edge.window.refused(self.edge.now, message_id, for_its_content=refusal)
            self.edge.in_flight.pop(message_id)

    @precondition(lambda self: self.delivered)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        seqs = data.draw(st.sets(st.sampled_from(sorted(self.delivered)), max_size=10))
        self.confirmed |= seqs
        self.edge.confirm(*seqs)

    @rule(seconds=st.sampled_from([0.0, 0.5, 10.0, TIMEOUT, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.edge.wait(seconds)

    @rule(count=st.integers(1, 10))
    def drop_oldest(self, count: int) -> None:
        for seq in sorted(self.edge.held)[:count]:
            del self.edge.held[seq]
        self.edge.window.forget_below(min(self.edge.held, default=self.edge.last + 1))

    @invariant()
    def bounds_hold(self) -> None:
        window, limits = self.edge.window, self.edge.limits
        assert window.in_flight <= limits.messages
        lanes = window._lanes  # noqa: SLF001 - the bounds are of what it tracks
        flying: list[int] = []
        for lane in lanes.values():
            assert lane.bytes == sum(message.size for message in lane.messages.values())
            assert lane.bytes <= lane.max_bytes or len(lane.messages) == 1
            flying += [seq for message in lane.messages.values() for seq in message.seqs]
        assert len(flying) == len(set(flying))
        assert set(flying) == window._in_flight  # noqa: SLF001
        assert set(flying) <= self.ever_sent
        assert len(self.unacknowledged) <= self.receive_maximum
        assert not set(flying) & self.confirmed

    def teardown(self) -> None:
        """In the end everything that is held is delivered."""
        if not hasattr(self, "edge"):
            return
        self.edge.window.connect(65_535)
        self.edge.work_off()


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
