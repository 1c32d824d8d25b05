"""How the series of containers are told apart."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collectors.base import series
from edge_agent.collectors.containers import labels as labelling
from edge_agent.collectors.containers.description import Description
from edge_agent.collectors.containers.labels import Assigned, Labels, told_apart
from edge_agent.collectors.containers.places import Place
from telemetry_contract.series import SeriesKey

ID = "0123456789abcdef" * 4


def named(name: str) -> Labels:
    return (("container", name),)


def given_names(assigned: Mapping[str, Assigned]) -> dict[str, str]:
    return {path: dict(it.given)["container"] for path, it in assigned.items()}


def test_a_container_is_called_by_owner_and_name() -> None:
    place = Place("/docker/x", id=ID)
    assert labelling.of(place, Description("db", "postgres:18")) == (("container", "db"),)
    assert labelling.of(place, Description("shop-web-1", project="shop", service="web")) == (
        ("container", "shop-web-1"),
        ("project", "shop"),
        ("service", "web"),
    )
    assert labelling.of(place, Description("web", namespace="shop", pod="web-5d9c")) == (
        ("container", "web"),
        ("namespace", "shop"),
        ("pod", "web-5d9c"),
    )


def test_the_user_who_runs_it_without_root_is_its_owner_too() -> None:
    assert labelling.of(Place("/x", id=ID, user="1000"), Description("web")) == (("container", "web"), ("user", "1000"))


def test_without_a_name_it_is_called_by_its_short_id() -> None:
    assert labelling.of(Place("/x", id=ID), None) == (("id", "0123456789ab"),)
    assert labelling.of(Place("/x", id=ID, pod_uid="p-1"), None) == (("id", "0123456789ab"), ("pod_uid", "p-1"))
    assert labelling.of(Place("/x", id=ID), Description("", project="shop")) == (("id", "0123456789ab"),)
    assert labelling.of(Place("/lxc/web", name="web"), None) == (("container", "web"),)


def test_names_that_nobody_should_choose_become_labels_that_fit() -> None:
    hostile = Description('a"b\\c\nd\x00é\ud800{}', namespace="n" * 999, pod="p" * 999)
    labels = dict(labelling.of(Place("/x", id=ID, user="9" * 999), hostile))
    assert labels["container"] == "a?b?c?d???{}"
    assert len(labels["pod"]) == 180


@given(st.lists(st.text(min_size=1), min_size=5, max_size=5))
def test_any_names_make_keys_of_the_contract(texts: list[str]) -> None:
    name, image, namespace, pod, user = texts
    place, description = Place("/x", id=ID, user=user), Description(name, image, namespace=namespace, pod=pod)
    longest = [it * 1000 for it in (name, image, namespace, pod)]
    for told in (description, Description(longest[0], longest[1], namespace=longest[2], pod=longest[3])):
        labels = dict(labelling.of(place, told))
        key = series("container_info", image=labelling.fitting(told.image), **labels)
        assert dict(SeriesKey.parse(key).labels) == {**labels, "image": labelling.fitting(told.image)}
        stalled = series("container_pressure_stalled_seconds_total", kind="some", resource="memory", **labels)
        assert dict(SeriesKey.parse(stalled).labels) == {**labels, "kind": "some", "resource": "memory"}


def test_containers_of_one_name_are_numbered_in_the_order_of_their_paths() -> None:
    wanted = {"/system.slice/docker-b": named("web"), "/machine.slice/libpod-a": named("web"), "/x": named("db")}
    assert given_names(told_apart(wanted, {})) == {
        "/machine.slice/libpod-a": "web",
        "/system.slice/docker-b": "web-2",
        "/x": "db",
    }


def test_a_number_never_takes_the_name_of_another_container() -> None:
    wanted = {"/a": named("web"), "/b": named("web"), "/c": named("web-2")}
    assert given_names(told_apart(wanted, {})) == {"/a": "web", "/b": "web-3", "/c": "web-2"}


def test_a_container_keeps_its_number_when_the_first_ends_and_the_next_takes_the_free_name() -> None:
    both = told_apart({"/a": named("web"), "/b": named("web")}, {})
    one = told_apart({"/b": named("web")}, both)
    assert given_names(one) == {"/b": "web-2"}
    assert given_names(told_apart({"/b": named("web"), "/c": named("web")}, one)) == {"/b": "web-2", "/c": "web"}


def test_a_container_whose_name_becomes_known_is_called_by_it() -> None:
    before = told_apart({"/a": (("id", "0123"),)}, {})
    assert given_names(told_apart({"/a": named("web")}, before)) == {"/a": "web"}


def test_nameless_containers_are_numbered_as_well() -> None:
    short = (("id", "0123"),)
    assert {it.given for it in told_apart({"/a": short, "/b": short}, {}).values()} == {short, (("id", "0123-2"),)}


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["web", "web-2", "web-2-2", "db"])), min_size=1
    )
)
def test_labels_differ_and_stay_whatever_comes_and_goes(looks: list[dict[str, str]]) -> None:
    before: dict[str, Assigned] = {}
    for look in looks:
        now = told_apart({path: named(name) for path, name in look.items()}, before)
        assert now.keys() == look.keys()
        assert len(set(given_names(now).values())) == len(now)
        for path, name in look.items():
            assert given_names(now)[path].startswith(name)
            if path in before and before[path].wanted == named(name):
                assert now[path] == before[path]
        before = now
