"""Asking engines over real Unix sockets, whatever they answer."""

import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from harness.engine import Engine
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collectors.containers import engines
from edge_agent.collectors.containers.description import Description
from edge_agent.collectors.containers.sources import Sources
from edge_agent.errors import CollectorError

ID = "ab" * 32


@pytest.fixture
def root() -> Iterator[Path]:
    """Not below tmp_path, which may be too long for the name of a socket."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture
def engine(root: Path) -> Iterator[Engine]:
    with Engine(root / "run" / "docker.sock", [container(names=["/web"])]) as engine:
        yield engine


def container(*, names: Any, labels: Any = None, image: Any = "shop/web:1.4") -> dict[str, Any]:
    return {"Id": ID, "Names": names, "Image": image, "Labels": labels, "State": "running"}


def described(*, names: Any = ("/web",), labels: Any = None, image: Any = "shop/web:1.4") -> Description | None:
    listed = [container(names=list(names) if isinstance(names, tuple) else names, labels=labels, image=image)]
    return engines.parse(json.dumps(listed).encode()).get(ID)


def test_an_engine_tells_its_containers(engine: Engine) -> None:
    assert engines.ask(str(engine.socket)) == {ID: Description("web", "shop/web:1.4")}
    assert engine.asked == ["/containers/json?all=true"]


def test_a_container_has_its_own_name_and_not_that_of_a_link() -> None:
    assert described(names=("/shop/db", "/db")) == Description("db", "shop/web:1.4")


def test_compose_tells_project_and_service() -> None:
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    assert described(names=("/shop-web-1",), labels=labels) == Description(
        "shop-web-1", "shop/web:1.4", project="shop", service="web"
    )


def test_what_compose_runs_once_has_a_name_that_does_not_change() -> None:
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    once = described(names=("/shop-web-run-3fd1a7",), labels={**labels, "com.docker.compose.oneoff": "True"})
    assert once == Description("shop-web-run", "shop/web:1.4", project="shop", service="web")


@pytest.mark.parametrize(
    ("task", "name"), [("shop_web.2.k3j9x7", "shop_web.2"), ("shop_agent.node7.k3j9x7", "shop_agent.node7")]
)
def test_swarm_tells_stack_service_and_slot(task: str, name: str) -> None:
    labels = {
        "com.docker.swarm.task.name": task,
        "com.docker.swarm.service.name": "shop_web",
        "com.docker.stack.namespace": "shop",
    }
    assert described(names=(f"/{task}",), labels=labels) == Description(
        name, "shop/web:1.4", project="shop", service="shop_web"
    )


def test_kubernetes_tells_namespace_and_pod() -> None:
    labels = {
        "io.kubernetes.pod.uid": "0f1e2d3c",
        "io.kubernetes.pod.name": "web-5d9c",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.container.name": "front",
        "io.kubernetes.docker.type": "container",
    }
    name = "/k8s_front_web-5d9c_shop_0f1e2d3c_3"
    assert described(names=(name,), labels=labels) == Description(
        "front", "shop/web:1.4", namespace="shop", pod="web-5d9c"
    )
    sandbox = described(names=(name,), labels={**labels, "io.kubernetes.docker.type": "podsandbox"})
    assert sandbox is not None
    assert sandbox.is_sandbox


@pytest.mark.parametrize("names", [None, "web", [], [7], ["/"], ["/other/web"]], ids=repr)
def test_a_container_without_a_usable_name_is_left_out(names: Any) -> None:
    assert described(names=names) is None


def test_what_is_not_text_is_no_text() -> None:
    assert described(image=["x"], labels=[]) == Description("web")
    labels: dict[str, Any] = {"com.docker.compose.project": 7, "com.docker.compose.service": None}
    assert described(labels=labels) == Description("web", "shop/web:1.4")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"message": "no"}', "not a list"),
        (b"7", "not a list"),
    ],
)
def test_an_answer_that_is_not_a_list_of_containers_is_refused(answer: bytes, says: str) -> None:
    with pytest.raises(CollectorError, match=says):
        engines.parse(answer)


_WORDS = (
    *("Id", "Names", "Image", "Labels", "com.docker.compose.project", "com.docker.compose.oneoff"),
    *("com.docker.swarm.task.name", "io.kubernetes.pod.uid", "io.kubernetes.container.name"),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_WORDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.lists(_JSON, max_size=4))
def test_any_list_is_read(listed: list[Any]) -> None:
    for container_id, found in engines.parse(json.dumps(listed).encode()).items():
        assert isinstance(container_id, str)
        assert all(isinstance(text, str) for text in (found.name, found.image, found.project, found.pod))


def test_an_engine_that_is_not_there_or_refuses_is_told_apart(root: Path, engine: Engine) -> None:
    with pytest.raises(CollectorError, match="No such file"):
        engines.ask(str(root / "nothing.sock"))
    abandoned = root / "abandoned.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(abandoned))
    with pytest.raises(CollectorError, match="refused"):
        engines.ask(str(abandoned))
    with pytest.raises(CollectorError, match="too long"):
        engines.ask(str(root / ("x" * 200)))
    engine.status = HTTPStatus.FORBIDDEN
    with pytest.raises(CollectorError, match="status 403"):
        engines.ask(str(engine.socket))


def test_a_socket_that_is_not_ours_is_refused(engine: Engine) -> None:
    engine.socket.chmod(0)
    with without_root(), pytest.raises(CollectorError, match="Permission denied"):
        engines.ask(str(engine.socket))


@contextmanager
def without_root() -> Iterator[None]:
    """Root may use every socket."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_an_engine_that_hangs_is_given_up(engine: Engine) -> None:
    engine.answering.clear()
    with pytest.raises(CollectorError, match="timed out"):
        engines.ask(str(engine.socket), timeout_seconds=0.1)


