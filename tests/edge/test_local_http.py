import contextlib
import gzip
import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus

import pytest
from harness.ports import free_port
from harness.wait import until

from edge_agent.address import Address, is_loopback
from edge_agent.errors import ConfigError
from edge_agent.local_http import MAX_HEAD_BYTES, Answer, Bounds, LocalServer, Request, Response

HERE = Address("127.0.0.1", 0)
BOUNDS = Bounds(body_bytes=1_000)


def echo(request: Request) -> Response:
    said = f"{request.method} {request.path} {request.query} {request.body!r}"
    return Response(HTTPStatus.OK, said, headers={"X-Own": "1"})


@contextmanager
def serving(answer: Answer = echo, bounds: Bounds = BOUNDS, listen: Address = HERE) -> Iterator[Address]:
    server = LocalServer("status.listen", listen, answer, bounds)
    server.start()
    try:
        yield server.address
    finally:
        server.close()


def asked(
    address: Address,
    method: str = "GET",
    path: str = "/",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*address, timeout=20)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def said(address: Address, sent: bytes) -> bytes:
    """All that comes back for these bytes."""
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(sent)
        received = b""
        while piece := client.recv(65_536):
            received += piece
        return received


def test_a_request_is_answered_by_the_function() -> None:
    with serving() as address:
        assert asked(address, path="/a?b=c&b=d&e=") == (200, "GET /a {'b': 'd', 'e': ''} b''")
        assert asked(address, "POST", "/a", b"xyz") == (200, "POST /a {} b'xyz'")
        assert asked(address, "HEAD") == (200, "")


def test_answers_say_what_they_are_and_tell_nothing_else() -> None:
    with serving() as address:
        head, _, body = said(address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    del fields["Date"]
    assert lines[0] == "HTTP/1.1 200 OK"
    assert fields == {
        "Server": "edge-agent",
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Own": "1",
    }


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "BREW"])
def test_other_methods_are_refused(method: str) -> None:
    with serving() as address:
        assert asked(address, method) == (501, f"Unsupported method ('{method}')\n")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]", "10.0.0.1"])
def test_on_loopback_a_request_for_another_host_is_refused(host: str) -> None:
    with serving() as address:
        status, why = asked(address, headers={"Host": host})
    assert (status, why) == (403, "the Host header must name this machine (localhost, 127.0.0.1)\n")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9273", "127.1.2.3", "[::1]:80", "[::1]"])
def test_on_loopback_a_request_for_this_machine_is_answered(host: str) -> None:
    with serving() as address:
        assert asked(address, headers={"Host": host})[0] == 200


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: a\r\n\r\n"])
def test_on_loopback_the_host_must_be_said_and_once(sent: bytes) -> None:
    with serving() as address:
        assert b" 403 " in said(address, sent).split(b"\r\n")[0]


def test_elsewhere_any_host_name_may_be_ours() -> None:
    with serving(listen=Address("0.0.0.0", 0)) as address:  # noqa: S104 - that is the case
        assert asked(Address("127.0.0.1", address.port), headers={"Host": "pump-1.plant"})[0] == 200


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (b"Content-Length: 1001", b"x" * 1_001, 413),
        (b"Content-Length: 99999999999999999", b"", 413),
        (b"Content-Length: x", b"", 400),
        (b"Content-Length: -1", b"", 400),
        (b"Content-Length: 9" + b"9" * 30, b"", 400),
        (b"Transfer-Encoding: chunked", b"1\r\nx\r\n0\r\n\r\n", 411),
        (b"X: y", b"", 411),
        (b"Content-Length: 3\r\nContent-Encoding: br", b"xyz", 415),
        (b"Content-Length: 3\r\nContent-Encoding: gzip", b"xyz", 400),
        (b"X: " + b"y" * MAX_HEAD_BYTES, b"", 431),
        (b"Content-Length: 1000", b"x" * 1_000, 200),
    ],
    ids=lambda it: it[:40] if isinstance(it, bytes) else it,
)
def test_bodies_that_are_not_taken_are_answered(head: bytes, body: bytes, status: int) -> None:
    with serving() as address, socket.create_connection(address, timeout=20) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n" + body)
        client.shutdown(socket.SHUT_WR)
        answer = client.makefile("rb").readline()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


def test_who_sends_too_much_is_heard_out_so_that_it_sees_the_answer() -> None:
    with serving() as address, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        client.connect(address)
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n")
        client.sendall(b"x" * 200_000)
        assert b"a body may have 1000 bytes, this one has 200000" in client.makefile("rb").read()


def test_a_body_that_ends_early_is_told() -> None:
    with serving() as address, socket.create_connection(address, timeout=20) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")
        client.shutdown(socket.SHUT_WR)
        assert b"the body ended after 3 of 10 bytes" in client.makefile("rb").read()


def test_packed_bodies_are_unpacked_within_the_bound() -> None:
    packed = {"Content-Encoding": "gzip"}
    with serving() as address:
        assert asked(address, "POST", "/", gzip.compress(b"x" * 1_000), packed)[1].endswith(repr(b"x" * 1_000))
        assert asked(address, "POST", "/", gzip.compress(b"x" * 1_001), packed)[0] == 413
        assert asked(address, "POST", "/", gzip.compress(bytes(900_000)), packed)[0] == 413
        assert asked(address, "POST", "/", gzip.compress(b"x" * 100)[:-5], packed)[0] == 400


