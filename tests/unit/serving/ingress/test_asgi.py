"""The app as an ASGI server sees it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from serving.ingress.asgi import AsgiApp, Message
from tests.fakes import FakeClock

if TYPE_CHECKING:
    from tests.unit.serving.ingress.conftest import Site

INFER = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
BODY_MAX = 4096


async def test_a_body_may_come_in_pieces(clock: FakeClock, site: Site) -> None:
    await site.start()
    for size in (1, 7, len(INFER)):
        pieces = [INFER[start : start + size] for start in range(0, len(INFER), size)]
        response = await site.ask("POST", "/v2/models/m/infer", [*pieces, b""])
        assert response.json["outputs"][0]["data"] == [2, 4]
    await site.gateway.close()


async def test_every_answer_says_its_length(clock: FakeClock, site: Site) -> None:
    for method, path in [("GET", "/v2"), ("GET", "/nowhere"), ("POST", "/v2/repository/models/m/load")]:
        response = await site.ask(method, path)
        assert int(response.headers["content-length"]) == len(response.body)


async def test_head_is_get_without_its_body(clock: FakeClock, site: Site) -> None:
    for path in ("/v2", "/v2/health/live", "/metrics", "/nowhere"):
        head, get = await site.ask("HEAD", path), await site.ask("GET", path)
        if path == "/nowhere":
            assert head.status == 404
        assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")
        assert get.body


@pytest.mark.parametrize("pieces", [[bytes(BODY_MAX + 1)], [bytes(BODY_MAX), b"x"], [bytes(3000)] * 50])
async def test_a_body_over_the_bound_is_refused_and_not_read_further(
    clock: FakeClock, site: Site, pieces: list[bytes]
) -> None:
    response = await site.ask("POST", "/v2/models/m/infer", pieces)
    assert (response.status, response.headers["connection"]) == (413, "close")
    assert response.json["error"] == "the body has more than 4096 bytes"


async def test_a_body_of_exactly_the_bound_is_read(clock: FakeClock, site: Site) -> None:
    response = await site.ask("POST", "/v2/repository/index", [b" " * (BODY_MAX - 2), b"{}"])
    assert response.status == 200


async def test_an_endless_body_is_read_no_further_than_the_bound(clock: FakeClock, site: Site) -> None:
    asked = 0

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": bytes(1000), "more_body": True}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await site.app({"type": "http", "method": "POST", "path": "/v2/models/m/infer", "headers": []}, receive, send)
    assert (sent[0]["status"], asked) == (413, 5)


@pytest.mark.parametrize("before", [[], [b"half"]])
async def test_a_client_that_goes_away_in_the_middle_gets_nothing(
    clock: FakeClock, site: Site, before: list[bytes]
) -> None:
    incoming: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in before]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await site.app({"type": "http", "method": "POST", "path": "/v2/models/m/infer", "headers": []}, receive, send)
    assert sent == []


async def test_before_it_has_routes_it_says_that_it_is_starting(clock: FakeClock, site: Site) -> None:
    site.app.routes = None
    response = await site.ask("GET", "/v2/health/live")
    assert (response.status, response.json) == (503, {"error": "the gateway is starting"})


async def test_it_follows_the_servers_life() -> None:
    incoming: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await AsgiApp(body_max_bytes=1)({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


async def test_other_protocols_are_refused() -> None:
    async def never() -> Message:
        raise AssertionError

    async def nowhere(message: Message) -> None:
        raise AssertionError

    with pytest.raises(ValueError, match="websocket"):
        await AsgiApp(body_max_bytes=1)({"type": "websocket"}, never, nowhere)
