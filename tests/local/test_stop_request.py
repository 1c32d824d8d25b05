import os
import signal
import threading
import time

import pytest

from telemetry_bridge.stop_request import Stopped, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_insists(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.requested
        assert not stop.insisted()
        with pytest.raises(Stopped):
            stop.check()
        os.kill(os.getpid(), number)
        assert stop.insisted()
    assert signal.getsignal(number) is before


def test_with_nohup_the_end_of_the_terminal_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_ends_the_waiting_at_once() -> None:
    with StopRequest() as stop:
        sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        sender.start()
        began = time.monotonic()
        stop.wait(60)
        assert stop.requested
        stop.wait(60)
        assert time.monotonic() - began < 30
        sender.join()


def test_waiting_without_a_signal_takes_its_time() -> None:
    with StopRequest() as stop:
        began = time.monotonic()
        stop.wait(0.05)
        assert time.monotonic() - began >= 0.05
        assert not stop.requested
