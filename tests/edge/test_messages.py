import struct
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from edge_agent import messages
from edge_agent.outbox import StoredTick
from telemetry_contract.codec import decode_samples, encode
from telemetry_contract.payload import MAX_SEQUENCE, MAX_TIME_MS, Backlog, Tick
from telemetry_contract.series import SeriesKey

STREAM = UUID(int=2**128 - 1)
NAN = float("nan")

label_values = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30)
keys_lists = st.lists(
    label_values.map(lambda text: str(SeriesKey.of("m", {"l": text}))),
    min_size=1,
    max_size=8,
    unique=True,
)
values = st.floats(allow_infinity=False)


def stored(seq: int, t_ms: int, *row: float) -> StoredTick:
    return StoredTick(seq, t_ms, 1, struct.pack(f"<{len(row)}d", *row))


def test_a_live_message_is_one_tick() -> None:
    encoded = messages.live(STREAM, 3, stored(7, 1_000, 12.5, NAN), ["a", "b"])
    assert encoded.content_type == "application/json"
    assert decode_samples(encoded.payload) == Tick(
        v=1, stream=STREAM, seq=7, low=3, t=1_000, values={"a": 12.5, "b": None}
    )


def test_a_backlog_message_is_many_ticks_by_column() -> None:
    encoded = messages.backlog(STREAM, 3, [stored(7, 1_000, 1.0, NAN), stored(9, 2_000, 2.0, 3.0)], ["a", "b"])
    assert decode_samples(encoded.payload) == Backlog(
        v=1, stream=STREAM, low=3, seq=[7, 9], t=[1_000, 2_000], values={"a": [1.0, 2.0], "b": [None, 3.0]}
    )


def test_large_messages_are_compressed() -> None:
    keys = [f"metric_{number}" for number in range(1_000)]
    row = [0.5] * 1_000
    assert "+" in messages.live(STREAM, 1, stored(1, 1, *row), keys).content_type
    encoded = messages.backlog(STREAM, 1, [stored(seq, 1, *row) for seq in range(1, 100)], keys)
    assert "+" in encoded.content_type
    assert len(encoded.payload) < 20_000


@given(keys=keys_lists, max_bytes=st.integers(1, 4_000), data=st.data())
def test_as_many_ticks_fit_as_it_says_whatever_they_hold(keys: list[str], max_bytes: int, data: st.DataObject) -> None:
    count = messages.fitting(keys, max_bytes)
    row = data.draw(st.lists(values, min_size=len(keys), max_size=len(keys)))
    ticks = [stored(MAX_SEQUENCE - count + it, MAX_TIME_MS, *row) for it in range(count)]
    plain = encode(decode_samples(messages.backlog(STREAM, ticks[0].seq, ticks, keys).payload))
    assert len(plain.payload) <= max_bytes or count == 1
