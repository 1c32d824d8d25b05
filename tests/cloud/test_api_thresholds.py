"""Thresholds, locations and places over HTTP, on real servers."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from harness.api import Source, ok, serving
from harness.postgres import Server, new_database

from cloud_ingest.store.database import connect
from cloud_ingest.store.migrate import migrate

THRESHOLDS = "/api/v1/thresholds"
LOCATIONS = "/api/v1/locations"
NOW_MS = 1_795_000_000_000


@pytest.fixture(scope="module")
def database(database_server: Server) -> Iterator[str]:
    with new_database(database_server) as url:
        migrate(url)
        yield url


@pytest.fixture(scope="module")
def client(database: str) -> Iterator[httpx2.Client]:
    with serving(database) as client:
        yield client


@pytest.fixture
def name() -> str:
    return f"n{uuid4().hex[:10]}"


def threshold(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "metric": "temperature_celsius", "operator": ">", "warning": 80} | changes


def made(response: httpx2.Response) -> Any:
    assert response.status_code == 201, response.text
    return response.json()


def problem(response: httpx2.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()


def epoch(database: str) -> int:
    with connect(database, "test") as connection:
        ((number,),) = connection.execute("select epoch from telemetry.threshold_epoch").fetchall()
    return int(number)


# Thresholds


def test_a_threshold_is_made_read_changed_and_deleted(client: httpx2.Client, database: str, name: str) -> None:
    before = epoch(database)
    response = client.post(THRESHOLDS, json=threshold(name, clear_percent=10, for_seconds=30))
    item = made(response)
    assert (item["name"], item["version"], item["clear_percent"], item["enabled"]) == (name, 1, 10, True)
    assert response.headers["etag"] == '"1"'
    address = response.headers["location"]
    assert address == f"{THRESHOLDS}/{item['id']}"
    assert ok(client, address) == item

    replaced = client.put(address, json=threshold(name, warning=85)).json()
    assert (replaced["version"], replaced["warning"], replaced["clear_percent"]) == (2, 85, None)
    patched = client.patch(address, json={"critical": 95, "selector": {"site": "plant"}}).json()
    assert (patched["version"], patched["warning"], patched["critical"], patched["selector"]["site"]) == (
        3,
        85,
        95,
        "plant",
    )
    taken = client.patch(address, json={"critical": None, "selector": {"site": None}}).json()
    assert (taken["version"], taken["critical"], taken["selector"]["site"]) == (4, None, None)

    assert client.delete(address).status_code == 204
    problem(client.get(address), 404)
    problem(client.delete(address), 404)
    assert epoch(database) == before + 5
    with connect(database, "test") as connection:
        versions = connection.execute(
            "select version, definition ->> 'warning' from telemetry.threshold_version where threshold_id = %s"
            " order by valid_from",
            [item["id"]],
        ).fetchall()
    assert versions == [(1, "80.0"), (2, "85.0"), (3, "85.0"), (4, "85.0"), (5, None)]


def test_the_same_definition_again_is_no_new_version(client: httpx2.Client, database: str, name: str) -> None:
    item = made(client.post(THRESHOLDS, json=threshold(name)))
    before = epoch(database)
    assert client.put(f"{THRESHOLDS}/{item['id']}", json=threshold(name)).json() == item
    assert epoch(database) == before


def test_a_change_of_what_was_changed_meanwhile_is_refused(client: httpx2.Client, name: str) -> None:
    response = client.post(THRESHOLDS, json=threshold(name))
    address, seen = response.headers["location"], response.headers["etag"]
    changed = client.patch(address, json={"warning": 81}, headers={"If-Match": seen})
    assert changed.headers["etag"] == '"2"'
    stale = {"If-Match": seen}
    for answer in (
        client.patch(address, json={"warning": 82}, headers=stale),
        client.put(address, json=threshold(name), headers=stale),
        client.delete(address, headers=stale),
    ):
        assert "is at version 2, not 1" in problem(answer, 412)["detail"]
    problem(client.delete(address, headers={"If-Match": "2"}), 422)
    assert ok(client, address)["warning"] == 81


def test_two_thresholds_do_not_share_a_name(client: httpx2.Client, name: str) -> None:
    made(client.post(THRESHOLDS, json=threshold(name)))
    assert (
        f"there is a threshold {name} already" in problem(client.post(THRESHOLDS, json=threshold(name)), 409)["detail"]
    )
    other = made(client.post(THRESHOLDS, json=threshold(f"{name}-2")))
    problem(client.patch(f"{THRESHOLDS}/{other['id']}", json={"name": name}), 409)


def test_what_is_wrong_is_named(client: httpx2.Client, name: str) -> None:
    for body, field in (
        (threshold(name, warning="hot"), "warning"),
        (threshold(name, selector={"devices": []}), "selector.devices"),
        (threshold(name, levels=1), "levels"),
        (threshold(name, no_data={"after_seconds": -1}), "no_data.after_seconds"),
        (threshold("\x00"), "name"),
        (threshold(name, message="\x00"), "message"),
    ):
        assert [it["field"] for it in problem(client.post(THRESHOLDS, json=body), 422)["errors"]] == [field]
    assert (
        "critical must lie beyond warning"
        in problem(client.post(THRESHOLDS, json=threshold(name, critical=1)), 422)["detail"]
    )
    address = client.post(THRESHOLDS, json=threshold(name)).headers["location"]
    answer = problem(client.patch(address, json={"operator": "=>"}), 422)
    assert answer["errors"][0]["field"] == "operator"
    problem(client.patch(address, json=[1]), 422)
    problem(client.post(THRESHOLDS, content=b"{", headers={"Content-Type": "application/json"}), 422)


def test_what_a_form_of_another_website_can_send_changes_nothing(client: httpx2.Client, name: str) -> None:
    for media_type in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {} if media_type is None else {"Content-Type": media_type}
        body = b'{"name":"' + name.encode() + b'","metric":"a","operator":">","warning":1}'
        problem(client.post(THRESHOLDS, content=body, headers=headers), 422)
    assert all(item["name"] != name for item in ok(client, THRESHOLDS, limit=1_000)["items"])


def test_pages_of_thresholds_hold_each_once(client: httpx2.Client, name: str) -> None:
    names = [f"{name}-{letter}" for letter in "cab"]
    for it in names:
        made(client.post(THRESHOLDS, json=threshold(it)))
    seen, cursor = [], None
    while True:
        page = ok(client, THRESHOLDS, limit=2, **({} if cursor is None else {"cursor": cursor}))
        seen += [item["name"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert [it for it in seen if it.startswith(name)] == sorted(names)
    assert len(seen) == len(set(seen))


def test_it_is_explained_which_threshold_judges_a_series(client: httpx2.Client, database: str, name: str) -> None:
    metric = f"metric_{name}"
    device = Source(database, name, f"site-{name}")
    device.write({NOW_MS: {f'{metric}{{sensor="oil"}}': 1.0}})
    made(client.post(LOCATIONS, json={"path": name, "name": "Factory"}))
    made(client.post(LOCATIONS, json={"path": f"{name}.hall", "name": "Hall"}))
    for suffix, selector in (("all", {}), ("hall", {"location": f"{name}.hall"}), ("pt", {"sensor_type": "pt100"})):
        made(client.post(THRESHOLDS, json=threshold(f"{name}-{suffix}", metric=metric, selector=selector)))

    def winner() -> Any:
        answer = ok(client, f"{THRESHOLDS}/explain", device=name, metric=metric, label_sensor="oil")
        mine = [it for it in answer["thresholds"] if it["wins"]]
        assert len(mine) == 1
        return mine[0]["name"].removeprefix(f"{name}-"), answer["location"], answer["sensor_type"]

    assert winner() == ("all", None, None)
    assert client.put(f"/api/v1/devices/{name}/location", json={"location": f"{name}.hall"}).status_code == 200
    assert winner() == ("hall", f"{name}.hall", None)
    sensor = {"metric": metric, "labels": {"sensor": "oil"}, "location": name, "sensor_type": "pt100"}
    assert client.put(f"/api/v1/devices/{name}/sensors", json=sensor).json() == sensor
    assert winner() == ("pt", name, "pt100")
    assert ok(client, f"/api/v1/devices/{name}/sensors") == {"items": [sensor]}
    client.put(f"/api/v1/devices/{name}/sensors", json={"metric": metric, "labels": {"sensor": "oil"}})
    assert winner() == ("hall", f"{name}.hall", None)
    problem(client.get(f"{THRESHOLDS}/explain", params={"device": "nobody", "metric": metric}), 404)
    problem(client.get(f"{THRESHOLDS}/explain", params={"device": name, "metric": metric, "x": "1"}), 422)


# Locations


def test_a_location_is_made_read_changed_and_deleted(client: httpx2.Client, name: str) -> None:
    response = client.post(LOCATIONS, json={"path": name, "name": "Plant", "time_zone": "Asia/Seoul"})
    assert (made(response)["effective_time_zone"], response.headers["etag"]) == ("Asia/Seoul", '"1"')
    hall = made(
        client.post(LOCATIONS, json={"path": f"{name}.hall", "name": "Hall", "latitude": 37.5, "longitude": 127})
    )
    assert (hall["time_zone"], hall["effective_time_zone"]) == (None, "Asia/Seoul")
    changed = client.patch(f"{LOCATIONS}/{name}.hall", json={"latitude": None, "name": "Hall 1"}).json()
    assert (changed["name"], changed["latitude"], changed["longitude"], changed["version"]) == ("Hall 1", None, 127, 2)
    assert [it["path"] for it in ok(client, LOCATIONS, below=name)["items"]] == [name, f"{name}.hall"]
    problem(client.delete(f"{LOCATIONS}/{name}.hall", headers={"If-Match": '"1"'}), 412)
    assert "are below" in problem(client.delete(f"{LOCATIONS}/{name}"), 409)["detail"]
    assert client.delete(f"{LOCATIONS}/{name}.hall").status_code == 204
    assert client.delete(f"{LOCATIONS}/{name}").status_code == 204
    problem(client.get(f"{LOCATIONS}/{name}"), 404)


def test_a_location_moves_with_all_that_is_below_it(client: httpx2.Client, database: str, name: str) -> None:
    for path in ("a", "a.b", "a.b.c", "x", "x.taken"):
        made(client.post(LOCATIONS, json={"path": f"{name}{path}", "name": path}))
    Source(database, name).write({NOW_MS: {"a": 1.0}})
    client.put(f"/api/v1/devices/{name}/location", json={"location": f"{name}a.b.c"})
    moved = client.patch(f"{LOCATIONS}/{name}a.b", json={"path": f"{name}x.b"})
    assert moved.json()["path"] == f"{name}x.b"
    assert [it["path"] for it in ok(client, LOCATIONS, below=f"{name}x")["items"]] == [
        f"{name}x{it}" for it in ("", ".b", ".b.c", ".taken")
    ]
    assert ok(client, f"/api/v1/devices/{name}/location") == {"location": f"{name}x.b.c"}
    problem(client.patch(f"{LOCATIONS}/{name}x.b", json={"path": f"{name}x.b.c.d"}), 409)
    problem(client.patch(f"{LOCATIONS}/{name}x.b", json={"path": f"{name}x.taken"}), 409)
    problem(client.patch(f"{LOCATIONS}/{name}x.b", json={"path": f"{name}nowhere.b"}), 409)
    assert "devices or sensors" in problem(client.delete(f"{LOCATIONS}/{name}x.b.c"), 409)["detail"]


def test_places_that_make_no_sense_are_refused(client: httpx2.Client, name: str) -> None:
    for body, field in (
        ({"path": "a b", "name": "x"}, "path"),
        ({"path": name, "name": ""}, "name"),
        ({"path": name, "name": "x", "time_zone": "Mars/Olympus"}, "time_zone"),
        ({"path": name, "name": "x", "latitude": 91}, "latitude"),
    ):
        assert problem(client.post(LOCATIONS, json=body), 422)["errors"][0]["field"] == field
    assert (
        f"there is no location {name}"
        in problem(client.post(LOCATIONS, json={"path": f"{name}.b", "name": "x"}), 409)["detail"]
    )
    made(client.post(LOCATIONS, json={"path": name, "name": "x"}))
    problem(client.post(LOCATIONS, json={"path": name, "name": "x"}), 409)
    problem(client.patch(f"{LOCATIONS}/{name}", json={"name": None}), 422)
    problem(client.put(f"/api/v1/devices/{name}/location", json={"location": name}), 404)
    problem(client.put(f"/api/v1/devices/{name}/sensors", json={"metric": "a", "location": name}), 404)
    problem(client.get(f"/api/v1/devices/{name}/sensors"), 404)
    problem(client.get(LOCATIONS, params={"cursor": "WyJhIGIiXQ"}), 422)
