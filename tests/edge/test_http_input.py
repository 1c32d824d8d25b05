import http.client
import subprocess
import sys
from collections.abc import Iterator, Mapping
from email.message import Message
from pathlib import Path

import pytest
from harness.ports import free_port
from harness.wait import until

from edge_agent.address import Address
from edge_agent.collectors.http_input import HttpInput
from edge_agent.collectors.inbox import FORGOTTEN_AFTER_TICKS, Inbox
from edge_agent.collectors.registry import groups
from edge_agent.config import Config, load
from edge_agent.config import HttpInput as HttpInputConfig
from edge_agent.errors import CollectorError, ConfigError
from edge_agent.local_http import Request
from edge_agent.preflight import warnings
from edge_agent.statistics import Statistics


class Counted:
    """A collector that is asked directly, and what it counted."""

    def __init__(self, token_file: Path | None = None) -> None:
        self.rejected = self.superseded = 0
        self.collector = HttpInput(HttpInputConfig(token_file=token_file), self._reject, self._supersede)

    def _reject(self, values: int) -> None:
        self.rejected += values

    def _supersede(self, values: int) -> None:
        self.superseded += values

    def post(
        self, body: str | bytes, *, path: str = "/write", method: str = "POST", headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        given = Message()
        for name, value in (headers or {}).items():
            given[name] = value
        content = body.encode() if isinstance(body, str) else body
        response = self.collector.answer(Request(method, path, {}, given, content))
        return response.status, response.body

    def taken(self) -> dict[str, float | None]:
        return self.collector._inbox.take()  # noqa: SLF001 - without listening


@pytest.fixture
def input_() -> Counted:
    return Counted()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"a": 1.5, "b_total{x=\\"y\\"}": 2, "c": null}', {"a": 1.5, 'b_total{x="y"}': 2.0, "c": None}),
        ('\n {"a": 1}', {"a": 1.0}),
        ('{"v": 1, "t": 5, "values": {"a": 1}}', {"a": 1.0}),
        ('{"values": 3, "v": 1}', {"values": 3.0, "v": 1.0}),
        ("weather,station=north temperature=21.5,raining=true 5\n", None),
    ],
)
def test_what_devices_hand_over_is_what_the_next_tick_takes(
    input_: Counted, body: str, expected: dict[str, float | None] | None
) -> None:
    assert input_.post(body) == (204, "")
    weather = {'weather_temperature{station="north"}': 21.5, 'weather_raining{station="north"}': 1.0}
    assert input_.taken() == (expected or weather)
    assert input_.taken() == {}
    assert (input_.rejected, input_.superseded) == (0, 0)


def test_clients_of_influxdb_find_the_path_they_know(input_: Counted) -> None:
    assert input_.post("a value=1", path="/api/v2/write")[0] == 204
    assert input_.taken() == {"a": 1.0}


def test_the_newest_value_of_a_series_counts(input_: Counted) -> None:
    input_.post('{"a": 1, "b": 1}')
    input_.post('{"a": 2}')
    assert input_.taken() == {"a": 2.0, "b": 1.0}
    assert input_.superseded == 1
    input_.post('{"a": 3}')
    assert input_.taken() == {"a": 3.0, "b": None}, "the same keys each time"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('{"a": 1, "no good": 2}', "1 entries were left out, the others taken; the first: metric name 'no good'"),
        ('{"a": 1, "b": "x"}', "1 entries were left out, the others taken; the first: b must be a number or null"),
        ("a value=1\nrubbish\nb value=", "2 entries were left out, the others taken; the first: line 2"),
        ('a value=1\nc text="x"', "1 entries were left out, the others taken; the first: c_text is text"),
    ],
)
def test_what_can_not_be_used_is_told_and_the_rest_taken(input_: Counted, body: str, why: str) -> None:
    status, said = input_.post(body)
    assert status == 400
    assert said.startswith(why)
    assert input_.taken() == {"a": 1.0}
    assert input_.rejected == int(why[0])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("", "you sent nothing; expected points"),
        ("{", "you sent what is not JSON"),
        ('{"a": 1} x', "you sent what is not JSON"),
        (b"\xff", "you sent what is not UTF-8 text"),
        ('{"v": 1, "values": {"a": 1}', "you sent what is not JSON"),
        ("{" * 100_000, "you sent what is not JSON"),
    ],
)
def test_what_is_nothing_of_the_kind_is_told(input_: Counted, body: str | bytes, why: str) -> None:
    status, said = input_.post(body)
    assert status == 400
    assert said.startswith(why)
    assert input_.taken() == {}
    assert input_.rejected == 1


def test_other_paths_methods_and_pages_of_websites_are_refused(input_: Counted) -> None:
    assert input_.post("a value=1", path="/") == (404, "there are /write and /api/v2/write\n")
    assert input_.post("a value=1", method="GET") == (405, "there is only POST\n")
    assert input_.post("a value=1", headers={"Origin": "https://evil.example"})[0] == 403
    assert input_.taken() == {}