def test_an_answer_without_end_is_given_up(root: Path) -> None:
    with (
        talking(root / "x.sock", b"HTTP/1.1 200 OK\r\n\r\n", repeated=b" " * 1_000_000),
        pytest.raises(CollectorError, match="more than"),
    ):
        engines.ask(str(root / "x.sock"))


def test_an_answer_that_trickles_is_given_up(root: Path) -> None:
    began = time.monotonic()
    with (
        talking(root / "x.sock", b"HTTP/1.1 200 OK\r\n\r\n", repeated=b" ", pause_seconds=0.02),
        pytest.raises(CollectorError, match="timed out"),
    ):
        engines.ask(str(root / "x.sock"), timeout_seconds=0.2)
    assert time.monotonic() - began < 5


def test_what_does_not_speak_http_is_refused(root: Path) -> None:
    with talking(root / "x.sock", b"SSH-2.0-OpenSSH_10.0\r\n"), pytest.raises(CollectorError, match="HTTP"):
        engines.ask(str(root / "x.sock"))


class talking:  # noqa: N801 - used as a statement
    """A socket that says `greeting` to one client, and then `repeated` until the client has gone."""

    def __init__(self, path: Path, greeting: bytes, *, repeated: bytes = b"", pause_seconds: float = 0.0) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._said = greeting, repeated
        self._pause_seconds = pause_seconds
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._talk)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._thread.join()
        self._listener.close()

    def _talk(self) -> None:
        client, _ = self._listener.accept()
        greeting, repeated = self._said
        with client:
            try:
                client.recv(4096)
                client.sendall(greeting)
                while repeated and not self._gone.wait(self._pause_seconds):
                    client.sendall(repeated)
            except ConnectionError:
                return


def test_all_engines_are_asked_and_one_that_fails_costs_only_its_own(
    root: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge_agent")
    sources = Sources(root, ("/run/docker.sock", "/run/user/*/podman/podman.sock", "/run/absent.sock"))
    other = {**container(names=["/db"]), "Id": "cd" * 32}
    with Engine(root / "run/user/1000/podman/podman.sock", [other]):
        assert sources.ask() == {ID: Description("web", "shop/web:1.4"), "cd" * 32: Description("db", "shop/web:1.4")}
        assert not caplog.records
        engine.answer = b"no"
        for _ in range(3):
            assert sources.ask() == {"cd" * 32: Description("db", "shop/web:1.4")}
        engine.answer = None
        assert len(sources.ask()) == 2
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"collector containers: {engine.socket} can't be asked for names: it answered with what is not JSON",
        f"collector containers: {engine.socket} answers again",
    ]


def test_an_engine_knows_better_than_the_log_of_kubernetes(root: Path, engine: Engine) -> None:
    logs = root / "var/log/containers"
    logs.mkdir(parents=True)
    (logs / f"pod_ns_name-{ID}.log").touch()
    assert Sources(root, ()).ask() == {ID: Description("name", namespace="ns", pod="pod")}
    assert Sources(root, ("/run/docker.sock",)).ask() == {ID: Description("web", "shop/web:1.4")}
    assert engine.asked
