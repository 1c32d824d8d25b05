"""Packed COPY rows are what the server reads."""

import numpy as np
import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cloud_ingest.store.migrate import migrate
from cloud_ingest.store.partitions import partitions_of
from cloud_ingest.store.readings import COPY_STATEMENT, copy_stream, pack


@given(
    samples=arrays.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 7))),
    start=st.integers(-2_208_988_800_000, 4_102_444_800_000),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_server_reads_what_was_packed(database_url: str, samples: np.ndarray, start: int) -> None:
    migrate(database_url)
    rows, _ = samples.shape
    times = np.arange(start, start + rows, dtype=np.int64)
    devices = np.arange(1, rows + 1, dtype=np.int64)
    with psycopg.connect(database_url, autocommit=True) as connection:
        partitions_of(connection).cover(connection, times.tolist())
        connection.execute("truncate telemetry.reading")
        with connection.cursor() as cursor, cursor.copy(COPY_STATEMENT) as copy:
            copy.write(copy_stream([pack(times, devices, 7, samples)]))
        found = connection.execute(
            "select (extract(epoch from time) * 1000)::bigint, device_id, layout_id, samples"
            " from telemetry.reading order by device_id"
        ).fetchall()
    assert [row[:3] for row in found] == [(time, device, 7) for time, device in zip(times, devices, strict=True)]
    np.testing.assert_array_equal(np.array([row[3] for row in found]), samples)
