"""``/v2/holdfast/faults`` and ``/v2/holdfast/replicas``, as those know them who test and those who are on call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from serving.channel.faults import Fault
from tests.fakes import FakeClock

if TYPE_CHECKING:
    from tests.unit.serving.ingress.conftest import Response, Site

FAULTS = "/v2/holdfast/faults"
FAIL = {"fail_rate": 0.5, "seed": 3}


@pytest.fixture
def site(clock: FakeClock, tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    from tests.unit.serving.ingress.conftest import Site

    return Site(clock, tmp_path, faults=getattr(request, "param", True))


async def order(site: Site, method: str = "POST", **body: Any) -> Response:
    return await site.ask(method, FAULTS, json.dumps(body).encode() if body else b"")


def entry(model: str, version: str, replica: str, *, meant: bool, fault: Any = None) -> dict[str, Any]:
    known = {"fault": fault, "left_s": None}
    return {"model": model, "version": version, "replica": replica, "meant": meant, "answered": True, **known}


async def begin(site: Site) -> None:
    await site.start()
    site.links["m@v1"].replicas = 2


async def test_one_replica_of_the_stable_version_is_the_first_by_id(clock: FakeClock, site: Site) -> None:
    await begin(site)
    response = await order(site, model="m", replica="one", fault=FAIL)
    assert (response.status, response.json) == (
        200,
        [entry("m", "v1", "r1", meant=True, fault=FAIL), entry("m", "v1", "r2", meant=False)],
    )
    assert site.links["m@v1"].faults == {"r1": Fault(fail_rate=0.5, seed=3)}
    assert site.links["m@v2"].faults == {}
    await site.gateway.close()


async def test_all_replicas_of_a_named_version_or_one_by_its_id(clock: FakeClock, site: Site) -> None:
    await begin(site)
    site.links["m@v2"].replicas = 2
    await order(site, model="m", version="v2", fault=FAIL)
    await order(site, model="m", replica="r2", fault={"exit": True})
    assert set(site.links["m@v2"].faults) == {"r1", "r2"}
    assert site.links["m@v1"].faults == {"r2": Fault(exit=True)}
    await site.gateway.close()


async def test_what_is_in_force_is_told_for_every_version(clock: FakeClock, site: Site) -> None:
    await begin(site)
    await order(site, model="m", replica="r2", fault=FAIL)
    response = await site.ask("GET", FAULTS)
    assert response.json == [
        entry("m", "v1", "r1", meant=False),
        entry("m", "v1", "r2", meant=False, fault=FAIL),
        entry("m", "v2", "r1", meant=False),
        entry("n", "v1", "r1", meant=False),
    ]
    await site.gateway.close()


async def test_faults_are_ended_for_one_replica_or_for_everyone(clock: FakeClock, site: Site) -> None:
    await begin(site)
    for model in ("m", "n"):
        await order(site, model=model, fault=FAIL)
    response = await order(site, "DELETE", model="m", replica="one")
    assert response.json == [
        entry("m", "v1", "r1", meant=True),
        entry("m", "v1", "r2", meant=False, fault=FAIL),
    ]
    response = await order(site, "DELETE")
    assert len(response.json) == 4
    assert all(each["meant"] and each["fault"] is None for each in response.json)
    await site.gateway.close()


async def test_a_replica_that_does_not_answer_is_named(clock: FakeClock, site: Site) -> None:
    await begin(site)
    site.links["m@v1"].mute.add("r1")
    first, second = (await order(site, model="m", fault=FAIL)).json
    assert first == entry("m", "v1", "r1", meant=True) | {"answered": False}
    assert second["answered"]
    await site.gateway.close()


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "body"),
        ({"model": "m"}, 400, "missing required field `fault`"),
        ({"fault": FAIL}, 400, "missing required field `model`"),
        ({"model": "m", "fault": FAIL, "replicas": "one"}, 400, "unknown field `replicas`"),
        ({"model": "m", "fault": FAIL | {"rate": 1}}, 400, "fault: unknown field `rate`"),
        ({"model": "m", "fault": {"fail_rate": 1.5}}, 400, "fault.fail_rate: Expected `float` <= 1.0"),
        ({"model": "m", "fault": {}}, 400, "fault: it names nothing"),
        ({"model": 1, "fault": FAIL}, 400, "model: Expected `str`"),
        ({"model": "x", "fault": FAIL}, 404, "model 'x'"),
        ({"model": "m", "version": "v9", "fault": FAIL}, 404, "version 'v9'"),
        ({"model": "m", "replica": "r7", "fault": FAIL}, 400, "replica: m@v1 has no replica 'r7', only r1, r2"),
        ({"model": "n", "fault": FAIL}, 400, "replica: n@v1 has no live replica"),
    ],
)
async def test_what_can_not_be_commanded_is_refused_by_name(
    clock: FakeClock, site: Site, body: dict[str, Any], status: int, text: str
) -> None:
    await begin(site)
    site.links["n@v1"].replicas = 0
    response = await order(site, **body)
    assert (response.status, text in response.json["error"]) == (status, True), response.json
    assert not any(link.faults for link in site.links.values())
    await site.gateway.close()


async def test_replicas_are_pardoned_only_of_a_named_model(clock: FakeClock, site: Site) -> None:
    await begin(site)
    for body in ({"replica": "one"}, {"version": "v1"}, {"model": "m", "fault": FAIL}):
        assert (await order(site, "DELETE", **body)).status == 400
    await site.gateway.close()


@pytest.mark.parametrize("site", [False], indirect=True)
async def test_without_the_setting_there_are_no_faults_but_the_replicas_are_listed(
    clock: FakeClock, site: Site
) -> None:
    await begin(site)
    for method in ("GET", "POST", "DELETE"):
        response = await order(site, method, model="m", fault=FAIL)
        assert (response.status, "setting `faults`" in response.json["error"]) == (404, True)
    assert (await site.ask("PUT", FAULTS)).headers["allow"] == "GET, HEAD, POST, DELETE"
    response = await site.ask("GET", "/v2/holdfast/replicas")
    assert response.json[0] == {
        "model": "m",
        "version": "v1",
        "replicas": [
            {"id": "r1", "pid": 4001, "node": "a-node", "ip": "10.0.0.2"},
            {"id": "r2", "pid": 4002, "node": "a-node", "ip": "10.0.0.2"},
        ],
    }
    assert [(each["model"], each["version"]) for each in response.json] == [("m", "v1"), ("m", "v2"), ("n", "v1")]
    await site.gateway.close()
