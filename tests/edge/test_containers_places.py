"""Which control groups are containers."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collectors.containers.places import Place, find, identify

ID = "0123456789abcdef" * 4
POD = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
POD_IN_A_SLICE = POD.replace("-", "_")
STATIC_POD = "0123456789abcdef0123456789abcdef"
BURSTABLE = "/kubepods.slice/kubepods-burstable.slice"
USER_SERVICE = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/docker/{ID}", Place("", id=ID)),
        (f"/system.slice/docker-{ID}.scope", Place("", id=ID)),
        (f"{USER_SERVICE}/user.slice/docker-{ID}.scope", Place("", id=ID, user="1000")),
        (f"/machine.slice/libpod-{ID}.scope", Place("", id=ID)),
        (f"/machine.slice/machine-libpod_pod_{ID}.slice/libpod-{ID}.scope", Place("", id=ID)),
        (f"/libpod_parent/libpod-{ID}", Place("", id=ID)),
        (f"{USER_SERVICE}/user.slice/libpod-{ID}.scope", Place("", id=ID, user="1000")),
        (f"{USER_SERVICE}/app.slice/web.service/libpod-payload-{ID}", Place("", id=ID, user="1000")),
        (f"/system.slice/nerdctl-{ID}.scope", Place("", id=ID)),
        (f"/default/{ID}", Place("", id=ID)),
        (f"/kubepods/pod{POD}/{ID}", Place("", id=ID, pod_uid=POD)),
        (f"/kubepods/burstable/pod{POD}/crio-{ID}", Place("", id=ID, pod_uid=POD)),
        (f"/kubepods/besteffort/pod{STATIC_POD}/{ID}", Place("", id=ID, pod_uid=STATIC_POD)),
        (
            f"{BURSTABLE}/kubepods-burstable-pod{POD_IN_A_SLICE}.slice/cri-containerd-{ID}.scope",
            Place("", id=ID, pod_uid=POD),
        ),
        (
            f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{STATIC_POD}.slice/crio-{ID}.scope",
            Place("", id=ID, pod_uid=STATIC_POD),
        ),
        (
            f"/system.slice/containerd.service/kubepods-burstable-pod{POD_IN_A_SLICE}.slice:cri-containerd:{ID}",
            Place("", id=ID, pod_uid=POD),
        ),
        (f"/system.slice/docker.service/system.slice:docker:{ID}", Place("", id=ID)),
        ("/lxc.payload.web", Place("", name="web")),
        ("/lxc/web", Place("", name="web")),
        ("/lxc.payload/web", Place("", name="web")),
        (f"{USER_SERVICE}/app.slice/lxc.payload.web", Place("", name="web", user="1000")),
        ("/machine.slice/systemd-nspawn@web.service", Place("", name="web")),
        ("/machine.slice/systemd-nspawn@my\\x2dweb.service", Place("", name="my-web")),
        ("/machine.slice/machine-my\\x2dweb.scope", Place("", name="my-web")),
        ("/machine.slice/web.scope", Place("", name="web")),
        ("/machine.slice/machine-lxc\\x2d4711\\x2dweb.scope", Place("", name="web")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_container_is_known_by_its_path(path: str, expected: Place) -> None:
    found = identify(path)
    assert found is not None
    assert found.path == path
    assert (found.id, found.name, found.pod_uid, found.user) == (
        expected.id,
        expected.name,
        expected.pod_uid,
        expected.user,
    )


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docker",
        "/init.scope",
        "/system.slice/docker.service",
        f"/system.slice/docker-{ID[:-1]}.scope",
        f"/system.slice/docker-{ID}0.scope",
        f"/system.slice/docker-{ID.upper()}.scope",
        f"/system.slice/var-lib-docker-containers-{ID}-mounts-shm.mount",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/kubepods.slice/kubepods-pod{POD_IN_A_SLICE}.slice/crio-conmon-{ID}.scope",
        f"/kubepods.slice/kubepods-pod{POD_IN_A_SLICE}.slice",
        f"/kubepods/burstable/pod{POD}",
        "/lxc",
        "/lxc.monitor.web",
        "/machine.slice/machine-qemu\\x2d1\\x2ddesktop.scope",
        "/machine.slice/qemu\\x2d1\\x2ddesktop.scope",
        "/user.slice/user-1000.slice/session-3.scope",
        "/system.slice/run-r0123456789abcdef0123456789abcdef.scope",
    ],
)
def test_another_group_is_no_container(path: str) -> None:
    assert identify(path) is None


@given(st.text().map(lambda text: f"/{text}"))
def test_any_name_of_a_group_is_one_or_the_other(path: str) -> None:
    found = identify(path)
    assert found is None or found.id or found.name


def test_what_runs_in_a_container_is_part_of_it(tmp_path: Path) -> None:
    inside = tmp_path / f"docker/{ID}"
    (inside / "system.slice" / f"docker-{ID[::-1]}.scope").mkdir(parents=True)
    (tmp_path / "lxc.payload.web" / "init.scope").mkdir(parents=True)
    (tmp_path / "system.slice" / "cron.service").mkdir(parents=True)
    assert sorted(place.path for place in find(str(tmp_path))) == [f"/docker/{ID}", "/lxc.payload.web"]


def test_containers_of_podman_are_where_their_limits_are(tmp_path: Path) -> None:
    (tmp_path / f"machine.slice/libpod-{ID}.scope/container").mkdir(parents=True)
    (tmp_path / f"system.slice/docker-{ID}.scope/container").mkdir(parents=True)
    assert sorted(place.path for place in find(str(tmp_path))) == [
        f"/machine.slice/libpod-{ID}.scope/container",
        f"/system.slice/docker-{ID}.scope",
    ]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "system.slice").mkdir()
    (tmp_path / "system.slice" / "up").symlink_to(tmp_path)
    (tmp_path / ID).symlink_to(tmp_path)
    assert list(find(str(tmp_path))) == []


def test_a_hierarchy_that_is_not_there_has_no_containers(tmp_path: Path) -> None:
    (tmp_path / "docker" / ID).mkdir(parents=True)
    places = find(str(tmp_path))
    shutil.rmtree(tmp_path)
    assert list(places) == []