def test_a_token_is_asked_for_and_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    input_ = Counted(file)
    for wrong in ({}, {"Authorization": "Bearer other"}, {"Authorization": "secret"}, {"Authorization": "Bearer é"}):
        assert input_.post("a value=1", headers=wrong) == (401, "Authorization must be Bearer and the token\n")
    assert input_.post("a value=1", headers={"Authorization": "Bearer secret", "Origin": "x"})[0] == 204
    assert input_.post("a value=1", headers={"Authorization": "Token secret"})[0] == 204
    file.write_text("other")
    assert input_.post("a value=1", headers={"Authorization": "Bearer secret"})[0] == 401
    file.unlink()
    assert input_.post("a value=1", headers={"Authorization": "Bearer secret"})[0] == 503


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def listening(port: int) -> Iterator[HttpInput]:
    collector = HttpInput(
        HttpInputConfig(listen=Address("127.0.0.1", port), max_body_bytes=1_024), lambda _: None, lambda _: None
    )
    yield collector
    collector.close()


def posted(port: int, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", "/write", body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_it_listens_from_the_first_tick_until_it_is_closed(listening: HttpInput, port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        posted(port, b"a value=1")
    assert listening.collect() == {}
    assert posted(port, b"a value=1") == (204, b"")
    assert listening.collect() == {"a": 1.0}
    assert posted(port, b"x" * 1_025)[0] == 413
    listening.close()
    with pytest.raises(ConnectionRefusedError):
        posted(port, b"a value=1")
    assert listening.collect() == {}
    with pytest.raises(ConnectionRefusedError):
        posted(port, b"a value=1")


def test_a_taken_port_costs_its_own_ticks_and_is_tried_again(listening: HttpInput, port: int) -> None:
    other = HttpInput(HttpInputConfig(listen=Address("127.0.0.1", port)), lambda _: None, lambda _: None)
    other.collect()
    expected = f"^collectors.http_input.listen 127.0.0.1:{port}: Address already in use"
    with pytest.raises(CollectorError, match=expected):
        listening.collect()
    other.close()
    assert listening.collect() == {}


def test_a_program_on_this_machine_hands_over_a_value_with_curl(listening: HttpInput, port: int) -> None:
    listening.collect()
    url = f"http://127.0.0.1:{port}/write"
    curl = ["curl", "-sS", "--fail-with-body", "--data-binary", '{"boiler_temperature_celsius": 61.5}', url]
    try:
        subprocess.run(curl, check=True, capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    assert listening.collect() == {"boiler_temperature_celsius": 61.5}


def test_it_runs_where_it_is_enabled_in_a_group_of_its_own() -> None:
    config = Config.of({"collectors": {"http_input": {"enabled": True, "interval_seconds": 3}}})
    found = [group for group in groups(config, Statistics()) for member in group.members if member.name == "http_input"]
    assert [(group.interval_seconds, len(group.members)) for group in found] == [(3, 1)]
    assert not any(member.name == "http_input" for group in groups(Config(), Statistics()) for member in group.members)


def test_a_token_file_that_can_not_serve_is_a_problem_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "edge.yaml"
    token = tmp_path / "token"
    file.write_text(f"collectors:\n  http_input:\n    enabled: true\n    token_file: {token}\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    where = f"({file} line 4)"
    assert str(caught.value) == f"collectors.http_input.token_file {token}: No such file or directory {where}"
    token.write_text("\nx")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert str(caught.value) == f"collectors.http_input.token_file {token}: its first line is empty {where}"


@pytest.mark.parametrize(("listen", "warned"), [("127.0.0.1:1", False), ("0.0.0.0:1", True)])
def test_an_open_door_is_warned_of(listen: str, warned: bool, tmp_path: Path) -> None:  # noqa: FBT001
    values = {
        "outbox": {"path": str(tmp_path / "outbox.db")},
        "collectors": {"http_input": {"enabled": True, "listen": listen}},
    }
    said = [it for it in warnings(Config.of(values)) if "http_input" in it]
    wanted = f"collectors.http_input: whoever reaches {listen} can write readings; set token_file"
    assert said == ([wanted] if warned else [])


def test_the_agent_sends_what_it_was_handed(tmp_path: Path, port: int) -> None:
    environment = {
        "EDGE_AGENT_COLLECTORS__HTTP_INPUT__ENABLED": "true",
        "EDGE_AGENT_COLLECTORS__HTTP_INPUT__LISTEN": f"127.0.0.1:{port}",
        "EDGE_AGENT_SAMPLING__INTERVAL_SECONDS": "0.05",
        "EDGE_AGENT_OUTBOX__PATH": str(tmp_path / "outbox.db"),
        "EDGE_AGENT_STATUS__LISTEN": f"127.0.0.1:{free_port()}",
        "PATH": "/bin",
    }
    agent = subprocess.Popen([sys.executable, "-m", "edge_agent.cli", "run", "--config", "/dev/null"], env=environment)
    try:

        def is_taken() -> bool:
            try:
                return posted(port, b'{"boiler_temperature_celsius": 61.5}')[0] == 204
            except ConnectionRefusedError:
                return False

        until(is_taken, 20, "the agent to listen")
        status_port = int(environment["EDGE_AGENT_STATUS__LISTEN"].rpartition(":")[2])

        def told() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", status_port, timeout=20)
            connection.request("GET", "/metrics")
            with connection.getresponse() as response:
                text = response.read().decode()
            connection.close()
            return text

        until(lambda: "boiler_temperature_celsius 61.5" in told(), 20, "the value to be told")
    finally:
        agent.terminate()
        assert agent.wait(20) == 0


def test_names_that_change_all_the_time_do_not_pile_up() -> None:
    inbox = Inbox(max_series=10)
    for tick in range(FORGOTTEN_AFTER_TICKS):
        inbox.put(({f"a{tick}_{number}": 1.0 for number in range(10)}, []))
        assert len(inbox.take()) <= 20
