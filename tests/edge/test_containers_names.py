"""When containers are asked for their names, and what is known meanwhile."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from harness.wait import until

from edge_agent.collectors.containers import pod_logs
from edge_agent.collectors.containers.description import Description
from edge_agent.collectors.containers.names import Names

WEB, DB = Description("web"), Description("db")


class Engine:
    """Tells what the test wants it to, when the test lets it."""

    def __init__(self) -> None:
        self.told: Mapping[str, Description] = {}
        self.asked = 0
        self.answered = 0
        self.answering = threading.Event()
        self.answering.set()
        self.error: Exception | None = None
        self.now = 1000.0

    def ask(self) -> Mapping[str, Description]:
        self.asked += 1
        told = dict(self.told)
        self.answering.wait(30)
        self.answered += 1
        if self.error is not None:
            raise self.error
        return told

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.answering.set()


@pytest.fixture
def names(engine: Engine) -> Iterator[Names]:
    names = Names(engine.ask, monotonic=engine.monotonic, patience_seconds=30)
    yield names
    names.close()


def test_names_are_asked_for_once(names: Names, engine: Engine) -> None:
    engine.told = {"1": WEB, "2": DB}
    for _ in range(3):
        assert names.of(["1", "2"]) == {"1": WEB, "2": DB}
        engine.now += 1000
    assert engine.asked == 1


def test_nobody_is_asked_on_a_host_without_containers(names: Names, engine: Engine) -> None:
    assert names.of([]) == {}
    assert engine.asked == 0


def test_a_new_container_is_asked_for_at_once(names: Names, engine: Engine) -> None:
    engine.told = {"1": WEB}
    names.of(["1"])
    engine.told = {"2": WEB}
    assert names.of(["2"]) == {"2": WEB}
    assert engine.asked == 2


def test_what_nobody_names_at_the_first_look_has_no_name(names: Names, engine: Engine) -> None:
    engine.told = {"1": WEB}
    assert names.of(["1", "2"]) == {"1": WEB, "2": None}


def test_a_new_container_may_get_its_name_until_the_second_look(names: Names, engine: Engine) -> None:
    names.of(["1"])
    assert names.of(["1", "2"]) == {"1": None}
    engine.told = {"2": WEB}
    assert names.of(["1", "2"]) == {"1": None, "2": WEB}


def test_a_new_container_that_nobody_names_has_no_name_from_the_second_look_on(names: Names) -> None:
    names.of(["1"])
    assert names.of(["1", "2"]) == {"1": None}
    assert names.of(["1", "2"]) == {"1": None, "2": None}


def test_for_the_nameless_everyone_is_asked_again_now_and_then(names: Names, engine: Engine) -> None:
    for _ in range(30):
        names.of(["1"])
        engine.now += 5
    assert engine.asked == 4  # at the first two looks, and 60 and 120 s later
    engine.told = {"1": WEB}
    engine.now += 60
    assert names.of(["1"]) == {"1": WEB}


def test_an_engine_that_hangs_holds_up_one_look_for_a_moment_and_its_answer_counts_later(
    engine: Engine,
) -> None:
    names = Names(engine.ask, monotonic=engine.monotonic, patience_seconds=0.01)
    engine.told = {"1": WEB}
    engine.answering.clear()
    assert names.of(["1"]) == {}  # not nameless yet: it was asked for and may be told
    assert names.of(["1"]) == {"1": None}
    assert engine.asked == 1
    engine.answering.set()
    until(lambda: engine.answered, 5, "the answer")
    until(lambda: names.of(["1"]) == {"1": WEB}, 5, "the name")
    names.close()


def test_a_container_that_has_gone_is_forgotten(names: Names, engine: Engine) -> None:
    engine.told = {"1": WEB}
    names.of(["1"])
    assert names.of([]) == {}
    engine.told = {}
    names.of(["1"])
    assert names.of(["1"]) == {"1": None}


def test_what_should_not_happen_is_not_hidden(names: Names, engine: Engine) -> None:
    engine.error = ZeroDivisionError("a mistake of ours")
    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        names.of(["1"])
    engine.error = None
    engine.told = {"1": WEB}
    assert names.of(["1"]) == {"1": WEB}


def test_logs_of_kubernetes_tell_pod_namespace_and_container(tmp_path: Path) -> None:
    web, db = "ab" * 32, "cd" * 32
    (tmp_path / f"web-5d9c_shop_front-end-{web}.log").touch()
    (tmp_path / f"db-0_shop_db-{db}.log").symlink_to("/nowhere")
    for other in ("readme.txt", f"web_{web}.log", "web_shop_web-0123.log", f"web_shop_web-{web}.log.gz"):
        (tmp_path / other).touch()
    assert pod_logs.read(tmp_path) == {
        web: Description("front-end", namespace="shop", pod="web-5d9c"),
        db: Description("db", namespace="shop", pod="db-0"),
    }
    assert pod_logs.read(tmp_path / "nothing") == {}
