import logging
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from edge_agent.intake import Intake
from edge_agent.outbox import Outbox
from edge_agent.reading import Reading


def reading(number: int, width: int = 1) -> Reading:
    return Reading(number, 0, {f"metric_{key}": float(number) for key in range(width)})


def test_what_a_busy_disk_refuses_is_stored_later_in_order_and_what_memory_could_not_hold_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "outbox.db"
    intake = Intake(max_values=100)
    with closing(Outbox.open(path, max_bytes=1_000_000)) as outbox, closing(apsw.Connection(str(path))) as other:
        outbox._db.set_busy_timeout(0)  # noqa: SLF001 - not to wait for seconds
        intake.add([reading(1)])
        assert intake.store(outbox) == [1]
        other.execute("begin immediate")
        for number in range(2, 16):
            intake.add([reading(number, width=10)])
            assert intake.store(outbox) == []
        assert intake.waiting == 10
        other.execute("rollback")
        assert intake.store(outbox) == list(range(2, 12))
        assert intake.waiting == 0
        assert outbox.dropped == 4
        assert [tick.t_ms for tick in outbox.ticks(range(2, 12))] == list(range(6, 16))
        assert intake.store(outbox) == []
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "WARNING"]
    assert "10 waited, 4 were dropped" in caplog.text


def test_the_newest_reading_is_kept_however_large(tmp_path: Path) -> None:
    intake = Intake(max_values=10)
    intake.add([reading(1), reading(2, width=50)])
    with closing(Outbox.open(tmp_path / "outbox.db", max_bytes=1_000_000)) as outbox:
        assert intake.store(outbox) == [1]
        assert outbox.dropped == 1
