import os
import re
import socket
from collections.abc import Callable

import pytest

from telemetry_bridge import ports
from telemetry_bridge.errors import CannotStart


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - a server that listens everywhere
def test_a_taken_port_is_named_with_its_holder_and_a_choice_that_works(
    address: str, free_port: Callable[[], int]
) -> None:
    port = free_port()
    with socket.create_server((address, port)):
        with pytest.raises(CannotStart) as raised:
            ports.require_free(port, use="the API", option="--port")
        message = str(raised.value)
        assert f"port {port} on 127.0.0.1, wanted for the API, is taken" in message
        assert f"(process {os.getpid()})" in message
        choice = re.search(r"telemetry-bridge up --port (\d+)$", message)
        assert choice is not None
        ports.require_free(int(choice[1]), use="the API", option="--port")
        assert ports.preferred_or_near(port) == int(choice[1])
    ports.require_free(port, use="the API", option="--port")
    assert ports.preferred_or_near(port) == port


def test_a_port_whose_last_connections_linger_is_free(free_port: Callable[[], int]) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first lingers in TIME_WAIT
        client.close()
    ports.require_free(port, use="the API", option="--port")


def test_accepts_says_whether_somebody_listens(free_port: Callable[[], int]) -> None:
    port = free_port()
    assert not ports.accepts(port)
    with socket.create_server(("127.0.0.1", port)):
        assert ports.accepts(port)


def test_the_search_goes_round_at_the_last_port() -> None:
    assert 1024 <= ports.free_near(65_535) < 65_535
