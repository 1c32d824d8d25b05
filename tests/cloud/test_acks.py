"""When which edge is told."""

from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.ingest.acks import AckSchedule
from cloud_ingest.store.batch import Settlement


def settlement(stream: UUID, last: int) -> Settlement:
    return Settlement("plant", "pump", stream, [(1, last)])


def test_first_is_told_at_once_and_the_next_after_the_interval() -> None:
    acks = AckSchedule(1.0)
    stream = uuid4()
    assert acks.wait_seconds(0.0) is None
    acks.add([settlement(stream, 1)])
    assert acks.wait_seconds(10.0) == 0.0
    assert acks.due(10.0) == [settlement(stream, 1)]
    assert acks.wait_seconds(10.0) is None
    acks.add([settlement(stream, 2)])
    acks.add([settlement(stream, 3)])
    assert acks.due(10.4) == []
    assert 0.59 < (acks.wait_seconds(10.4) or 0) < 0.61
    assert acks.due(11.0) == [settlement(stream, 3)]
    assert acks.due(20.0) == []


def test_at_the_end_all_are_told() -> None:
    acks = AckSchedule(60.0)
    streams = [uuid4(), uuid4()]
    acks.add([settlement(stream, 1) for stream in streams])
    acks.due(5.0)
    acks.add([settlement(stream, 2) for stream in streams])
    assert {it.stream for it in acks.due(float("inf"))} == set(streams)


@given(st.lists(st.tuples(st.integers(0, 6).map(lambda eighths: eighths / 8), st.sets(st.integers(0, 3))), max_size=40))
def test_each_stream_is_told_its_latest_at_most_once_an_interval_and_as_soon_as_that_allows(
    steps: list[tuple[float, set[int]]],
) -> None:
    """Against the plainest way to say so: look at every stream every time."""
    acks, now = AckSchedule(1.0), 100.0
    streams = [UUID(int=number) for number in range(4)]
    told: dict[UUID, float] = {}
    waiting: dict[UUID, int] = {}
    for number, (elapsed, added) in enumerate(steps):
        now += elapsed
        acks.add([settlement(streams[it], number) for it in added])
        waiting |= {streams[it]: number for it in added}
        expected = {it: last for it, last in waiting.items() if now - told.get(it, -1.0) >= 1.0}
        assert {it.stream: it.ranges[0][1] for it in acks.due(now)} == expected
        for stream in expected:
            told[stream] = now
            del waiting[stream]
        wait = acks.wait_seconds(now)
        assert (wait is None) == (not waiting)
