from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.desired.file import DesiredFile
from edge_agent.desired.machine import Interrupted, State, Trial, Verdict
from edge_agent.errors import OutboxError
from telemetry_contract.desired import DesiredCollector, DesiredConfig, DesiredSampling

GOOD = DesiredConfig(v=1, version=3, collectors={"cpu": DesiredCollector(enabled=False)}, labels={"a": "ü"})
NEXT = DesiredConfig(v=1, version=4, sampling=DesiredSampling(interval_seconds=0.5))
GIVEN_UP = Verdict("reverted", 4, "no sample", NEXT)


@pytest.fixture
def file(tmp_path: Path) -> DesiredFile:
    return DesiredFile(tmp_path / "outbox.db", "pump", "plant")


def test_it_lies_beside_the_outbox(file: DesiredFile, tmp_path: Path) -> None:
    file.save(State())
    assert [each.name for each in tmp_path.iterdir()] == ["outbox.desired.json"]


def test_without_a_file_nothing_is_known(file: DesiredFile) -> None:
    assert file.load() == State()


def test_what_proved_itself_and_what_did_not_is_known_again(file: DesiredFile) -> None:
    file.save(State(good=GOOD, given_up=GIVEN_UP, verdict=GIVEN_UP))
    assert file.load() == State(good=GOOD, given_up=GIVEN_UP)


def test_a_trial_comes_back_as_one_that_was_interrupted_however_often(file: DesiredFile) -> None:
    file.save(State(good=GOOD, trial=Trial(NEXT, 2, 1e9)))
    loaded = file.load()
    assert loaded == State(good=GOOD, interrupted=Interrupted(NEXT, 2))
    file.save(loaded)
    assert file.load() == loaded


def test_that_of_another_device_is_not_taken(file: DesiredFile, tmp_path: Path) -> None:
    file.save(State(good=GOOD))
    assert DesiredFile(tmp_path / "outbox.db", "clone", "plant").load() == State()
    assert DesiredFile(tmp_path / "outbox.db", "pump", "elsewhere").load() == State()


@given(content=st.binary(max_size=40) | st.sampled_from([b"{}", b"[]", b'{"device":1}', b"\xff", b'{"device":"pump"}']))
def test_a_damaged_file_is_told(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = DesiredFile(tmp_path_factory.getbasetemp() / "damaged.db", "pump", "plant")
    file.path.write_bytes(content)
    with pytest.raises(OutboxError, match=r"damaged\.desired\.json"):
        file.load()


def test_a_directory_that_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutboxError, match="No such file"):
        DesiredFile(tmp_path / "missing" / "outbox.db", "pump", "plant").save(State())
