"""The sizing table of the documentation against the figures that it is computed from."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sizing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sizing", ROOT / "benchmarks" / "sizing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_document_is_what_is_computed(sizing: ModuleType) -> None:
    assert "\n".join(sizing.rows()) in (ROOT / "docs" / "scaling.md").read_text()


def test_a_fleet_of_known_size(sizing: ModuleType) -> None:
    need = sizing.need(sizing.Fleet(devices=1_000, series=60, interval_seconds=5))
    assert need.samples_a_second == 12_000
    assert need.messages_a_second == 200
    assert need.ingesters == 1
    assert need.bytes_a_day == pytest.approx(12_000 * 86_400 * 10.5)
    rollups = 60_000 * 34.8 * (288 * 8 + 24 * 37 + 421)
    assert need.bytes_kept == pytest.approx(need.bytes_a_day * 1.25 + rollups)


def test_ingesters_are_never_fewer_than_the_samples_need(sizing: ModuleType) -> None:
    one = sizing.LIVE_SAMPLES_A_SECOND * sizing.SHARE
    devices = int(one / 60)
    assert sizing.need(sizing.Fleet(devices, 60, 1)).ingesters == 1
    assert sizing.need(sizing.Fleet(devices * 2, 60, 1)).ingesters == 2
    assert sizing.need(sizing.Fleet(devices * 2 + 1, 60, 1)).ingesters == 3
