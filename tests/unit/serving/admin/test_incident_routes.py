"""Incidents over HTTP: pages, one whole, and nobody sees them who may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serving.admin.bodies import LIMIT_DEFAULT, read_wanted
from serving.errors import InvalidRequest
from serving.incidents.store import IncidentStore, Wanted
from tests.fakes import FakeClock
from tests.unit.serving.incidents.test_store import row, scribbled

if TYPE_CHECKING:
    from tests.unit.serving.ingress.conftest import Site

    MakeSite = Callable[..., Site]

PATH = "/v2/holdfast/incidents"
HOST = {"Host": "127.0.0.1:8000"}


@pytest.fixture
def store(tmp_path: Path) -> IncidentStore:
    store = IncidentStore(tmp_path / "incidents", max_bytes=1 << 20, max_number=10)
    store.put_many([row(fault="one"), row(model="n")])
    return store


async def test_they_are_listed_and_shown(clock: FakeClock, site: MakeSite, store: IncidentStore) -> None:
    here = site(incidents=store)
    response = await here.ask("GET", PATH, headers=HOST)
    assert response.status == 200
    assert [line["id"] for line in response.json["incidents"]] == [2, 1]
    assert (response.json["next"], response.json["kept"]) == (None, 2)
    response = await here.ask("GET", f"{PATH}?model=m&limit=1", headers=HOST)
    assert [line["fault"] for line in response.json["incidents"]] == ["one"]
    whole = (await here.ask("GET", f"{PATH}/1", headers=HOST)).json
    assert (whole["id"], whole["inputs"][0]["raw"]) == (1, "AAAAAAAAAAA=")


async def test_one_that_is_not_there_is_404(clock: FakeClock, site: MakeSite, store: IncidentStore) -> None:
    here = site(incidents=store)
    response = await here.ask("GET", f"{PATH}/3", headers=HOST)
    assert (response.status, response.json["error"]) == (404, "there is no incident 3, or not any more")
    for path in ("x", "-1", "1" * 19, ""):
        assert (await here.ask("GET", f"{PATH}/{path}", headers=HOST)).status == 404


async def test_where_none_are_kept_it_says_which_setting_that_is(clock: FakeClock, site: MakeSite) -> None:
    response = await site().ask("GET", PATH, headers=HOST)
    assert response.status == 404
    assert "incidents.enabled" in response.json["error"]


async def test_a_damaged_store_is_503(clock: FakeClock, site: MakeSite, store: IncidentStore) -> None:
    store.close()
    scribbled(store.path)
    for path in (PATH, f"{PATH}/1"):
        response = await site(incidents=store).ask("GET", path, headers=HOST)
        assert (response.status, "not a database" in response.json["error"]) == (503, True)


async def test_with_a_token_only_who_has_it_sees_them(clock: FakeClock, site: MakeSite, store: IncidentStore) -> None:
    here = site(incidents=store, token=b"right-right-right")
    for path in (PATH, f"{PATH}/1"):
        response = await here.ask("GET", path, headers=HOST)
        assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")
        assert response.json["error"].startswith("this shows what callers sent")
        wrong = {**HOST, "Authorization": "Bearer wrong"}
        assert (await here.ask("GET", path, headers=wrong)).status == 401
        right = {"Host": "holdfast.example", "Authorization": "Bearer right-right-right"}
        assert (await here.ask("GET", path, headers=right)).status == 200
    assert here.refused == ["missing", "wrong"] * 2


@pytest.mark.parametrize("settings", [{"host": "0.0.0.0"}, {"admin": False}])
async def test_where_nobody_may_change_anything_nobody_sees_them(
    clock: FakeClock, site: MakeSite, store: IncidentStore, settings: dict[str, object]
) -> None:
    response = await site(incidents=store, **settings).ask("GET", PATH, headers=HOST)
    assert response.status == 404
    assert "those who may change the system" in response.json["error"]


@pytest.mark.parametrize("headers", [{"Host": "evil.example:8000"}, {}, {**HOST, "Origin": "http://evil.example"}])
async def test_no_page_of_somewhere_else_reads_them_without_a_token(
    clock: FakeClock, site: MakeSite, store: IncidentStore, headers: dict[str, str]
) -> None:
    """A browser sends no origin to what it takes for the page's own site, and a name may lead anywhere."""
    assert (await site(incidents=store).ask("GET", PATH, headers=headers)).status == 403


def test_a_query_is_read() -> None:
    assert read_wanted(b"/p") == Wanted(limit=LIMIT_DEFAULT)
    query = b"/p?model=m&version=v1&outcome=degraded&since=12.5&before=7&limit=3"
    assert read_wanted(query) == Wanted("m", "v1", "degraded", 12.5, 7, 3)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("since=soon", "query: since: 'soon' isn't a moment in seconds since 1970"),
        ("since=nan", "query: since: 'nan' isn't a moment"),
        ("limit=0", "query: limit: '0' isn't a whole number from 1 to 1000"),
        ("before=x", "query: before: 'x' isn't a whole number"),
        ("colour=red", "no parameter 'colour', only model, version, outcome, since, before and limit"),
        ("model=a&model=b", "query: model stands there twice"),
        ("model=" + "a" * 1100, "query: it has more than 1024 bytes"),
    ],
)
def test_a_query_that_means_nothing_is_refused_by_its_parameter(query: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        read_wanted(f"/p?{query}".encode())