def test_a_head_that_does_not_end_is_not_read_on() -> None:
    with serving() as address, socket.create_connection(address, timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError):  # noqa: PT011, PT012 - reset or broken pipe, as it happens
            for _ in range(100_000):
                client.sendall(b"X: " + b"y" * 1_000 + b"\r\n")


def test_an_error_of_the_program_is_an_answer_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request) -> Response:
        raise RuntimeError(request.path)

    with serving(fail) as address:
        status, text = asked(address, path="/x")
        assert asked(address)[0] == 500
    assert status == 500
    assert "RuntimeError" not in text
    assert "an error of this program while answering /x" in caplog.text


@pytest.mark.parametrize("dripping", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_client_that_drips_is_cut_off_however_often_it_sends(dripping: bytes) -> None:
    with serving(bounds=replace(BOUNDS, deadline_seconds=0.3)) as address, socket.create_connection(address) as client:
        client.sendall(dripping)
        client.settimeout(0.02)

        def is_cut_off() -> bool:
            try:
                client.sendall(b"y")
                return client.recv(1_000) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        until(is_cut_off, 10, "the server to end the connection")


def test_a_client_that_does_not_read_is_cut_off() -> None:
    def much(_request: Request) -> Response:
        return Response(HTTPStatus.OK, "x" * 10_000_000)

    with serving(much, replace(BOUNDS, connections=1, deadline_seconds=1)) as address, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(address)
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: said(address, b"")[9:12] == b"503", 10, "it to be busy")
        until(lambda: said(address, b"GET /x HTTP/1.1\r\n\r\n")[9:12] == b"403", 10, "room for another")


def test_more_clients_than_it_can_serve_are_turned_away_and_later_served() -> None:
    let_go = threading.Event()

    def slowly(_request: Request) -> Response:
        let_go.wait(20)
        return Response(HTTPStatus.OK, "done")

    with serving(slowly, replace(BOUNDS, connections=2)) as address:
        waiting = [socket.create_connection(address, timeout=20) for _ in range(2)]
        for client in waiting:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: said(address, b"")[9:12] == b"503", 10, "it to be busy")
        let_go.set()
        for client in waiting:
            assert client.makefile("rb").read().endswith(b"done")
            client.close()
        until(lambda: asked(address)[0] == 200, 10, "room for another")


def test_many_clients_in_turn_are_all_served() -> None:
    with serving() as address:
        for _ in range(50):
            assert asked(address)[0] == 200
        assert threading.active_count() < 20


def test_a_taken_port_is_a_problem_of_the_configuration() -> None:
    with serving() as address, pytest.raises(ConfigError) as caught:
        LocalServer("status.listen", address, echo)
    assert str(caught.value) == (f"status.listen {address}: Address already in use; choose another address")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "a" * 70 + ".example"])
def test_an_address_of_another_machine_is_a_problem_of_the_configuration(host: str) -> None:
    with pytest.raises(ConfigError, match=f"^status.listen {host}:9273: "):
        LocalServer("status.listen", Address(host, 9_273), echo)


def test_closing_ends_it_also_with_a_client_that_hangs() -> None:
    port = free_port()
    with serving(bounds=replace(BOUNDS, connections=1), listen=Address("127.0.0.1", port)) as address:
        hanging = socket.create_connection(address, timeout=20)
        hanging.sendall(b"GET /")
        until(lambda: said(address, b"")[9:12] == b"503", 10, "it to be busy")
        began = time.monotonic()
    with hanging, contextlib.suppress(ConnectionResetError):
        assert hanging.recv(10) == b""
    assert time.monotonic() - began < 5
    with serving(listen=Address("127.0.0.1", port)) as address:
        assert asked(address)[0] == 200


def test_a_server_that_was_never_started_can_be_closed() -> None:
    LocalServer("status.listen", HERE, echo).close()


def test_it_says_nothing_of_requests(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), serving() as address:
        asked(address)
        said(address, b"rubbish\r\n\r\n")
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9273", Address("127.0.0.1", 9_273)),
        ("[::1]:80", Address("::1", 80)),
        ("name:0", Address("name", 0)),
        ("::1:80", None),
        ("[::1]", None),
        ("name", None),
        (":80", None),
        ("a:65536", None),
        ("a:-1", None),
        ("a:١", None),  # noqa: RUF001 - a digit that is none here
        ("a:9999999999999999999", None),
        ("http://a:80", None),
        ("a b:80", None),
        ("", None),
    ],
)
def test_addresses(text: str, expected: Address | None) -> None:
    parsed = Address.parse(text)
    assert parsed == expected
    assert parsed is None or str(parsed) == text


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", False), ("pump", False), ("", False)],  # noqa: S104
)
def test_loopback(host: str, expected: bool) -> None:  # noqa: FBT001
    assert is_loopback(host) is expected
