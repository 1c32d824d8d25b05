import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import Desired
from edge_agent.desired.control import DesiredControl
from edge_agent.desired.file import DesiredFile
from edge_agent.errors import ConfigError
from telemetry_contract.desired import DesiredConfig
from telemetry_contract.payload import DesiredState


def message(version: int, **settings: Any) -> bytes:
    return json.dumps({"v": 1, "version": version, **settings}).encode()


class Device:
    """What is in effect on a device that can't do with what is in `impossible`."""

    def __init__(self, directory: Path) -> None:
        self.file = DesiredFile(directory / "outbox.db", "pump", "plant")
        self.impossible: set[int | None] = set()
        self.holds: int | None = None
        self.proofs: list[Callable[[], None]] = []
        self.wakes = 0
        self.control = self.started()

    def started(self, settings: Desired | None = None) -> DesiredControl:
        control = DesiredControl(settings or Desired(), self.file, self._wake)
        self.holds = None if control.in_effect is None else control.in_effect.version
        return control

    def turn(self, payload: bytes | None = None, *, now: float = 0.0) -> DesiredState | None:
        if payload is not None:
            self.control.hear(payload)
        self.control.turn(now, self._apply)
        return self.control.report

    def _apply(self, desired: DesiredConfig | None, proved: Callable[[], None]) -> None:
        version = None if desired is None else desired.version
        assert self.file.path.exists(), "it is known before it is tried"
        if version in self.impossible:
            raise ConfigError(f"{version} can't be built")
        self.holds = version
        self.proofs.append(proved)

    def _wake(self) -> None:
        self.wakes += 1


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_message_and_a_proof_wake_the_one_who_takes_turns(device: Device) -> None:
    assert device.turn(message(1)) == DesiredState(state="trying", version=1, in_effect=1)
    assert (device.holds, device.wakes) == (1, 1)
    device.proofs[0]()
    assert device.wakes == 2
    assert device.turn() == DesiredState(state="applied", version=1, in_effect=1)


def test_a_proof_of_an_earlier_one_proves_nothing(device: Device) -> None:
    device.turn(message(1))
    device.turn(message(2))
    device.proofs[0]()
    assert device.turn() == DesiredState(state="trying", version=2, in_effect=2)


def test_of_several_messages_the_newest_counts(device: Device) -> None:
    for version in (1, 2, 3):
        device.control.hear(message(version))
    device.turn()
    assert (device.holds, len(device.proofs)) == (3, 1)


def test_one_that_can_not_be_built_is_refused_and_the_good_one_stays(device: Device) -> None:
    device.turn(message(1))
    device.proofs[0]()
    device.turn()
    device.impossible = {2}
    assert device.turn(message(2)) == DesiredState(state="refused", version=2, reason="2 can't be built", in_effect=1)
    assert device.holds == 1
    assert device.started().report == DesiredState(state="applied", version=1, in_effect=1)


def test_where_not_even_the_good_one_can_be_gone_back_to_the_devices_own_holds(device: Device) -> None:
    device.turn(message(1))
    device.proofs[0]()
    device.turn(message(2))
    device.impossible = {1}
    report = device.turn(now=1e6)
    assert report is not None
    assert (report.state, report.version, report.in_effect, device.holds) == ("reverted", 2, None, None)


def test_it_ends_where_nothing_can_be_gone_back_to(device: Device) -> None:
    device.turn(message(1))
    device.impossible = {None}
    with pytest.raises(ConfigError, match="None can't be built"):
        device.turn(b"")


def test_a_damaged_file_costs_what_was_desired_before_and_nothing_else(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    device.file.path.write_bytes(b"\0")
    device.control = device.started()
    assert "going on without what was desired before" in caplog.text
    assert device.turn(message(1)) == DesiredState(state="trying", version=1, in_effect=1)


def test_a_disk_that_refuses_does_not_keep_it_from_being_applied(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    device.turn(message(1))
    device.file.path.with_suffix(".new").mkdir()
    assert device.turn(message(2)) == DesiredState(state="trying", version=2, in_effect=2)
    assert "will not be known after a restart" in caplog.text


def test_one_line_is_logged_for_each_change(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        device.turn(message(1))
    device.proofs[0]()
    device.turn()
    device.turn(message(2, broker={}))
    device.turn(b"")
    assert [record.getMessage() for record in caplog.records] == [
        "desired configuration 1: trying",
        "desired configuration 1: applied",
        "desired configuration 2: refused: broker is not a key that may be set",
        "no desired configuration: this device's own one holds alone",
    ]


def test_switched_off_it_follows_nothing_not_even_what_it_followed_before(device: Device) -> None:
    device.turn(message(1))
    device.proofs[0]()
    device.turn()
    device.control = device.started(Desired(enabled=False))
    assert device.turn(message(2)) is None
    assert device.holds is None
