"""The endpoints of the live page, asked as a client would ask."""

from __future__ import annotations

import json

import pytest

from serving.errors import InvalidRequest, Overloaded
from serving.ingress.http import HttpRequest, HttpResponse, HttpStream
from serving.live.hub import VIEWERS_MAX, Hub
from serving.live.routes import FIXED, LiveRoutes, read_after
from serving.live.series import SeriesPage
from serving.live.snapshot import Snapshot
from tests.fakes import FakeClock
from tests.snapshots import calm


class Calm:
    last = 5

    async def gather(self) -> Snapshot:
        return calm()

    def with_series(self, snapshot: Snapshot, *, after: int = 0) -> Snapshot:
        return snapshot


@pytest.fixture
def hub(clock: FakeClock) -> Hub:
    return Hub(Calm(), clock=clock)


@pytest.fixture
def routes(hub: Hub) -> LiveRoutes:
    return LiveRoutes(hub, lambda after: SeriesPage(gateway="g1", since=after, until=9))


async def ask(routes: LiveRoutes, path: str, query: bytes = b"") -> HttpResponse | HttpStream:
    target = routes.find(path)
    assert target is not None
    return await routes.answer(HttpRequest("GET", path, {}, b"", path.encode() + query), target)


async def test_the_overview_is_the_snapshot(clock: FakeClock, routes: LiveRoutes) -> None:
    response = await ask(routes, "/v2/holdfast/overview")
    assert isinstance(response, HttpResponse)
    assert json.loads(response.body)["models"][0]["name"] == "digits"


async def test_the_series_is_this_gateways_own(clock: FakeClock, routes: LiveRoutes) -> None:
    response = await ask(routes, "/v2/holdfast/series", b"?after=7")
    assert isinstance(response, HttpResponse)
    assert json.loads(response.body) == {"gateway": "g1", "since": 7, "until": 9, "models": {}}


async def test_live_is_a_stream_of_events_that_nobody_may_keep(clock: FakeClock, hub: Hub, routes: LiveRoutes) -> None:
    response = await ask(routes, "/v2/holdfast/live")
    assert isinstance(response, HttpStream)
    headers = dict(response.headers)
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-store"
    assert await anext(response.chunks) == b"retry: 1000\n\n"
    assert (await anext(response.chunks)).startswith(b"event: snapshot\n")
    assert hub.viewers == 1
    await response.chunks.aclose()
    assert hub.viewers == 0


async def test_there_are_only_so_many_who_may_watch(clock: FakeClock, hub: Hub, routes: LiveRoutes) -> None:
    hub.viewers = VIEWERS_MAX
    with pytest.raises(Overloaded, match=f"{VIEWERS_MAX} are watching already"):
        await ask(routes, "/v2/holdfast/live")
    assert isinstance(await ask(routes, "/v2/holdfast/overview"), HttpResponse)


@pytest.mark.parametrize(
    "query", [b"after=x", b"after=-1", b"after=1.5", b"after=", b"before=1", b"after=" + b"1" * 13, b"x" * 65]
)
async def test_a_query_that_makes_no_sense_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^query: "):
        read_after(b"/v2/holdfast/series?" + query)


@pytest.mark.parametrize("path", ["/v2/holdfast/live/", "/v2/holdfast", "/v2/holdfast/status"])
async def test_nothing_else_is_found_here(clock: FakeClock, routes: LiveRoutes, path: str) -> None:
    assert routes.find(path) is None
    assert set(routes.endpoints) == {target.endpoint for target in FIXED.values()}
