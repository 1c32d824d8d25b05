"""Messages of any shape become arrays of the same values."""

from uuid import uuid4

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cloud_ingest.decode import Limits, decode
from cloud_ingest.message import Message
from cloud_ingest.store.rejected import Rejection
from telemetry_contract.codec import encode
from telemetry_contract.payload import Backlog, Tick

NOW_MS = 1_795_000_000_000
LIMITS = Limits(max_message_bytes=100_000, max_decompressed_bytes=1_000_000, max_future_ms=1_000, max_age_ms=100_000)
TOPIC = "telemetry/v1/plant/pump/samples"

values = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)


def same(found: np.ndarray, wanted: list[list[float | None]]) -> bool:
    return np.array_equal(found, np.array(wanted, np.float64).reshape(found.shape), equal_nan=True)


@given(st.dictionaries(st.text(max_size=8), values, max_size=6))
def test_live_tick(row: dict[str, float | None]) -> None:
    tick = Tick(v=1, stream=uuid4(), seq=7, low=3, t=NOW_MS, values=row)
    blocks = decode(Message(TOPIC, encode(tick).payload), LIMITS, NOW_MS)
    assert not isinstance(blocks, Rejection)
    (block,) = blocks
    assert (block.site, block.device, block.stream, block.low) == ("plant", "pump", tick.stream, 3)
    assert (block.keys, block.seqs, block.times_ms.tolist()) == (tuple(row), [7], [NOW_MS])
    assert block.samples.shape == (1, len(row))
    assert same(block.samples, [list(row.values())])


@given(st.data(), st.integers(1, 5), st.lists(st.text(max_size=8), max_size=4, unique=True))
def test_backlog(data: st.DataObject, ticks: int, keys: list[str]) -> None:
    columns = {key: data.draw(st.lists(values, min_size=ticks, max_size=ticks)) for key in keys}
    seqs, times = list(range(1, ticks + 1)), [NOW_MS - it for it in range(ticks)]
    backlog = Backlog(v=1, stream=uuid4(), low=1, seq=seqs, t=times, values=columns)
    blocks = decode(Message(TOPIC, encode(backlog, compress_above=0).payload), LIMITS, NOW_MS)
    assert not isinstance(blocks, Rejection)
    (block,) = blocks
    assert (block.keys, block.seqs, block.times_ms.tolist()) == (tuple(keys), seqs, times)
    assert block.samples.shape == (ticks, len(keys))
    assert same(block.samples.T, list(columns.values()))
