from hypothesis import given
from hypothesis import strategies as st

from edge_agent.token_bucket import TokenBucket


def test_what_is_taken_comes_back_with_time() -> None:
    bucket = TokenBucket.full(100, now=5.0)
    assert bucket.allows(5.0)
    bucket = bucket.taken(5.0, 1_000)
    assert not bucket.allows(12.9)
    assert bucket.allows(13.1)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 5_000)), max_size=50))
def test_no_more_is_taken_than_comes_in_but_for_a_burst_and_the_last(steps: list[tuple[float, int]]) -> None:
    bucket, now, total = TokenBucket.full(100, now=0.0), 0.0, 0
    for pause, size in steps:
        now += pause
        if bucket.allows(now):
            bucket = bucket.taken(now, size)
            total += size
        assert total <= 100 * (now + 2) + 5_000 + 1e-6
